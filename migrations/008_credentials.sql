-- Second factors, lock-out, invitations and resets, auditors' sites, API keys. What must be read back (TOTP seeds) is
-- sealed by the server's key file; everything else that proves an identity is a hash.

ALTER TABLE users ADD COLUMN IF NOT EXISTS totp_sealed bytea;
ALTER TABLE users ADD COLUMN IF NOT EXISTS totp_confirmed_at timestamptz;
ALTER TABLE users ADD COLUMN IF NOT EXISTS totp_last_step bigint;           -- a code is good once
ALTER TABLE users ADD COLUMN IF NOT EXISTS failed_count integer NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN IF NOT EXISTS locked_until timestamptz;
ALTER TABLE users ADD COLUMN IF NOT EXISTS revision bigint NOT NULL DEFAULT 1;
ALTER TABLE users ALTER COLUMN password_hash DROP NOT NULL;                   -- invited, no password chosen yet
CALL cc_show_to_credential(
    'users', 'login',
    'partner_id, id, login, role, password_hash, disabled_at, totp_sealed, totp_confirmed_at, totp_last_step, failed_count, locked_until');

-- Newest first; a session is as good as its last use and its second factor.
ALTER TABLE sessions ADD COLUMN IF NOT EXISTS id text CHECK (id ~ '^[0-9a-z-]{1,64}$');
ALTER TABLE sessions ADD COLUMN IF NOT EXISTS second_factor boolean NOT NULL DEFAULT false;
ALTER TABLE sessions ADD COLUMN IF NOT EXISTS user_agent text CHECK (length(user_agent) <= 400);
CALL cc_show_to_credential('sessions', 'token_hash', 'partner_id, user_id, token_hash, expires_at, second_factor');

CREATE TABLE IF NOT EXISTS recovery_codes (
    partner_id text NOT NULL,
    user_id text NOT NULL,
    code_hash text NOT NULL CHECK (code_hash ~ '^[0-9a-f]{64}$'),
    used_at timestamptz,
    PRIMARY KEY (partner_id, user_id, code_hash),
    FOREIGN KEY (partner_id, user_id) REFERENCES users (partner_id, id) ON DELETE CASCADE
);
CALL cc_secure_partner_table('recovery_codes');

-- A one-time link by which an invited person, or one who lost a credential, chooses a password.
CREATE TABLE IF NOT EXISTS invitations (
    partner_id text NOT NULL,
    token_hash text NOT NULL CHECK (token_hash ~ '^[0-9a-f]{64}$'),
    user_id text NOT NULL,
    purpose text NOT NULL CONSTRAINT invitations_purpose_known CHECK (purpose IN ('invitation', 'reset')),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    PRIMARY KEY (partner_id, token_hash),
    UNIQUE (token_hash),
    FOREIGN KEY (partner_id, user_id) REFERENCES users (partner_id, id) ON DELETE CASCADE
);
CALL cc_secure_partner_table('invitations');
CALL cc_show_to_credential('invitations', 'token_hash', 'partner_id, user_id, token_hash, purpose, expires_at, used_at');

-- The sites an auditor may read.
CREATE TABLE IF NOT EXISTS user_sites (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    user_id text NOT NULL,
    PRIMARY KEY (site_id, user_id),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE CASCADE,
    FOREIGN KEY (partner_id, user_id) REFERENCES users (partner_id, id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS idx_user_sites_user ON user_sites (partner_id, user_id);
CALL cc_secure_site_table('user_sites');
CALL cc_hide_from_appliances('user_sites');

CREATE TABLE IF NOT EXISTS api_keys (
    partner_id text NOT NULL REFERENCES partners (id) ON DELETE RESTRICT,
    id text NOT NULL CHECK (id ~ '^[0-9a-z-]{1,64}$'),
    key_hash text NOT NULL CHECK (key_hash ~ '^[0-9a-f]{64}$'),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    role text NOT NULL CONSTRAINT api_keys_role_known
        CHECK (role IN ('platform_admin', 'owner', 'technician', 'viewer', 'auditor')),
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    last_used_at timestamptz,
    revoked_at timestamptz,
    PRIMARY KEY (partner_id, id),
    UNIQUE (key_hash),
    CONSTRAINT api_keys_platform_is_for_its_admins CHECK ((partner_id = 'platform') = (role = 'platform_admin')),
    CONSTRAINT api_keys_are_of_a_whole_partner CHECK (role <> 'auditor')
);
CALL cc_secure_partner_table('api_keys');
CALL cc_show_to_credential('api_keys', 'key_hash', 'partner_id, id, key_hash, role, expires_at, revoked_at');
