-- What the operators' API lists and edits next: names that people give to appliances, labels of codes, and indexes in
-- list order, tenant first, for orders, waivers, patterns and the audit log.

-- A name that a person gave; `hostname` is what the appliance says at each check-in.
ALTER TABLE appliances ADD COLUMN IF NOT EXISTS name text CHECK (length(name) BETWEEN 1 AND 200);
ALTER TABLE appliances ADD COLUMN IF NOT EXISTS revision bigint NOT NULL DEFAULT 1;

-- The name that the appliance gets which a code enrols.
ALTER TABLE enrollment_codes ADD COLUMN IF NOT EXISTS label text CHECK (length(label) BETWEEN 1 AND 200);

ALTER TABLE orders ADD COLUMN IF NOT EXISTS cancelled_by text CHECK (length(cancelled_by) <= 300);
CREATE INDEX IF NOT EXISTS idx_orders_of_site ON orders (site_id, created_at DESC, id DESC);

CREATE INDEX IF NOT EXISTS idx_pattern_stats_partner ON pattern_stats (partner_id, pattern_signature);

CREATE INDEX IF NOT EXISTS idx_audit_log_actor ON audit_log (partner_id, actor, seq DESC);
CREATE INDEX IF NOT EXISTS idx_audit_log_target ON audit_log (partner_id, target, seq DESC);
