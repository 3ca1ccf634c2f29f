-- Appliances, the one-time codes by which they become known, and what an appliance's every call begins with.

CREATE TABLE IF NOT EXISTS appliances (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    id text NOT NULL CHECK (id ~ '^[0-9a-z-]{1,64}$'),
    hostname text NOT NULL CHECK (length(hostname) BETWEEN 1 AND 255),
    public_key bytea NOT NULL CHECK (length(public_key) = 32),
    enrolled_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    ip_address inet,
    version text CHECK (length(version) <= 255),
    is_online boolean NOT NULL DEFAULT false,
    last_checkin timestamptz,
    clock text CONSTRAINT appliances_clock_known CHECK (clock IN ('sync', 'unsync', 'stepped')),
    clock_offset_ms bigint,
    epoch text CHECK (length(epoch) <= 20),
    log_size bigint,
    waiting bigint,
    waiting_bytes bigint,
    oldest_at timestamptz,
    PRIMARY KEY (site_id, id),
    UNIQUE (id),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE CASCADE
) WITH (fillfactor = 70);  -- a check-in a minute rewrites the row; room in its page keeps that cheap
CREATE INDEX IF NOT EXISTS idx_appliances_partner ON appliances (partner_id, site_id);
CALL cc_secure_site_table('appliances');
-- An appliance sees itself among them.
DROP POLICY IF EXISTS appliance ON appliances;
CREATE POLICY appliance ON appliances AS RESTRICTIVE TO cc_server
    USING ((SELECT nullif(current_setting('cc.appliance_id', true), '')) IS NULL
           OR id = (SELECT nullif(current_setting('cc.appliance_id', true), '')))
    WITH CHECK ((SELECT nullif(current_setting('cc.appliance_id', true), '')) IS NULL
           OR id = (SELECT nullif(current_setting('cc.appliance_id', true), '')));
CALL cc_show_to_credential('appliances', 'id', 'site_id, partner_id, id, public_key, revoked_at');

CREATE TABLE IF NOT EXISTS enrollment_codes (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    secret_hash text NOT NULL CHECK (secret_hash ~ '^[0-9a-f]{64}$'),
    replaces_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    used_by_id text,
    PRIMARY KEY (site_id, secret_hash),
    UNIQUE (secret_hash),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE CASCADE,
    FOREIGN KEY (site_id, replaces_id) REFERENCES appliances (site_id, id) ON DELETE CASCADE,
    FOREIGN KEY (site_id, used_by_id) REFERENCES appliances (site_id, id) ON DELETE CASCADE
);
CALL cc_secure_site_table('enrollment_codes');
CALL cc_hide_from_appliances('enrollment_codes');
CALL cc_show_to_credential(
    'enrollment_codes', 'secret_hash', 'site_id, partner_id, secret_hash, expires_at, used_at, used_by_id');

-- Enter an appliance's scope: partner, site and appliance for the rest of the transaction. No row when it is not known,
-- not of that site or revoked; then nothing is set, and row security shows nothing.
CREATE OR REPLACE FUNCTION cc_enter_appliance(p_site text, p_appliance text)
RETURNS TABLE (partner_id text, public_key bytea) LANGUAGE plpgsql AS $function$
DECLARE
    known record;
BEGIN
    PERFORM set_config('cc.credential', p_appliance, true);
    SET LOCAL ROLE cc_credential;
    SELECT a.partner_id, a.public_key INTO known
    FROM appliances a WHERE a.id = p_appliance AND a.site_id = p_site AND a.revoked_at IS NULL;
    SET LOCAL ROLE NONE;
    PERFORM set_config('cc.credential', '', true);
    IF known.partner_id IS NULL THEN
        RETURN;
    END IF;
    PERFORM set_config('cc.partner_id', known.partner_id, true),
            set_config('cc.site_id', p_site, true),
            set_config('cc.appliance_id', p_appliance, true);
    partner_id := known.partner_id;
    public_key := known.public_key;
    RETURN NEXT;
END
$function$;
REVOKE ALL ON FUNCTION cc_enter_appliance(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cc_enter_appliance(text, text) TO cc_server;
