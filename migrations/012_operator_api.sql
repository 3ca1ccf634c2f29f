-- What the operators' API lists and edits: a revision for each site, codes that can be named and revoked, and an index in
-- list order, tenant first, for each list.

ALTER TABLE sites ADD COLUMN IF NOT EXISTS revision bigint NOT NULL DEFAULT 1;
CREATE INDEX IF NOT EXISTS idx_sites_newest ON sites (partner_id, created_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS idx_partners_newest ON partners (created_at DESC, id DESC);

CREATE INDEX IF NOT EXISTS idx_appliances_newest ON appliances (partner_id, enrolled_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS idx_appliances_of_site ON appliances (site_id, enrolled_at DESC, id DESC);

-- A code is named by half of its secret's hash, which is no way back to the secret and says nothing to /enroll.
ALTER TABLE enrollment_codes ADD COLUMN IF NOT EXISTS id text GENERATED ALWAYS AS (left(secret_hash, 32)) STORED;
ALTER TABLE enrollment_codes ADD COLUMN IF NOT EXISTS created_by text CHECK (length(created_by) <= 300);
ALTER TABLE enrollment_codes ADD COLUMN IF NOT EXISTS revoked_at timestamptz;
CREATE UNIQUE INDEX IF NOT EXISTS idx_enrollment_codes_id ON enrollment_codes (site_id, id);
CREATE INDEX IF NOT EXISTS idx_enrollment_codes_newest ON enrollment_codes (site_id, created_at DESC, id DESC);

CREATE INDEX IF NOT EXISTS idx_waivers_of_site ON waivers (site_id, created_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS idx_incident_comments_newest
    ON incident_comments (site_id, incident_id, created_at DESC, id DESC);
