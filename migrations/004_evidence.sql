-- Evidence logs as the server witnesses them. What carries evidence is never deleted with its site (RESTRICT), and what
-- was hashed is never changed: a trigger says so to every role.

CREATE TABLE IF NOT EXISTS evidence_logs (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    appliance_id text NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    epoch text NOT NULL CHECK (epoch ~ '^(0|[1-9][0-9]{0,9})-[0-9a-f]{8}$'),
    origin text NOT NULL CHECK (length(origin) <= 300),
    public_key bytea NOT NULL CHECK (length(public_key) = 32),
    opened_at timestamptz NOT NULL DEFAULT now(),
    size bigint NOT NULL DEFAULT 0 CHECK (size >= 0),
    last_leaf bytea CHECK (length(last_leaf) = 32),
    compact_range bytea NOT NULL DEFAULT '' CHECK (length(compact_range) % 32 = 0),
    -- the newest checkpoint that the appliance signed, and when and by which key it was cosigned; a receipt is made again
    -- from these three, byte for byte. While held_size > size nothing is cosigned: the appliance proved that we once held more.
    checkpoint text CHECK (length(checkpoint) <= 1000),
    cosigned_at bigint CHECK (cosigned_at >= 0),
    witness_name text CHECK (length(witness_name) <= 255),
    held_size bigint CHECK (held_size >= 0),
    held_root bytea CHECK (length(held_root) = 32),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (site_id, appliance_id, epoch),
    UNIQUE (site_id, id),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE RESTRICT,
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliances (site_id, id) ON DELETE RESTRICT,
    CHECK ((cosigned_at IS NULL) = (witness_name IS NULL))
);
CALL cc_secure_site_table('evidence_logs');

-- No foreign key: the locked row of evidence_logs proves that the log is there.
CREATE TABLE IF NOT EXISTS evidence_bundles (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    appliance_id text NOT NULL,
    log_id bigint NOT NULL,
    seq bigint NOT NULL CHECK (seq >= 0),
    id bigint GENERATED ALWAYS AS IDENTITY,
    bundle_id text CHECK (bundle_id ~ '^[0-9a-f]{32}$'),
    bundle_type text CHECK (bundle_type ~ '^[a-z_]{1,32}$'),
    bundle_hash bytea NOT NULL CHECK (length(bundle_hash) = 32),
    payload bytea,
    missing_reason text CONSTRAINT evidence_bundles_missing_reason_known
        CHECK (missing_reason IN ('withheld', 'pruned', 'erased', 'lost')),
    flag text CHECK (length(flag) <= 200),
    host_id text CHECK (length(host_id) <= 255),
    check_id text CHECK (length(check_id) <= 64),
    hipaa_controls jsonb,
    clock text CONSTRAINT evidence_bundles_clock_known CHECK (clock IN ('sync', 'unsync', 'stepped')),
    generated_at timestamptz,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (site_id, log_id, seq),
    CHECK ((payload IS NULL) = (missing_reason IS NOT NULL))
) WITH (toast_tuple_target = 8160);
CREATE INDEX IF NOT EXISTS idx_evidence_bundles_newest ON evidence_bundles (site_id, id DESC);
CALL cc_secure_site_table('evidence_bundles');
DO $block$
BEGIN
    ALTER TABLE evidence_bundles ALTER COLUMN payload SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported OR invalid_parameter_value THEN
    NULL;  -- this build has none; toast_tuple_target keeps most payloads in the row, uncompressed
END
$block$;

CREATE TABLE IF NOT EXISTS equivocations (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    appliance_id text NOT NULL,
    log_id bigint NOT NULL,
    seq bigint NOT NULL,
    leaf bytea NOT NULL CHECK (length(leaf) = 32),
    payload bytea,
    checkpoint text NOT NULL CHECK (length(checkpoint) <= 1000),
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (site_id, log_id, seq, leaf),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE RESTRICT,
    FOREIGN KEY (site_id, log_id) REFERENCES evidence_logs (site_id, id) ON DELETE RESTRICT
);
CALL cc_secure_site_table('equivocations');

CREATE OR REPLACE FUNCTION cc_refuse_change_of_evidence() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF TG_OP = 'DELETE' OR TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION 'evidence is never deleted' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RAISE EXCEPTION 'what was hashed is never changed' USING ERRCODE = 'integrity_constraint_violation';
END
$function$;

DROP TRIGGER IF EXISTS evidence_stays ON evidence_bundles;
CREATE TRIGGER evidence_stays BEFORE UPDATE OR DELETE ON evidence_bundles
    FOR EACH ROW EXECUTE FUNCTION cc_refuse_change_of_evidence();
DROP TRIGGER IF EXISTS evidence_is_not_emptied ON evidence_bundles;
CREATE TRIGGER evidence_is_not_emptied BEFORE TRUNCATE ON evidence_bundles
    FOR EACH STATEMENT EXECUTE FUNCTION cc_refuse_change_of_evidence();
DROP TRIGGER IF EXISTS logs_stay ON evidence_logs;
CREATE TRIGGER logs_stay BEFORE DELETE ON evidence_logs
    FOR EACH ROW EXECUTE FUNCTION cc_refuse_change_of_evidence();
DROP TRIGGER IF EXISTS equivocations_stay ON equivocations;
CREATE TRIGGER equivocations_stay BEFORE UPDATE OR DELETE ON equivocations
    FOR EACH ROW EXECUTE FUNCTION cc_refuse_change_of_evidence();

-- A log's size, once stored, only grows; its name and key do not change.
CREATE OR REPLACE FUNCTION cc_logs_only_grow() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF NEW.size < OLD.size OR (NEW.origin, NEW.public_key, NEW.id) IS DISTINCT FROM (OLD.origin, OLD.public_key, OLD.id) THEN
        RAISE EXCEPTION 'a log only grows' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$function$;
DROP TRIGGER IF EXISTS logs_only_grow ON evidence_logs;
CREATE TRIGGER logs_only_grow BEFORE UPDATE ON evidence_logs
    FOR EACH ROW EXECUTE FUNCTION cc_logs_only_grow();
