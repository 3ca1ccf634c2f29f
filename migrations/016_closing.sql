-- A site that is closed is read and kept, and nothing new begins in it: no appliance, code, waiver, order or setting.
-- A trigger says so, because routes come and go.

ALTER TABLE partners ADD COLUMN IF NOT EXISTS closed_at timestamptz;

CREATE OR REPLACE FUNCTION cc_refuse_in_closed_site() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF EXISTS (SELECT FROM sites s WHERE s.id = NEW.site_id AND s.closed_at IS NOT NULL) THEN
        RAISE EXCEPTION 'the site is closed' USING ERRCODE = 'CC001';
    END IF;
    RETURN NEW;
END
$function$;
CREATE OR REPLACE FUNCTION cc_refuse_setting_of_closed_site() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF NEW.level = 'site'
        AND EXISTS (SELECT FROM sites s WHERE s.id = NEW.target_id AND s.closed_at IS NOT NULL) THEN
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
