-- What one appliance may store, and how a database that was put back from a backup is told from one that was not.

-- One row. `mark` moves while receipts are given, and a file beside the key file follows it: a mark behind the file's
-- says that this database was restored. Then a new generation begins.
CREATE TABLE IF NOT EXISTS witness_marks (
    id integer PRIMARY KEY CHECK (id = 1),
    mark bigint NOT NULL CHECK (mark >= 0),
    generation bigint NOT NULL CHECK (generation >= 0)
);
INSERT INTO witness_marks (id, mark, generation) VALUES (1, 0, 0) ON CONFLICT (id) DO NOTHING;
GRANT SELECT, UPDATE ON witness_marks TO cc_server;
GRANT SELECT ON witness_marks TO cc_platform;

-- In which generation the log's appliance last showed its newest receipt: after a restore the log may have been longer.
ALTER TABLE evidence_logs ADD COLUMN IF NOT EXISTS generation bigint NOT NULL DEFAULT 0 CHECK (generation >= 0);

-- A bucket for each appliance that empties as time goes by: what it stored lately, in bytes, as of `counted_at`.
CREATE TABLE IF NOT EXISTS appliance_quotas (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    appliance_id text NOT NULL,
    spent_bytes bigint NOT NULL CHECK (spent_bytes >= 0),
    counted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (site_id, appliance_id),
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliances (site_id, id) ON DELETE CASCADE,
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE CASCADE
);
CALL cc_secure_site_table('appliance_quotas');
