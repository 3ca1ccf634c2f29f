-- Signed policies and orders as appliances get them, and orders for many appliances at once.

-- The policy that an appliance has, by its version, and what it was made from besides settings and rules: which order key
-- signed it and which catalogue it holds. NULL: a setting or rule that may concern it has changed since. No index: both are
-- read at every check-in, by the statement that rewrites the row.
ALTER TABLE appliances ADD COLUMN IF NOT EXISTS policy_version bigint;
ALTER TABLE appliances ADD COLUMN IF NOT EXISTS policy_basis text CHECK (length(policy_basis) <= 64);
-- When the last of its released orders expires, as far as any was: most check-ins then need not look among the orders.
ALTER TABLE appliances ADD COLUMN IF NOT EXISTS orders_until timestamptz;

-- Only what differs from the version before is stored; the hash is that of the content, without version and signature.
-- `envelope` is packed (zlib): most of it is the catalogue, which is the same in each.
ALTER TABLE policies ADD COLUMN IF NOT EXISTS content_hash text CHECK (content_hash ~ '^[0-9a-f]{64}$');
CREATE INDEX IF NOT EXISTS idx_policies_newest ON policies (site_id, appliance_id, created_at DESC, version DESC);

-- Mark the policies of a partner's appliances (NULL: everybody's), of one site, of one appliance, as to be made again.
-- It is the platform's doing: what changes a setting may see less than all whom it concerns. Rows are locked in one order.
CREATE OR REPLACE FUNCTION cc_policies_change(p_partner text, p_site text, p_appliance text) RETURNS void
LANGUAGE plpgsql AS $function$
DECLARE
    before constant text := current_setting('role');
BEGIN
    SET LOCAL ROLE cc_platform;
    UPDATE appliances a SET policy_basis = NULL
    FROM (SELECT l.site_id, l.id FROM appliances l
          WHERE (p_partner IS NULL OR l.partner_id = p_partner) AND (p_site IS NULL OR l.site_id = p_site)
            AND (p_appliance IS NULL OR l.id = p_appliance) AND l.policy_basis IS NOT NULL
          ORDER BY l.site_id, l.id
          FOR UPDATE) chosen
    WHERE a.site_id = chosen.site_id AND a.id = chosen.id;
    PERFORM set_config('role', before, true);
END
$function$;
REVOKE ALL ON FUNCTION cc_policies_change(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cc_policies_change(text, text, text) TO cc_server, cc_platform;

CREATE OR REPLACE FUNCTION cc_setting_changed() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    made settings := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
BEGIN
    PERFORM cc_policies_change(
        nullif(made.partner_id, 'platform'),
        CASE made.level WHEN 'site' THEN made.target_id END,
        CASE made.level WHEN 'appliance' THEN made.target_id END);
    RETURN NULL;
END
$function$;
DROP TRIGGER IF EXISTS policies_change ON settings;
CREATE TRIGGER policies_change AFTER INSERT OR UPDATE OR DELETE ON settings
    FOR EACH ROW EXECUTE FUNCTION cc_setting_changed();

-- What the platform set counts for every tenant, and no tenant sees the platform's rows otherwise.
CREATE OR REPLACE FUNCTION cc_platform_settings() RETURNS SETOF settings LANGUAGE plpgsql AS $function$
DECLARE
    before constant text := current_setting('role');
BEGIN
    SET LOCAL ROLE cc_platform;
    RETURN QUERY SELECT * FROM settings s WHERE s.partner_id = 'platform' AND s.level = 'platform';
    PERFORM set_config('role', before, true);
END
$function$;
REVOKE ALL ON FUNCTION cc_platform_settings() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cc_platform_settings() TO cc_server, cc_platform;

-- A rule that runs, or ran until now, concerns every appliance of its partner.
CREATE OR REPLACE FUNCTION cc_rule_changed() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    made rules := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    was text := CASE WHEN TG_OP <> 'INSERT' THEN OLD.status END;
BEGIN
    IF made.status IN ('canary', 'active') OR was IN ('canary', 'active') THEN
        PERFORM cc_policies_change(made.partner_id, NULL, NULL);
    END IF;
    RETURN NULL;
END
$function$;
DROP TRIGGER IF EXISTS policies_change ON rules;
CREATE TRIGGER policies_change AFTER INSERT OR UPDATE OR DELETE ON rules
    FOR EACH ROW EXECUTE FUNCTION cc_rule_changed();

-- An order for many appliances: the partner's, because its appliances stand at many sites.
CREATE TABLE IF NOT EXISTS fleet_orders (
    partner_id text NOT NULL REFERENCES partners (id) ON DELETE RESTRICT,
    id text NOT NULL CHECK (id ~ '^[0-9a-z-]{1,64}$'),
    runbook_id text NOT NULL CHECK (runbook_id ~ '^[0-9a-z_.-]{1,64}$'),
    runbook_digest text NOT NULL CHECK (runbook_digest ~ '^[0-9a-f]{64}$'),
    parameters jsonb NOT NULL,
    life_s integer NOT NULL CHECK (life_s BETWEEN 60 AND 604800),
    status text NOT NULL CONSTRAINT fleet_orders_status_known
        CHECK (status IN ('unapproved', 'running', 'paused', 'done', 'cancelled')),
    pause_reason text CHECK (length(pause_reason) <= 300),
    created_by text NOT NULL CHECK (length(created_by) <= 300),
    creator text NOT NULL CHECK (length(creator) <= 300),
    approved_by text CHECK (length(approved_by) <= 300),
    created_at timestamptz NOT NULL DEFAULT now(),
    resumed_at timestamptz,            -- failures of before do not count, and the canary was seen by a person
    finished_at timestamptz,
    PRIMARY KEY (partner_id, id)
);
CREATE INDEX IF NOT EXISTS idx_fleet_orders_newest ON fleet_orders (partner_id, created_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS idx_fleet_orders_running ON fleet_orders (partner_id, id) WHERE status = 'running';
CALL cc_secure_partner_table('fleet_orders');

-- By which a person names some sites of many.
ALTER TABLE sites ADD COLUMN IF NOT EXISTS tags text[] NOT NULL DEFAULT '{}' CHECK (cardinality(tags) <= 20);

-- For whom it is, and in which turn; the first is the canary. `order_id` is the order of its own that it got.
CREATE TABLE IF NOT EXISTS fleet_order_members (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    appliance_id text NOT NULL,
    fleet_order_id text NOT NULL,
    turn integer NOT NULL CHECK (turn >= 0),
    order_id text,
    skipped text CHECK (length(skipped) <= 300),
    PRIMARY KEY (site_id, fleet_order_id, appliance_id),
    UNIQUE (partner_id, fleet_order_id, turn),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE RESTRICT,
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliances (site_id, id) ON DELETE RESTRICT,
    FOREIGN KEY (partner_id, fleet_order_id) REFERENCES fleet_orders (partner_id, id) ON DELETE RESTRICT,
    FOREIGN KEY (site_id, order_id) REFERENCES orders (site_id, id) ON DELETE RESTRICT
);
CALL cc_secure_site_table('fleet_order_members');

ALTER TABLE orders ADD COLUMN IF NOT EXISTS runbook_digest text CHECK (runbook_digest ~ '^[0-9a-f]{64}$');
ALTER TABLE orders ADD COLUMN IF NOT EXISTS life_s integer CHECK (life_s BETWEEN 60 AND 604800);
-- The person behind `created_by`: who made the API key, where a key ordered. Only somebody else approves.
ALTER TABLE orders ADD COLUMN IF NOT EXISTS creator text CHECK (length(creator) <= 300);
CALL cc_show_to_credential(
    'api_keys', 'key_hash', 'partner_id, id, key_hash, role, created_by, expires_at, revoked_at');
ALTER TABLE orders ADD COLUMN IF NOT EXISTS fleet_order_id text;
CREATE INDEX IF NOT EXISTS idx_orders_fleet ON orders (partner_id, fleet_order_id, finished_at DESC)
    WHERE fleet_order_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_orders_released ON orders (site_id, appliance_id, issued_at)
    WHERE envelope IS NOT NULL AND status IN ('pending', 'acknowledged', 'running');

-- What is signed is what the columns say: they are compared with the envelope's payload when it is released, and from then on
-- only what became of the order changes, and only forward. A result comes after all, whatever was given up meanwhile.
CREATE OR REPLACE FUNCTION cc_order_is_as_signed(made orders) RETURNS boolean LANGUAGE sql AS $function$
    SELECT (said.payload ->> 'id', said.payload ->> 'site', said.payload ->> 'appliance', said.payload ->> 'runbook',
            said.payload ->> 'digest', said.payload -> 'parameters',
            to_timestamp((said.payload ->> 'issued_ms')::numeric / 1000),
            to_timestamp((said.payload ->> 'expires_ms')::numeric / 1000))
        IS NOT DISTINCT FROM
           (made.id, made.site_id, made.appliance_id, made.runbook_id, made.runbook_digest, made.parameters,
            made.issued_at, made.expires_at)
    FROM (SELECT convert_from(decode(convert_from(made.envelope, 'UTF8')::jsonb ->> 'payload', 'base64'), 'UTF8')::jsonb
          AS payload) said
$function$;
CREATE OR REPLACE FUNCTION cc_released_order_stays() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    after constant jsonb := '{
        "pending": ["acknowledged", "running", "succeeded", "failed", "rejected", "expired", "cancelled"],
        "acknowledged": ["running", "succeeded", "failed", "rejected", "expired"],
        "running": ["succeeded", "failed", "rejected", "expired"],
        "expired": ["running", "succeeded", "failed", "rejected"],
        "cancelled": ["running", "succeeded", "failed", "rejected"]}';
BEGIN
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'orders are never deleted' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF OLD.envelope IS NOT NULL
            AND to_jsonb(NEW) - '{status,cancelled_by,acknowledged_at,started_at,finished_at,result}'::text[]
                IS DISTINCT FROM
                to_jsonb(OLD) - '{status,cancelled_by,acknowledged_at,started_at,finished_at,result}'::text[]
        THEN
            RAISE EXCEPTION 'a released order is not changed' USING ERRCODE = 'integrity_constraint_violation';
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
REVOKE ALL ON FUNCTION cc_order_is_as_signed(orders) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cc_order_is_as_signed(orders) TO cc_server, cc_platform;
DROP TRIGGER IF EXISTS released_stays ON orders;
CREATE TRIGGER released_stays BEFORE INSERT OR UPDATE OR DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION cc_released_order_stays();

-- Which appliance a rule on trial runs on.
ALTER TABLE rules ADD COLUMN IF NOT EXISTS canary_appliance_id text CHECK (canary_appliance_id ~ '^[0-9a-z-]{1,64}$');

-- Beside the function of before, which the previous release calls: it also says which policy the appliance has, whether that
-- may have changed (`p_basis`: what this server makes policies from), and whether a released order waits to be begun.
CREATE OR REPLACE FUNCTION cc_checkin(
    p_site text, p_appliance text, p_version text, p_hostname text, p_address inet, p_clock text, p_clock_offset_ms bigint,
    p_epoch text, p_size bigint, p_waiting bigint, p_waiting_bytes bigint, p_oldest_at timestamptz, p_alarms text[],
    p_basis text)
RETURNS TABLE (head_size bigint, orders_waiting boolean, policy bigint, policy_due boolean)
LANGUAGE plpgsql AS $function$
BEGIN
    IF NOT EXISTS (SELECT FROM cc_enter_appliance(p_site, p_appliance)) THEN
        RETURN;
    END IF;
    UPDATE appliances
    SET last_checkin = now(), is_online = true, version = p_version, hostname = p_hostname, ip_address = p_address,
        clock = p_clock, clock_offset_ms = p_clock_offset_ms, epoch = p_epoch, log_size = p_size,
        waiting = p_waiting, waiting_bytes = p_waiting_bytes, oldest_at = p_oldest_at, alarms = p_alarms
    WHERE site_id = p_site AND id = p_appliance
    RETURNING policy_version, policy_basis IS DISTINCT FROM p_basis, coalesce(orders_until > now(), false)
    INTO policy, policy_due, orders_waiting;
    head_size := coalesce((SELECT l.size FROM evidence_logs l
                           WHERE l.site_id = p_site AND l.appliance_id = p_appliance AND l.epoch = p_epoch), 0);
    IF orders_waiting THEN
        orders_waiting := EXISTS (SELECT FROM orders o
                                  WHERE o.site_id = p_site AND o.appliance_id = p_appliance AND o.envelope IS NOT NULL
                                    AND o.status IN ('pending', 'acknowledged') AND o.expires_at > now());
    END IF;
    RETURN NEXT;
END
$function$;
REVOKE ALL ON FUNCTION
    cc_checkin(text, text, text, text, inet, text, bigint, text, bigint, bigint, bigint, timestamptz, text[], text)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    cc_checkin(text, text, text, text, inet, text, bigint, text, bigint, bigint, bigint, timestamptz, text[], text)
    TO cc_server;
