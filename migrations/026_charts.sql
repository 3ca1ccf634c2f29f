-- What charts are drawn from: small tables kept up at write time, so that no page reads history for them.

-- How much evidence waited on an appliance, sampled at one check-in in ten minutes.
CREATE TABLE IF NOT EXISTS queue_samples (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    appliance_id text NOT NULL,
    at timestamptz NOT NULL,
    waiting bigint NOT NULL CHECK (waiting >= 0),
    PRIMARY KEY (site_id, appliance_id, at),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE CASCADE,
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliances (site_id, id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS idx_queue_samples_at ON queue_samples (at);
CALL cc_secure_site_table('queue_samples');

CREATE OR REPLACE FUNCTION cc_sample_queue() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    INSERT INTO queue_samples (site_id, partner_id, appliance_id, at, waiting)
    VALUES (NEW.site_id, NEW.partner_id, NEW.id, date_bin('10 minutes', NEW.last_checkin, timestamptz 'epoch'), NEW.waiting)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$function$;
DROP TRIGGER IF EXISTS queue_sampled ON appliances;
CREATE TRIGGER queue_sampled AFTER UPDATE OF last_checkin ON appliances FOR EACH ROW
    WHEN (NEW.waiting IS NOT NULL AND NEW.last_checkin IS NOT NULL
          AND date_bin('10 minutes', NEW.last_checkin, timestamptz 'epoch')
          IS DISTINCT FROM date_bin('10 minutes', OLD.last_checkin, timestamptz 'epoch'))
    EXECUTE FUNCTION cc_sample_queue();

-- What was settled on which day, by rule, planner or person.
CREATE TABLE IF NOT EXISTS healed_days (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    day timestamptz NOT NULL,
    l1_count bigint NOT NULL,
    l2_count bigint NOT NULL,
    l3_count bigint NOT NULL,
    PRIMARY KEY (site_id, day),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS idx_healed_days_partner ON healed_days (partner_id, day)
    INCLUDE (site_id, l1_count, l2_count, l3_count);
CALL cc_secure_site_table('healed_days');

-- The day is the appliance's; one that no clock that is right can have said is today's.
CREATE OR REPLACE FUNCTION cc_healed_day(resolved_at timestamptz) RETURNS timestamptz LANGUAGE sql STABLE AS $function$
    SELECT date_bin('1 day', CASE WHEN resolved_at BETWEEN now() - interval '90 days' AND now() + interval '1 day'
                             THEN resolved_at ELSE now() END, timestamptz 'epoch')
$function$;

-- A row that only changes in something else adds as much as it takes away, and writes nothing.
CREATE OR REPLACE FUNCTION cc_count_healed() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    counted constant text := 'SELECT site_id, partner_id, resolution_level AS level, cc_healed_day(resolved_at) AS day, '
        '%s AS n FROM %s WHERE resolution_level IS NOT NULL AND resolved_at IS NOT NULL';
    changes text;
BEGIN
    changes := concat_ws(' UNION ALL ', format(counted, '1', 'added'),
                         CASE WHEN TG_OP = 'UPDATE' THEN format(counted, '-1', 'removed') END);
    EXECUTE format($statement$
        INSERT INTO healed_days AS d (site_id, partner_id, day, l1_count, l2_count, l3_count)
        SELECT site_id, partner_id, day, sum(l1), sum(l2), sum(l3)
        FROM (SELECT site_id, partner_id, day, coalesce(sum(n) FILTER (WHERE level = 'L1'), 0) AS l1,
                     coalesce(sum(n) FILTER (WHERE level = 'L2'), 0) AS l2,
                     coalesce(sum(n) FILTER (WHERE level = 'L3'), 0) AS l3
              FROM (%s) AS change GROUP BY site_id, partner_id, day) AS summed
        WHERE (l1, l2, l3) <> (0, 0, 0)
        GROUP BY site_id, partner_id, day
        ORDER BY site_id, day
        ON CONFLICT (site_id, day) DO UPDATE
        SET l1_count = greatest(d.l1_count + excluded.l1_count, 0), l2_count = greatest(d.l2_count + excluded.l2_count, 0),
            l3_count = greatest(d.l3_count + excluded.l3_count, 0)
        $statement$, changes);
    RETURN NULL;
END
$function$;
DROP TRIGGER IF EXISTS incidents_healed_on_insert ON incidents;
CREATE TRIGGER incidents_healed_on_insert AFTER INSERT ON incidents
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION cc_count_healed();
DROP TRIGGER IF EXISTS incidents_healed_on_update ON incidents;
CREATE TRIGGER incidents_healed_on_update AFTER UPDATE ON incidents
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION cc_count_healed();

-- What was settled in the last 90 days, counted once: as the platform, because the owner sees no tenant's rows.
DO $block$
DECLARE
    counted bigint;
    wanted bigint;
BEGIN
    SET LOCAL ROLE cc_platform;
    IF NOT EXISTS (SELECT FROM healed_days) THEN
        SELECT count(*) INTO wanted FROM incidents
        WHERE resolution_level IS NOT NULL AND resolved_at BETWEEN now() - interval '90 days' AND now() + interval '1 day';
        INSERT INTO healed_days (site_id, partner_id, day, l1_count, l2_count, l3_count)
        SELECT site_id, partner_id, cc_healed_day(resolved_at), count(*) FILTER (WHERE resolution_level = 'L1'),
               count(*) FILTER (WHERE resolution_level = 'L2'), count(*) FILTER (WHERE resolution_level = 'L3')
        FROM incidents
        WHERE resolution_level IS NOT NULL AND resolved_at BETWEEN now() - interval '90 days' AND now() + interval '1 day'
        GROUP BY 1, 2, 3;
        SELECT coalesce(sum(l1_count + l2_count + l3_count), 0) INTO counted FROM healed_days;
        ASSERT counted = wanted, format('counted %s of %s settled incidents', counted, wanted);
    END IF;
    RESET ROLE;
END
$block$;
