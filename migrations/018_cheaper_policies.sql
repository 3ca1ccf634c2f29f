-- The same locks for less: each sub-select of a policy is started anew by every statement, twice when it writes, and so
-- each setting is asked for once. `nullif(S, site_id) IS NULL` is `S IS NULL OR site_id = S`, for a NULL too.

-- Rows of the scope's partner, and of its site where it has one; `of_site` is the column that names the site.
CREATE OR REPLACE FUNCTION cc_own_rows(of_site text) RETURNS text LANGUAGE sql IMMUTABLE AS $function$
    SELECT format(
        'partner_id = (SELECT nullif(current_setting(''cc.partner_id'', true), ''''))'
        ' AND nullif((SELECT nullif(current_setting(''cc.site_id'', true), '''')), %I) IS NULL', of_site)
$function$;

-- Rows of the scope's appliance where it has one; `of_appliance` is the column that names the appliance.
CREATE OR REPLACE FUNCTION cc_own_appliance(of_appliance text) RETURNS text LANGUAGE sql IMMUTABLE AS $function$
    SELECT format('nullif((SELECT nullif(current_setting(''cc.appliance_id'', true), '''')), %I) IS NULL', of_appliance)
$function$;

CREATE OR REPLACE PROCEDURE cc_secure_site_table(t regclass) LANGUAGE plpgsql AS $procedure$
DECLARE
    own text := cc_own_rows('site_id');
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('DROP POLICY IF EXISTS tenant ON %s', t);
    EXECUTE format('CREATE POLICY tenant ON %s TO cc_server USING (%s) WITH CHECK (%s)', t, own, own);
    EXECUTE format('DROP POLICY IF EXISTS platform ON %s', t);
    EXECUTE format('CREATE POLICY platform ON %s TO cc_platform USING (true) WITH CHECK (true)', t);
    EXECUTE format('DROP POLICY IF EXISTS appliance ON %s', t);
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = 'appliance_id' AND NOT attisdropped) THEN
        own := cc_own_appliance('appliance_id');
        EXECUTE format('CREATE POLICY appliance ON %s AS RESTRICTIVE TO cc_server USING (%s) WITH CHECK (%s)', t, own, own);
    END IF;
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO cc_server, cc_platform', t);
END
$procedure$;

-- Every table that is locked already. What hides a table from appliances altogether stays, and so do the rights. Every
-- call of an agent begins with `appliances`: locked first, it lets none stand half way in the migration's way.
DO $block$
DECLARE
    found record;
    own text;
BEGIN
    FOR found IN
        SELECT p.polrelid::regclass AS of_table, p.polname, c.relname
        FROM pg_policy p
        JOIN pg_class c ON c.oid = p.polrelid
        JOIN LATERAL (SELECT array_agg(attname::text) AS names FROM pg_attribute
                      WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) a ON true
        WHERE c.relnamespace = 'public'::regnamespace
          AND (p.polname = 'tenant' AND (c.relname = 'sites' OR 'site_id' = ANY (a.names))
               OR p.polname = 'appliance' AND (c.relname = 'appliances' OR 'appliance_id' = ANY (a.names)))
        ORDER BY c.relname <> 'appliances', c.relname, p.polname
    LOOP
        own := CASE
            WHEN found.polname = 'appliance' THEN
                cc_own_appliance(CASE found.relname WHEN 'appliances' THEN 'id' ELSE 'appliance_id' END)
            ELSE cc_own_rows(CASE found.relname WHEN 'sites' THEN 'id' ELSE 'site_id' END)
        END;
        EXECUTE format('ALTER POLICY %I ON %s USING (%s) WITH CHECK (%s)', found.polname, found.of_table, own, own);
    END LOOP;
END
$block$;
