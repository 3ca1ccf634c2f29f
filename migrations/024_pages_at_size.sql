-- What pages read at size: who calls in one round trip, and indexes over the few rows of a site that stand on its page.

-- The person whose session's cookie hashes to this, in one round trip: look the session up as a credential, then its
-- person in the partner's scope. No row when the session is not known or is over, or the person is disabled.
CREATE OR REPLACE FUNCTION cc_session(p_hash text)
RETURNS TABLE (partner_id text, id text, login text, role text, second_factor boolean) LANGUAGE plpgsql AS $function$
DECLARE
    known record;
BEGIN
    PERFORM set_config('cc.credential', p_hash, true);
    SET LOCAL ROLE cc_credential;
    SELECT s.partner_id, s.user_id, s.second_factor INTO known
    FROM sessions s WHERE s.token_hash = p_hash AND s.expires_at > now();
    SET LOCAL ROLE NONE;
    PERFORM set_config('cc.credential', '', true);
    IF known.partner_id IS NULL THEN
        RETURN;
    END IF;
    PERFORM set_config('cc.partner_id', known.partner_id, true);
    RETURN QUERY SELECT u.partner_id, u.id, u.login, u.role, known.second_factor
                 FROM users u WHERE u.partner_id = known.partner_id AND u.id = known.user_id AND u.disabled_at IS NULL;
END
$function$;
REVOKE ALL ON FUNCTION cc_session(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cc_session(text) TO cc_server;

CREATE INDEX IF NOT EXISTS idx_incidents_open_of_site ON incidents (site_id, created_at DESC, id DESC)
    WHERE resolved_at IS NULL AND closed_by_hand_at IS NULL;
CREATE INDEX IF NOT EXISTS idx_evidence_bundles_flagged_of_site ON evidence_bundles (site_id, id DESC)
    WHERE flag IS NOT NULL;
