-- Which copy of the appliance took an order: a name that it made up for that order before it said so. Two copies of one
-- appliance are the same by every key they have, and both could take an order that waited when the copy was made.
ALTER TABLE orders ADD COLUMN IF NOT EXISTS taker text CHECK (taker ~ '^[0-9a-f]{32}$');

CREATE OR REPLACE FUNCTION cc_released_order_stays() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    after constant jsonb := '{
        "pending": ["acknowledged", "running", "succeeded", "failed", "rejected", "expired", "cancelled"],
        "acknowledged": ["running", "succeeded", "failed", "rejected", "expired"],
        "running": ["succeeded", "failed", "rejected", "expired"],
        "expired": ["running", "succeeded", "failed", "rejected"],
        "cancelled": ["running", "succeeded", "failed", "rejected"]}';
    written constant text[] := '{status,cancelled_by,acknowledged_at,taker,started_at,finished_at,result}';
BEGIN
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'orders are never deleted' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF OLD.envelope IS NOT NULL AND to_jsonb(NEW) - written IS DISTINCT FROM to_jsonb(OLD) - written THEN
            RAISE EXCEPTION 'a released order is not changed' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        IF OLD.taker IS NOT NULL AND NEW.taker IS DISTINCT FROM OLD.taker THEN
            RAISE EXCEPTION 'an order stays with who took it' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        IF NEW.status <> OLD.status AND NOT coalesce(after -> OLD.status ? NEW.status, false) THEN
            RAISE EXCEPTION 'an order only goes forward' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
    END IF;
    IF NEW.envelope IS NOT NULL AND (TG_OP = 'INSERT' OR OLD.envelope IS NULL) AND NOT cc_order_is_as_signed(NEW) THEN
        RAISE EXCEPTION 'an order is not as it was signed' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.envelope IS NOT NULL AND (TG_OP = 'INSERT' OR OLD.envelope IS NULL) THEN
        UPDATE appliances SET orders_until = greatest(orders_until, NEW.expires_at)
        WHERE site_id = NEW.site_id AND id = NEW.appliance_id;
    END IF;
    RETURN NEW;
END
$function$;
