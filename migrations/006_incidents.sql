-- Incidents as their appliances report them, and each appliance's own totals per pattern.

CREATE TABLE IF NOT EXISTS incidents (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    appliance_id text NOT NULL,
    id text NOT NULL CHECK (id ~ '^[0-9a-z-]{1,64}$'),
    host_id text NOT NULL CHECK (length(host_id) BETWEEN 1 AND 255),
    incident_type text NOT NULL CHECK (incident_type ~ '^[0-9a-z_.-]{1,64}$'),
    severity text NOT NULL CONSTRAINT incidents_severity_known CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    raw_data jsonb NOT NULL,
    pattern_signature text NOT NULL CHECK (pattern_signature ~ '^[0-9a-f]{16}$'),
    occurrences bigint NOT NULL CHECK (occurrences >= 1),
    created_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    escalated_at timestamptz,
    resolved_at timestamptz,
    resolution_level text CONSTRAINT incidents_resolution_level_known CHECK (resolution_level IN ('L1', 'L2', 'L3')),
    resolution_action text CHECK (length(resolution_action) <= 4000),
    outcome text CONSTRAINT incidents_outcome_known
        CHECK (outcome IN ('success', 'failed', 'partial', 'escalated', 'timeout', 'recovered')),
    resolution_time_ms bigint CHECK (resolution_time_ms >= 0),
    epoch_number bigint NOT NULL,
    revision bigint NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (site_id, id),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE RESTRICT,
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliances (site_id, id) ON DELETE RESTRICT
);
CREATE INDEX IF NOT EXISTS idx_incidents_site ON incidents (site_id, created_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS idx_incidents_partner ON incidents (partner_id, created_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS idx_incidents_open ON incidents (partner_id, created_at DESC, id DESC) WHERE resolved_at IS NULL;
CREATE INDEX IF NOT EXISTS idx_incidents_pattern ON incidents (site_id, pattern_signature);
CALL cc_secure_site_table('incidents');

CREATE TABLE IF NOT EXISTS pattern_stats (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    appliance_id text NOT NULL,
    pattern_signature text NOT NULL CHECK (pattern_signature ~ '^[0-9a-f]{16}$'),
    incident_type text NOT NULL CHECK (incident_type ~ '^[0-9a-z_.-]{1,64}$'),
    total_count bigint NOT NULL CHECK (total_count >= 0),
    l1_count bigint NOT NULL CHECK (l1_count >= 0),
    l2_count bigint NOT NULL CHECK (l2_count >= 0),
    l3_count bigint NOT NULL CHECK (l3_count >= 0),
    success_count bigint NOT NULL CHECK (success_count >= 0),
    total_resolution_time_ms bigint NOT NULL CHECK (total_resolution_time_ms >= 0),
    epoch_number bigint NOT NULL,
    revision bigint NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (site_id, appliance_id, pattern_signature),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE CASCADE,
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliances (site_id, id) ON DELETE CASCADE
);
CALL cc_secure_site_table('pattern_stats');
