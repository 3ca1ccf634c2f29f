-- People and their sessions. Passwords are argon2id hashes; a session is known by the SHA-256 of its cookie.

CREATE TABLE IF NOT EXISTS users (
    partner_id text NOT NULL REFERENCES partners (id) ON DELETE RESTRICT,
    id text NOT NULL CHECK (id ~ '^[0-9a-z-]{1,64}$'),
    login text NOT NULL CHECK (login = lower(login) AND length(login) BETWEEN 1 AND 200),
    role text NOT NULL CONSTRAINT users_role_known
        CHECK (role IN ('platform_admin', 'owner', 'technician', 'viewer', 'auditor')),
    password_hash text NOT NULL CHECK (length(password_hash) BETWEEN 1 AND 400),
    created_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz,
    PRIMARY KEY (partner_id, id),
    UNIQUE (login),
    CONSTRAINT users_platform_is_for_its_admins CHECK ((partner_id = 'platform') = (role = 'platform_admin'))
);
CALL cc_secure_partner_table('users');
CALL cc_show_to_credential('users', 'login', 'partner_id, id, login, role, password_hash, disabled_at');

CREATE TABLE IF NOT EXISTS sessions (
    partner_id text NOT NULL,
    token_hash text NOT NULL CHECK (token_hash ~ '^[0-9a-f]{64}$'),
    user_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (partner_id, token_hash),
    UNIQUE (token_hash),
    FOREIGN KEY (partner_id, user_id) REFERENCES users (partner_id, id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS idx_sessions_user ON sessions (partner_id, user_id);
CALL cc_secure_partner_table('sessions');
CALL cc_show_to_credential('sessions', 'token_hash', 'partner_id, user_id, token_hash, expires_at');
