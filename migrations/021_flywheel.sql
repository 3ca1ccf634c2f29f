-- What repairs taught: totals per pattern and runbook, how learned rules fare, and why a rule was proposed.

-- Each appliance's own totals, the latest replace. `due`: a sweep has still to see whether a rule comes of them.
CREATE TABLE IF NOT EXISTS pattern_runbooks (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    appliance_id text NOT NULL,
    pattern_signature text NOT NULL CHECK (pattern_signature ~ '^[0-9a-f]{16}$'),
    runbook_id text NOT NULL CHECK (runbook_id ~ '^[0-9a-z_.-]{1,64}$'),
    incident_type text NOT NULL CHECK (incident_type ~ '^[0-9a-z_.-]{1,64}$'),
    total_count bigint NOT NULL CHECK (total_count >= 0),
    success_count bigint NOT NULL CHECK (success_count BETWEEN 0 AND total_count),
    total_resolution_time_ms bigint NOT NULL CHECK (total_resolution_time_ms >= 0),
    order_count bigint NOT NULL CHECK (order_count >= 0),
    order_success_count bigint NOT NULL CHECK (order_success_count BETWEEN 0 AND order_count),
    epoch_number bigint NOT NULL,
    revision bigint NOT NULL,
    due boolean NOT NULL DEFAULT true,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (site_id, appliance_id, pattern_signature, runbook_id),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE CASCADE,
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliances (site_id, id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS idx_pattern_runbooks_partner ON pattern_runbooks (partner_id, pattern_signature, runbook_id);
CREATE INDEX IF NOT EXISTS idx_pattern_runbooks_due ON pattern_runbooks (partner_id, pattern_signature, runbook_id) WHERE due;
CALL cc_secure_site_table('pattern_runbooks');

-- How a rule of the partner's fares on each appliance, as it counts itself.
CREATE TABLE IF NOT EXISTS rule_trials (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    appliance_id text NOT NULL,
    rule_id text NOT NULL CHECK (rule_id ~ '^[0-9a-z-]{1,64}$'),
    total_count bigint NOT NULL CHECK (total_count >= 0),
    success_count bigint NOT NULL CHECK (success_count BETWEEN 0 AND total_count),
    base_count bigint NOT NULL DEFAULT 0,      -- as they stood when the rule was approved: it is counted from then on
    base_successes bigint NOT NULL DEFAULT 0,
    epoch_number bigint NOT NULL,
    revision bigint NOT NULL,
    due boolean NOT NULL DEFAULT true,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (site_id, appliance_id, rule_id),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE CASCADE,
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliances (site_id, id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS idx_rule_trials_partner ON rule_trials (partner_id, rule_id);
CREATE INDEX IF NOT EXISTS idx_rule_trials_due ON rule_trials (partner_id, rule_id) WHERE due;
CALL cc_secure_site_table('rule_trials');

-- The numbers that a rule was proposed, or last seen, with; and the site of the appliance that it is tried on.
ALTER TABLE rules ADD COLUMN IF NOT EXISTS evidence jsonb;
ALTER TABLE rules ADD COLUMN IF NOT EXISTS canary_site_id text CHECK (canary_site_id ~ '^[0-9a-z-]{1,64}$');

CREATE INDEX IF NOT EXISTS idx_incidents_pattern_of_partner ON incidents (partner_id, pattern_signature, created_at DESC);
