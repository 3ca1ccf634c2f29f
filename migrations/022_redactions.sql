-- Redaction: one person asks that a payload be erased, another one approves, and only then the database lets it go.

CREATE TABLE IF NOT EXISTS redactions (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    id text NOT NULL CHECK (id ~ '^[0-9a-z-]{1,64}$'),
    log_id bigint NOT NULL,
    seq bigint NOT NULL CHECK (seq >= 0),
    leaf bytea NOT NULL CHECK (length(leaf) = 32),
    reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 300),   -- why, and nothing of what is erased
    requested_by text NOT NULL CHECK (length(requested_by) <= 300),
    requested_at timestamptz NOT NULL DEFAULT now(),
    approved_by text CHECK (length(approved_by) <= 300),
    approved_at timestamptz,
    -- Here the appliance's own erasing is noted once an order of its own type did it: until then its payload is still there.
    appliance_erased_at timestamptz,
    PRIMARY KEY (site_id, id),
    UNIQUE (site_id, log_id, seq),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE RESTRICT,
    FOREIGN KEY (site_id, log_id) REFERENCES evidence_logs (site_id, id) ON DELETE RESTRICT,
    CHECK ((approved_by IS NULL) = (approved_at IS NULL)),
    CONSTRAINT redactions_take_two_persons CHECK (approved_by <> requested_by)
);
CALL cc_secure_site_table('redactions');
CALL cc_hide_from_appliances('redactions');

-- A request says for ever what it asked for, and an approval is not taken back: what it let go is gone.
CREATE OR REPLACE FUNCTION cc_redactions_stay() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF TG_OP = 'UPDATE'
        AND (NEW.site_id, NEW.partner_id, NEW.id, NEW.log_id, NEW.seq, NEW.leaf, NEW.reason, NEW.requested_by, NEW.requested_at)
            IS NOT DISTINCT FROM
            (OLD.site_id, OLD.partner_id, OLD.id, OLD.log_id, OLD.seq, OLD.leaf, OLD.reason, OLD.requested_by, OLD.requested_at)
        AND (OLD.approved_by IS NULL OR NEW.approved_by = OLD.approved_by AND NEW.approved_at = OLD.approved_at)
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'a redaction stays as it was asked for' USING ERRCODE = 'integrity_constraint_violation';
END
$function$;
DROP TRIGGER IF EXISTS redactions_stay ON redactions;
CREATE TRIGGER redactions_stay BEFORE UPDATE OR DELETE ON redactions
    FOR EACH ROW EXECUTE FUNCTION cc_redactions_stay();

-- What was hashed is never changed, with three exceptions: a withheld payload takes its place (013), a payload of six years
-- ago goes as `pruned` (015), and one whose redaction two persons agreed on goes as `erased`. What names a log's keys and
-- what tells of a redaction stays.
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
        IF OLD.payload IS NOT NULL AND NEW.payload IS NULL
            AND coalesce(OLD.bundle_type, '') NOT IN ('genesis', 'key_rotation', 'redaction')
            AND (NEW.bundle_id, NEW.bundle_type, NEW.carried_hash, NEW.clock, NEW.generated_at, NEW.received_at)
                IS NOT DISTINCT FROM
                (OLD.bundle_id, OLD.bundle_type, OLD.carried_hash, OLD.clock, OLD.generated_at, OLD.received_at)
            AND (NEW.host_id, NEW.check_id, NEW.hipaa_controls) IS NOT DISTINCT FROM (NULL::text, NULL::text, NULL::jsonb)
        THEN
            IF NEW.missing_reason = 'pruned' AND OLD.received_at < now() - interval '6 years' THEN
                RETURN NEW;
            END IF;
            IF NEW.missing_reason = 'erased' AND EXISTS (
                SELECT FROM redactions r
                WHERE r.site_id = OLD.site_id AND r.log_id = OLD.log_id AND r.seq = OLD.seq AND r.leaf = OLD.bundle_hash
                  AND r.approved_by IS NOT NULL)
            THEN
                RETURN NEW;
            END IF;
        END IF;
    END IF;
    RAISE EXCEPTION 'what was hashed is never changed' USING ERRCODE = 'integrity_constraint_violation';
END
$function$;
