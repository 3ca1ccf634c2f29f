-- What the newest receipted check runs say, kept up as evidence arrives, and a site's snapshots over time.

CREATE TABLE IF NOT EXISTS check_states (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    appliance_id text NOT NULL,
    host_id text NOT NULL CHECK (length(host_id) BETWEEN 1 AND 255),
    check_id text NOT NULL CHECK (check_id ~ '^[0-9a-z_.-]{1,64}$'),
    status text NOT NULL CONSTRAINT check_states_status_known CHECK (status IN ('pass', 'fail', 'unknown')),
    severity text NOT NULL CONSTRAINT check_states_severity_known CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    reason text NOT NULL CHECK (length(reason) <= 4000),
    since timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,      -- as fresh as its newest check run is known to be
    epoch_number bigint NOT NULL,
    seq bigint NOT NULL,               -- (epoch_number, seq) orders runs; clocks may lie
    PRIMARY KEY (site_id, appliance_id, host_id, check_id),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE CASCADE,
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliances (site_id, id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS idx_check_states_partner ON check_states (partner_id, site_id);
CALL cc_secure_site_table('check_states');

CREATE TABLE IF NOT EXISTS compliance_snapshots (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    snapshot_at timestamptz NOT NULL DEFAULT now(),
    flake_hash text CHECK (length(flake_hash) <= 128),
    patching_status boolean,
    antivirus_status boolean,
    backup_status boolean,
    logging_status boolean,
    firewall_status boolean,
    encryption_status boolean,
    PRIMARY KEY (site_id, id),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE RESTRICT
);
CREATE INDEX IF NOT EXISTS idx_compliance_snapshots_newest ON compliance_snapshots (site_id, snapshot_at DESC, id DESC);
CALL cc_secure_site_table('compliance_snapshots');
