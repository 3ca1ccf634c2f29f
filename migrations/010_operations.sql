-- What operators decide: settings and policies, waivers, orders, learned rules, and the catalogue of runbooks.

-- Settings at four levels; the platform's are partner 'platform', level 'platform'. A target is the id of what the level names.
CREATE TABLE IF NOT EXISTS settings (
    partner_id text NOT NULL REFERENCES partners (id) ON DELETE RESTRICT,
    level text NOT NULL CONSTRAINT settings_level_known CHECK (level IN ('platform', 'partner', 'site', 'appliance')),
    target_id text NOT NULL CHECK (target_id ~ '^[0-9a-z-]{1,64}$'),
    name text NOT NULL CHECK (name ~ '^[a-z0-9_.]{1,128}$'),
    value jsonb NOT NULL,
    revision bigint NOT NULL DEFAULT 1,
    updated_by text NOT NULL CHECK (length(updated_by) <= 300),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (partner_id, level, target_id, name),
    CONSTRAINT settings_platform_is_its_own CHECK ((partner_id = 'platform') = (level = 'platform'))
);
CALL cc_secure_partner_table('settings');

CREATE TABLE IF NOT EXISTS policies (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    appliance_id text NOT NULL,
    version bigint NOT NULL,           -- its issue time, ms since 1970
    envelope bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (site_id, appliance_id, version),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE CASCADE,
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliances (site_id, id) ON DELETE CASCADE
);
CALL cc_secure_site_table('policies');

CREATE TABLE IF NOT EXISTS waivers (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    id text NOT NULL CHECK (id ~ '^[0-9a-z-]{1,64}$'),
    check_id text NOT NULL CHECK (check_id ~ '^[0-9a-z_.-]{1,64}$'),
    host_id text CHECK (length(host_id) BETWEEN 1 AND 255),      -- null: every host of the site
    reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 2000),
    created_by text NOT NULL CHECK (length(created_by) <= 300),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    revision bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (site_id, id),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE RESTRICT
);
CREATE INDEX IF NOT EXISTS idx_waivers_partner ON waivers (partner_id, created_at DESC, id DESC);
CALL cc_secure_site_table('waivers');

-- The packaged catalogue, the same for everybody.
CREATE TABLE IF NOT EXISTS runbooks (
    id text PRIMARY KEY CHECK (id ~ '^[0-9a-z_.-]{1,64}$'),
    digest text NOT NULL CHECK (digest ~ '^[0-9a-f]{64}$'),
    title text NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
    risk text NOT NULL CONSTRAINT runbooks_risk_known CHECK (risk IN ('low', 'medium', 'high')),
    updated_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON runbooks TO cc_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON runbooks TO cc_platform;

CREATE TABLE IF NOT EXISTS orders (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    appliance_id text NOT NULL,
    id text NOT NULL CHECK (id ~ '^[0-9a-z-]{1,64}$'),
    runbook_id text NOT NULL CHECK (runbook_id ~ '^[0-9a-z_.-]{1,64}$'),
    parameters jsonb NOT NULL DEFAULT '{}',
    status text NOT NULL DEFAULT 'pending' CONSTRAINT orders_status_known CHECK (status IN (
        'pending', 'acknowledged', 'running', 'succeeded', 'failed', 'expired', 'cancelled', 'rejected')),
    envelope bytea,                    -- null until released
    created_by text NOT NULL CHECK (length(created_by) <= 300),
    approved_by text CHECK (length(approved_by) <= 300),
    created_at timestamptz NOT NULL DEFAULT now(),
    issued_at timestamptz,
    expires_at timestamptz NOT NULL,
    acknowledged_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    result jsonb,
    PRIMARY KEY (site_id, id),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE RESTRICT,
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliances (site_id, id) ON DELETE RESTRICT
);
CREATE INDEX IF NOT EXISTS idx_orders_pending ON orders (appliance_id, status) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS idx_orders_partner ON orders (partner_id, created_at DESC, id DESC);
CALL cc_secure_site_table('orders');

CREATE TABLE IF NOT EXISTS rules (
    partner_id text NOT NULL REFERENCES partners (id) ON DELETE RESTRICT,
    id text NOT NULL CHECK (id ~ '^[0-9a-z-]{1,64}$'),
    pattern_signature text NOT NULL CHECK (pattern_signature ~ '^[0-9a-f]{16}$'),
    runbook_id text NOT NULL CHECK (runbook_id ~ '^[0-9a-z_.-]{1,64}$'),
    conditions jsonb NOT NULL,
    status text NOT NULL CONSTRAINT rules_status_known
        CHECK (status IN ('candidate', 'rejected', 'canary', 'active', 'demoted')),
    comment text CHECK (length(comment) <= 2000),
    decided_by text CHECK (length(decided_by) <= 300),
    created_at timestamptz NOT NULL DEFAULT now(),
    decided_at timestamptz,
    revision bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (partner_id, id)
);
CREATE INDEX IF NOT EXISTS idx_rules_partner ON rules (partner_id, created_at DESC, id DESC);
CALL cc_secure_partner_table('rules');

CREATE TABLE IF NOT EXISTS notification_channels (
    partner_id text NOT NULL REFERENCES partners (id) ON DELETE RESTRICT,
    id text NOT NULL CHECK (id ~ '^[0-9a-z-]{1,64}$'),
    kind text NOT NULL CONSTRAINT notification_channels_kind_known
        CHECK (kind IN ('email', 'webhook', 'slack', 'pagerduty')),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    target_sealed bytea NOT NULL,      -- addresses and secrets, by the server's key file
    min_severity text NOT NULL CONSTRAINT notification_channels_min_severity_known
        CHECK (min_severity IN ('low', 'medium', 'high', 'critical')),
    created_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz,
    revision bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (partner_id, id)
);
CALL cc_secure_partner_table('notification_channels');

-- The outbox: written with what it tells of, sent by a sweep.
CREATE TABLE IF NOT EXISTS notifications (
    partner_id text NOT NULL,
    id text NOT NULL CHECK (id ~ '^[0-9a-z-]{1,64}$'),
    channel_id text NOT NULL,
    dedupe_key text NOT NULL CHECK (length(dedupe_key) BETWEEN 1 AND 300),
    body jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    next_try_at timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    delivered_at timestamptz,
    last_error text CHECK (length(last_error) <= 2000),
    PRIMARY KEY (partner_id, id),
    UNIQUE (partner_id, channel_id, dedupe_key),
    FOREIGN KEY (partner_id, channel_id) REFERENCES notification_channels (partner_id, id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS idx_notifications_due ON notifications (next_try_at) WHERE delivered_at IS NULL;
CALL cc_secure_partner_table('notifications');

-- What a create answered, so that the same Idempotency-Key gets the same answer for a day.
CREATE TABLE IF NOT EXISTS idempotency_keys (
    partner_id text NOT NULL REFERENCES partners (id) ON DELETE RESTRICT,
    key_hash text NOT NULL CHECK (key_hash ~ '^[0-9a-f]{64}$'),
    request_hash text NOT NULL CHECK (request_hash ~ '^[0-9a-f]{64}$'),
    status integer NOT NULL,
    answer bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (partner_id, key_hash)
);
CREATE INDEX IF NOT EXISTS idx_idempotency_keys_created ON idempotency_keys (created_at);
CALL cc_secure_partner_table('idempotency_keys');
