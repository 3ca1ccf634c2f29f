-- What people do with incidents: columns that the agent never writes, comments, and each site's totals kept up at write time.

ALTER TABLE incidents ADD COLUMN IF NOT EXISTS acknowledged_at timestamptz;
ALTER TABLE incidents ADD COLUMN IF NOT EXISTS acknowledged_by text CHECK (length(acknowledged_by) <= 300);
ALTER TABLE incidents ADD COLUMN IF NOT EXISTS closed_by_hand_at timestamptz;
ALTER TABLE incidents ADD COLUMN IF NOT EXISTS closed_by_hand_by text CHECK (length(closed_by_hand_by) <= 300);
ALTER TABLE incidents ADD COLUMN IF NOT EXISTS hand_revision bigint NOT NULL DEFAULT 1;

CREATE TABLE IF NOT EXISTS incident_comments (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    incident_id text NOT NULL,
    id text NOT NULL CHECK (id ~ '^[0-9a-z-]{1,64}$'),
    author text NOT NULL CHECK (length(author) <= 300),
    body text NOT NULL CHECK (length(body) BETWEEN 1 AND 4000),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (site_id, incident_id, id),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE RESTRICT,
    FOREIGN KEY (site_id, incident_id) REFERENCES incidents (site_id, id) ON DELETE RESTRICT
);
CALL cc_secure_site_table('incident_comments');

-- One row a site: what an overview of a thousand sites reads instead of their history.
CREATE TABLE IF NOT EXISTS site_totals (
    site_id text NOT NULL,
    partner_id text NOT NULL,
    incidents bigint NOT NULL DEFAULT 0,
    open_low bigint NOT NULL DEFAULT 0,
    open_medium bigint NOT NULL DEFAULT 0,
    open_high bigint NOT NULL DEFAULT 0,
    open_critical bigint NOT NULL DEFAULT 0,
    success_count bigint NOT NULL DEFAULT 0,
    l1_count bigint NOT NULL DEFAULT 0,
    l2_count bigint NOT NULL DEFAULT 0,
    l3_count bigint NOT NULL DEFAULT 0,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (site_id),
    FOREIGN KEY (site_id, partner_id) REFERENCES sites (id, partner_id) ON DELETE RESTRICT
);
CREATE INDEX IF NOT EXISTS idx_site_totals_partner ON site_totals (partner_id, site_id);
CALL cc_secure_site_table('site_totals');

-- An incident counts as open until its appliance or a person closed it. Statement triggers count a whole batch at once; a
-- statement has only the transition tables of its kind, so the text is put together for each.
CREATE OR REPLACE FUNCTION cc_count_incidents() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    counted constant text := 'SELECT site_id, partner_id, severity, outcome, resolution_level, %s AS n, '
        'coalesce(resolved_at, closed_by_hand_at) IS NULL AS open FROM %s';
    changes text;
BEGIN
    changes := concat_ws(' UNION ALL ',
        CASE WHEN TG_OP IN ('INSERT', 'UPDATE') THEN format(counted, '1', 'added') END,
        CASE WHEN TG_OP IN ('UPDATE', 'DELETE') THEN format(counted, '-1', 'removed') END);
    EXECUTE format($statement$
        INSERT INTO site_totals AS t (
            site_id, partner_id, incidents, open_low, open_medium, open_high, open_critical, success_count, l1_count,
            l2_count, l3_count)
        SELECT site_id, partner_id, sum(n),
               coalesce(sum(n) FILTER (WHERE open AND severity = 'low'), 0),
               coalesce(sum(n) FILTER (WHERE open AND severity = 'medium'), 0),
               coalesce(sum(n) FILTER (WHERE open AND severity = 'high'), 0),
               coalesce(sum(n) FILTER (WHERE open AND severity = 'critical'), 0),
               coalesce(sum(n) FILTER (WHERE outcome = 'success'), 0),
               coalesce(sum(n) FILTER (WHERE resolution_level = 'L1'), 0),
               coalesce(sum(n) FILTER (WHERE resolution_level = 'L2'), 0),
               coalesce(sum(n) FILTER (WHERE resolution_level = 'L3'), 0)
        FROM (%s) AS change
        GROUP BY site_id, partner_id
        ON CONFLICT (site_id) DO UPDATE
        SET incidents = t.incidents + excluded.incidents, open_low = t.open_low + excluded.open_low,
            open_medium = t.open_medium + excluded.open_medium, open_high = t.open_high + excluded.open_high,
            open_critical = t.open_critical + excluded.open_critical,
            success_count = t.success_count + excluded.success_count, l1_count = t.l1_count + excluded.l1_count,
            l2_count = t.l2_count + excluded.l2_count, l3_count = t.l3_count + excluded.l3_count, changed_at = now()
        $statement$, changes);
    RETURN NULL;
END
$function$;
DROP TRIGGER IF EXISTS incidents_counted_on_insert ON incidents;
CREATE TRIGGER incidents_counted_on_insert AFTER INSERT ON incidents
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION cc_count_incidents();
DROP TRIGGER IF EXISTS incidents_counted_on_update ON incidents;
CREATE TRIGGER incidents_counted_on_update AFTER UPDATE ON incidents
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION cc_count_incidents();
DROP TRIGGER IF EXISTS incidents_counted_on_delete ON incidents;
CREATE TRIGGER incidents_counted_on_delete AFTER DELETE ON incidents
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION cc_count_incidents();

-- Incidents that are there already, counted once: as the platform, because the owner sees no tenant's rows.
DO $block$
DECLARE
    counted integer;
    wanted integer;
BEGIN
    SET LOCAL ROLE cc_platform;
    SELECT count(DISTINCT i.site_id) INTO wanted
    FROM incidents i WHERE NOT EXISTS (SELECT FROM site_totals t WHERE t.site_id = i.site_id);
    INSERT INTO site_totals (
        site_id, partner_id, incidents, open_low, open_medium, open_high, open_critical, success_count, l1_count,
        l2_count, l3_count)
    SELECT site_id, partner_id, count(*),
           count(*) FILTER (WHERE resolved_at IS NULL AND severity = 'low'),
           count(*) FILTER (WHERE resolved_at IS NULL AND severity = 'medium'),
           count(*) FILTER (WHERE resolved_at IS NULL AND severity = 'high'),
           count(*) FILTER (WHERE resolved_at IS NULL AND severity = 'critical'),
           count(*) FILTER (WHERE outcome = 'success'),
           count(*) FILTER (WHERE resolution_level = 'L1'),
           count(*) FILTER (WHERE resolution_level = 'L2'),
           count(*) FILTER (WHERE resolution_level = 'L3')
    FROM incidents i
    WHERE NOT EXISTS (SELECT FROM site_totals t WHERE t.site_id = i.site_id)
    GROUP BY site_id, partner_id;
    GET DIAGNOSTICS counted = ROW_COUNT;
    ASSERT counted = wanted, format('counted the incidents of %s sites, not of %s', counted, wanted);
    RESET ROLE;
END
$block$;
