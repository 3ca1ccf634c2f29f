-- Partners and sites, and the one place that says how a tenant's table is locked.
-- Roles (cc_owner, cc_server, cc_platform, cc_credential) are made beforehand by `ccserver db roles`.

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO cc_server, cc_platform, cc_credential, cc_backup;
ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO cc_backup;
GRANT SELECT ON schema_migrations TO cc_server, cc_platform, cc_backup;

-- Site tables: site_id first in the key, partner_id beside it. A table that also names an appliance is cut down further
-- for an appliance's scope by a restrictive policy. Sub-selects make each setting a constant that an index can use.
CREATE OR REPLACE PROCEDURE cc_secure_site_table(t regclass) LANGUAGE plpgsql AS $procedure$
DECLARE
    partner constant text := '(SELECT nullif(current_setting(''cc.partner_id'', true), ''''))';
    site constant text := '(SELECT nullif(current_setting(''cc.site_id'', true), ''''))';
    appliance constant text := '(SELECT nullif(current_setting(''cc.appliance_id'', true), ''''))';
    own text := format('partner_id = %s AND (%s IS NULL OR site_id = %s)', partner, site, site);
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('DROP POLICY IF EXISTS tenant ON %s', t);
    EXECUTE format('CREATE POLICY tenant ON %s TO cc_server USING (%s) WITH CHECK (%s)', t, own, own);
    EXECUTE format('DROP POLICY IF EXISTS platform ON %s', t);
    EXECUTE format('CREATE POLICY platform ON %s TO cc_platform USING (true) WITH CHECK (true)', t);
    EXECUTE format('DROP POLICY IF EXISTS appliance ON %s', t);
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = 'appliance_id' AND NOT attisdropped) THEN
        own := format('(%s IS NULL OR appliance_id = %s)', appliance, appliance);
        EXECUTE format('CREATE POLICY appliance ON %s AS RESTRICTIVE TO cc_server USING (%s) WITH CHECK (%s)', t, own, own);
    END IF;
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO cc_server, cc_platform', t);
END
$procedure$;

-- What no appliance's scope sees at all: it needs none of it.
CREATE OR REPLACE PROCEDURE cc_hide_from_appliances(t regclass) LANGUAGE plpgsql AS $procedure$
DECLARE
    none constant text := '(SELECT nullif(current_setting(''cc.appliance_id'', true), '''')) IS NULL';
BEGIN
    EXECUTE format('DROP POLICY IF EXISTS appliance ON %s', t);
    EXECUTE format('CREATE POLICY appliance ON %s AS RESTRICTIVE TO cc_server USING (%s) WITH CHECK (%s)', t, none, none);
END
$procedure$;

-- Partner tables: partner_id first, no site_id; the platform's own rows say 'platform'. An appliance sees none of them.
CREATE OR REPLACE PROCEDURE cc_secure_partner_table(t regclass) LANGUAGE plpgsql AS $procedure$
DECLARE
    own constant text := 'partner_id = (SELECT nullif(current_setting(''cc.partner_id'', true), ''''))';
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('DROP POLICY IF EXISTS tenant ON %s', t);
    EXECUTE format('CREATE POLICY tenant ON %s TO cc_server USING (%s) WITH CHECK (%s)', t, own, own);
    EXECUTE format('DROP POLICY IF EXISTS platform ON %s', t);
    EXECUTE format('CREATE POLICY platform ON %s TO cc_platform USING (true) WITH CHECK (true)', t);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO cc_server, cc_platform', t);
    CALL cc_hide_from_appliances(t);
END
$procedure$;

-- The equal row of whoever presents a credential, before a tenant is known: SELECT only, one row, chosen columns.
CREATE OR REPLACE PROCEDURE cc_show_to_credential(t regclass, presented text, shown text) LANGUAGE plpgsql AS $procedure$
BEGIN
    EXECUTE format('DROP POLICY IF EXISTS credential ON %s', t);
    EXECUTE format(
        'CREATE POLICY credential ON %s FOR SELECT TO cc_credential '
        'USING (%I = (SELECT nullif(current_setting(''cc.credential'', true), '''')))', t, presented);
    EXECUTE format('GRANT SELECT (%s) ON %s TO cc_credential', shown, t);
END
$procedure$;

CREATE TABLE IF NOT EXISTS partners (
    id text PRIMARY KEY CHECK (id ~ '^[0-9a-z-]{1,64}$'),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE partners ENABLE ROW LEVEL SECURITY;
ALTER TABLE partners FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS tenant ON partners;
CREATE POLICY tenant ON partners TO cc_server
    USING (id = (SELECT nullif(current_setting('cc.partner_id', true), '')))
    WITH CHECK (id = (SELECT nullif(current_setting('cc.partner_id', true), '')));
DROP POLICY IF EXISTS platform ON partners;
CREATE POLICY platform ON partners TO cc_platform USING (true) WITH CHECK (true);
GRANT SELECT ON partners TO cc_server;
GRANT SELECT, INSERT, UPDATE ON partners TO cc_platform;

-- The platform's own users and audit rows need a partner to refer to; it can have no sites.
DO $block$
DECLARE
    changed integer;
BEGIN
    SET LOCAL ROLE cc_platform;
    INSERT INTO partners (id, name) VALUES ('platform', 'Platform') ON CONFLICT (id) DO UPDATE SET name = excluded.name;
    GET DIAGNOSTICS changed = ROW_COUNT;
    ASSERT changed = 1, 'the platform''s row was not written';
    RESET ROLE;
END
$block$;

CREATE TABLE IF NOT EXISTS sites (
    id text NOT NULL CHECK (id ~ '^[0-9a-z-]{1,64}$'),
    partner_id text NOT NULL REFERENCES partners (id) ON DELETE RESTRICT CHECK (partner_id <> 'platform'),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL DEFAULT now(),
    closed_at timestamptz,
    PRIMARY KEY (id),
    UNIQUE (id, partner_id)
);
CREATE INDEX IF NOT EXISTS idx_sites_partner ON sites (partner_id, name, id);
-- A site is its own site_id: the same lock, said of `id`.
ALTER TABLE sites ENABLE ROW LEVEL SECURITY;
ALTER TABLE sites FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS tenant ON sites;
CREATE POLICY tenant ON sites TO cc_server
    USING (partner_id = (SELECT nullif(current_setting('cc.partner_id', true), ''))
           AND ((SELECT nullif(current_setting('cc.site_id', true), '')) IS NULL
                OR id = (SELECT nullif(current_setting('cc.site_id', true), ''))))
    WITH CHECK (partner_id = (SELECT nullif(current_setting('cc.partner_id', true), ''))
           AND ((SELECT nullif(current_setting('cc.site_id', true), '')) IS NULL
                OR id = (SELECT nullif(current_setting('cc.site_id', true), ''))));
DROP POLICY IF EXISTS platform ON sites;
CREATE POLICY platform ON sites TO cc_platform USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON sites TO cc_server, cc_platform;
