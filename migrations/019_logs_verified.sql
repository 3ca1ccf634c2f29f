-- How far the server verified each log against its receipt by itself, and what it found.

-- A table of its own, so that verifying never holds the row that appending locks. A pass runs from the first entry to
-- the receipt, in chunks; `done_at` is when the last one ended, `fault` what it found, kept until a pass finds nothing.
CREATE TABLE IF NOT EXISTS log_verifications (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    log_id bigint NOT NULL,
    size bigint NOT NULL CHECK (size >= 0),
    compact_range bytea NOT NULL CHECK (length(compact_range) % 32 = 0),
    done_at timestamptz,
    fault text CHECK (length(fault) <= 300),
    PRIMARY KEY (site_id, log_id),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE RESTRICT,
    FOREIGN KEY (site_id, log_id) REFERENCES evidence_logs (site_id, id) ON DELETE RESTRICT
);
CALL cc_secure_site_table('log_verifications');
