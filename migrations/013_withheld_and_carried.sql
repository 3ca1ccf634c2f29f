-- Payloads that arrive after their leaf, entries carried over from a log that ended, and what an appliance is alarmed by.

-- What was hashed is never changed. One exception: a payload that was withheld takes its place once it is the one that
-- the stored leaf is the hash of; what derives from it comes with it.
CREATE OR REPLACE FUNCTION cc_refuse_change_of_evidence() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF TG_OP = 'DELETE' OR TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION 'evidence is never deleted' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF TG_TABLE_NAME = 'evidence_bundles' THEN
        IF OLD.payload IS NULL AND OLD.missing_reason = 'withheld'
            AND NEW.payload IS NOT NULL AND NEW.missing_reason IS NULL
            AND sha256('\x00'::bytea || NEW.payload) = OLD.bundle_hash
            AND (NEW.site_id, NEW.partner_id, NEW.appliance_id, NEW.log_id, NEW.seq, NEW.id, NEW.bundle_hash)
                = (OLD.site_id, OLD.partner_id, OLD.appliance_id, OLD.log_id, OLD.seq, OLD.id, OLD.bundle_hash)
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'what was hashed is never changed' USING ERRCODE = 'integrity_constraint_violation';
END
$function$;

-- An entry that was carried over is looked for by its bundle id; there are few.
CREATE INDEX IF NOT EXISTS idx_evidence_bundles_carried ON evidence_bundles (site_id, bundle_id)
    WHERE bundle_type = 'recovered';
-- Which leaf a carried entry had in the log that it comes from: with the bundle id, what makes it the same entry.
ALTER TABLE evidence_bundles ADD COLUMN IF NOT EXISTS carried_hash bytea CHECK (length(carried_hash) = 32);
-- What this server does not understand, and forks: few again.
CREATE INDEX IF NOT EXISTS idx_evidence_bundles_flagged ON evidence_bundles (partner_id, id DESC) WHERE flag IS NOT NULL;

-- What the appliance itself is alarmed by, as its last check-in said.
ALTER TABLE appliances ADD COLUMN IF NOT EXISTS alarms text[] NOT NULL DEFAULT '{}' CHECK (cardinality(alarms) <= 16);
-- Since when it is enrolled under the key it has: a reinstalled appliance has another.
ALTER TABLE appliances ADD COLUMN IF NOT EXISTS key_since timestamptz NOT NULL DEFAULT now();

-- Beside the function of before, which the previous release calls.
CREATE OR REPLACE FUNCTION cc_checkin(
    p_site text, p_appliance text, p_version text, p_hostname text, p_address inet, p_clock text, p_clock_offset_ms bigint,
    p_epoch text, p_size bigint, p_waiting bigint, p_waiting_bytes bigint, p_oldest_at timestamptz, p_alarms text[])
RETURNS TABLE (head_size bigint, orders_waiting boolean) LANGUAGE plpgsql AS $function$
BEGIN
    IF NOT EXISTS (SELECT FROM cc_enter_appliance(p_site, p_appliance)) THEN
        RETURN;
    END IF;
    UPDATE appliances
    SET last_checkin = now(), is_online = true, version = p_version, hostname = p_hostname, ip_address = p_address,
        clock = p_clock, clock_offset_ms = p_clock_offset_ms, epoch = p_epoch, log_size = p_size,
        waiting = p_waiting, waiting_bytes = p_waiting_bytes, oldest_at = p_oldest_at, alarms = p_alarms
    WHERE site_id = p_site AND id = p_appliance;
    head_size := coalesce((SELECT l.size FROM evidence_logs l
                           WHERE l.site_id = p_site AND l.appliance_id = p_appliance AND l.epoch = p_epoch), 0);
    orders_waiting := false;
    RETURN NEXT;
END
$function$;
REVOKE ALL ON FUNCTION
    cc_checkin(text, text, text, text, inet, text, bigint, text, bigint, bigint, bigint, timestamptz, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    cc_checkin(text, text, text, text, inet, text, bigint, text, bigint, bigint, bigint, timestamptz, text[]) TO cc_server;
