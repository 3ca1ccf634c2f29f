-- A site that is closed is read and kept, and nothing new begins in it: no appliance, code, waiver, order or setting.
-- A trigger says so, because routes come and go.

ALTER TABLE partners ADD COLUMN IF NOT EXISTS closed_at timestamptz;

-- The site's row is locked against a closing that goes on at the same time: what begins either ends with it, or is refused.
CREATE OR REPLACE FUNCTION cc_refuse_in_closed_site() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    closed timestamptz;
BEGIN
    SELECT s.closed_at INTO closed FROM sites s WHERE s.id = NEW.site_id FOR SHARE;
    IF closed IS NOT NULL THEN
        RAISE EXCEPTION 'the site is closed' USING ERRCODE = 'CC001';
    END IF;
    RETURN NEW;
END
$function$;
CREATE OR REPLACE FUNCTION cc_refuse_setting_of_closed_site() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    closed timestamptz;
BEGIN
    SELECT s.closed_at INTO closed FROM sites s WHERE NEW.level = 'site' AND s.id = NEW.target_id FOR SHARE;
    IF closed IS NOT NULL THEN
        RAISE EXCEPTION 'the site is closed' USING ERRCODE = 'CC001';
    END IF;
    RETURN NEW;
END
$function$;
-- A closed site stays closed, under its name.
CREATE OR REPLACE FUNCTION cc_refuse_change_of_closed_site() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF OLD.closed_at IS NOT NULL AND (NEW.name, NEW.closed_at) IS DISTINCT FROM (OLD.name, OLD.closed_at) THEN
        RAISE EXCEPTION 'the site is closed' USING ERRCODE = 'CC001';
    END IF;
    RETURN NEW;
END
$function$;

DROP TRIGGER IF EXISTS closed_site ON appliances;
CREATE TRIGGER closed_site BEFORE INSERT OR UPDATE OF public_key, revoked_at ON appliances
    FOR EACH ROW EXECUTE FUNCTION cc_refuse_in_closed_site();
DROP TRIGGER IF EXISTS closed_site ON enrollment_codes;
CREATE TRIGGER closed_site BEFORE INSERT ON enrollment_codes
    FOR EACH ROW EXECUTE FUNCTION cc_refuse_in_closed_site();
DROP TRIGGER IF EXISTS closed_site ON waivers;
CREATE TRIGGER closed_site BEFORE INSERT ON waivers
    FOR EACH ROW EXECUTE FUNCTION cc_refuse_in_closed_site();
DROP TRIGGER IF EXISTS closed_site ON orders;
CREATE TRIGGER closed_site BEFORE INSERT ON orders
    FOR EACH ROW EXECUTE FUNCTION cc_refuse_in_closed_site();
DROP TRIGGER IF EXISTS closed_site ON settings;
CREATE TRIGGER closed_site BEFORE INSERT OR UPDATE ON settings
    FOR EACH ROW EXECUTE FUNCTION cc_refuse_setting_of_closed_site();
DROP TRIGGER IF EXISTS closed_site ON sites;
CREATE TRIGGER closed_site BEFORE UPDATE ON sites
    FOR EACH ROW EXECUTE FUNCTION cc_refuse_change_of_closed_site();
