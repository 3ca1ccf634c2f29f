-- What the sweeps keep: when each ran, which appliances are silent, and how far a log's payloads were let go.

-- One row a sweep, shared by all processes of the server: whoever sets `begun_at` runs it this time.
CREATE TABLE IF NOT EXISTS sweeps (
    name text PRIMARY KEY CHECK (name ~ '^[a-z_]{1,64}$'),
    begun_at timestamptz NOT NULL DEFAULT now(),
    done_at timestamptz,               -- the last run that came to its end without an error
    row_count bigint NOT NULL DEFAULT 0,
    failure_count bigint NOT NULL DEFAULT 0,
    last_error text CHECK (length(last_error) <= 300)
);
REVOKE ALL ON sweeps FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE ON sweeps TO cc_platform;

-- Since when check-ins arrive and no receipt is given. No index: the row is rewritten at every check-in.
ALTER TABLE appliances ADD COLUMN IF NOT EXISTS silent_since timestamptz;

-- Payloads of the places below it were let go by retention.
ALTER TABLE evidence_logs ADD COLUMN IF NOT EXISTS pruned_size bigint NOT NULL DEFAULT 0
    CHECK (pruned_size >= 0 AND pruned_size <= size);

-- A log's size, once stored, only grows, and so does what was let go of it; its name and key do not change.
CREATE OR REPLACE FUNCTION cc_logs_only_grow() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF NEW.size < OLD.size OR NEW.pruned_size < OLD.pruned_size
        OR (NEW.origin, NEW.public_key, NEW.id) IS DISTINCT FROM (OLD.origin, OLD.public_key, OLD.id)
    THEN
        RAISE EXCEPTION 'a log only grows' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$function$;

-- What was hashed is never changed, with two exceptions: a withheld payload takes its place (013), and a payload that
-- arrived more than six years ago may go, as `pruned`, with what was derived from its content. Its place, leaf, id and
-- kind stay, so that every root can be computed for ever. Six years stand here and not in the configuration, so that
-- no setting and no mistake of the server can let go of anything younger.
CREATE OR REPLACE FUNCTION cc_refuse_change_of_evidence() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF TG_OP = 'DELETE' OR TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION 'evidence is never deleted' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF TG_TABLE_NAME = 'evidence_bundles' THEN
        IF (NEW.site_id, NEW.partner_id, NEW.appliance_id, NEW.log_id, NEW.seq, NEW.id, NEW.bundle_hash)
            IS DISTINCT FROM
           (OLD.site_id, OLD.partner_id, OLD.appliance_id, OLD.log_id, OLD.seq, OLD.id, OLD.bundle_hash)
        THEN
            RAISE EXCEPTION 'what was hashed is never changed' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        IF OLD.payload IS NULL AND OLD.missing_reason = 'withheld'
            AND NEW.payload IS NOT NULL AND NEW.missing_reason IS NULL
            AND sha256('\x00'::bytea || NEW.payload) = OLD.bundle_hash
        THEN
            RETURN NEW;
        END IF;
        IF OLD.payload IS NOT NULL AND NEW.payload IS NULL AND NEW.missing_reason = 'pruned'
            AND OLD.received_at < now() - interval '6 years'
            AND coalesce(OLD.bundle_type, '') NOT IN ('genesis', 'key_rotation', 'redaction')
            AND (NEW.bundle_id, NEW.bundle_type, NEW.carried_hash, NEW.clock, NEW.generated_at, NEW.received_at)
                IS NOT DISTINCT FROM
                (OLD.bundle_id, OLD.bundle_type, OLD.carried_hash, OLD.clock, OLD.generated_at, OLD.received_at)
            AND (NEW.host_id, NEW.check_id, NEW.hipaa_controls) IS NOT DISTINCT FROM (NULL::text, NULL::text, NULL::jsonb)
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'what was hashed is never changed' USING ERRCODE = 'integrity_constraint_violation';
END
$function$;
