-- A check-in in one round trip: enter the appliance's scope, write liveness, say what waits.
-- One row when the appliance is known and not revoked, else none.
CREATE OR REPLACE FUNCTION cc_checkin(
    p_site text, p_appliance text, p_version text, p_hostname text, p_address inet, p_clock text, p_clock_offset_ms bigint,
    p_epoch text, p_size bigint, p_waiting bigint, p_waiting_bytes bigint, p_oldest_at timestamptz)
RETURNS TABLE (head_size bigint, orders_waiting boolean) LANGUAGE plpgsql AS $function$
BEGIN
    IF NOT EXISTS (SELECT FROM cc_enter_appliance(p_site, p_appliance)) THEN
        RETURN;
    END IF;
    UPDATE appliances
    SET last_checkin = now(), is_online = true, version = p_version, hostname = p_hostname, ip_address = p_address,
        clock = p_clock, clock_offset_ms = p_clock_offset_ms, epoch = p_epoch, log_size = p_size,
        waiting = p_waiting, waiting_bytes = p_waiting_bytes, oldest_at = p_oldest_at
    WHERE site_id = p_site AND id = p_appliance;
    head_size := coalesce((SELECT l.size FROM evidence_logs l
                           WHERE l.site_id = p_site AND l.appliance_id = p_appliance AND l.epoch = p_epoch), 0);
    orders_waiting := false;
    RETURN NEXT;
END
$function$;
REVOKE ALL ON FUNCTION cc_checkin(text, text, text, text, inet, text, bigint, text, bigint, bigint, bigint, timestamptz)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cc_checkin(text, text, text, text, inet, text, bigint, text, bigint, bigint, bigint, timestamptz)
    TO cc_server;
