-- What pages read at size: how each site stands, and orders of a status.

-- How each site of the partner stands, or each that an auditor may read; a family that never ran on an appliance is unknown.
-- It runs as whoever asks, under their row security: naming the partner is the second lock. `p_online`, `p_overdue` and
-- `p_fresh` are since when a check-in and a check run count as such.
SET LOCAL check_function_bodies = off;  -- else it is planned at once, as somebody whom row security lets see nothing
CREATE OR REPLACE FUNCTION cc_sites_stand(
    p_partner text, p_auditor text, p_online timestamptz, p_overdue timestamptz, p_now timestamptz, p_fresh timestamptz,
    p_families text[])
RETURNS TABLE (
    id text, name text, closed_at timestamptz, passed bigint, failed bigint, unknown bigint, waived bigint,
    as_of timestamptz, last_run timestamptz, online bigint, overdue bigint, offline bigint, never bigint, waiting bigint,
    waiting_since timestamptz, waiting_as_of timestamptz, open_critical bigint, open_high bigint, open_medium bigint,
    open_low bigint, open bigint, succeeded bigint, l1 bigint, l2 bigint, l3 bigint, alarms bigint)
LANGUAGE sql STABLE AS $function$
WITH box AS MATERIALIZED (
    SELECT site_id, id, last_checkin, coalesce(waiting, 0) AS waiting,
           oldest_at - coalesce(clock_offset_ms, 0) * interval '1 millisecond' AS since
    FROM appliances WHERE partner_id = p_partner AND revoked_at IS NULL
), waived AS MATERIALIZED (
    SELECT site_id, check_id, bool_or(host_id IS NULL) AS everywhere, array_agg(host_id) AS hosts
    FROM waivers WHERE partner_id = p_partner AND revoked_at IS NULL AND expires_at > p_now
    GROUP BY site_id, check_id
), state AS (
    SELECT c.site_id, c.appliance_id, c.seen_at, 1 << array_position(p_families, c.check_id) AS family,
           CASE WHEN w.everywhere OR c.host_id = ANY (w.hosts) THEN 3 WHEN c.seen_at <= p_fresh THEN 4
                WHEN c.status = 'pass' THEN 0 WHEN c.status = 'fail' THEN 1 ELSE 2 END AS said
    FROM check_states c LEFT JOIN waived w ON w.site_id = c.site_id AND w.check_id = c.check_id
    WHERE c.partner_id = p_partner
    OFFSET 0  -- so that each is said once, and not anew for every sum
), checked AS (
    SELECT site_id, appliance_id, (count(*) FILTER (WHERE said = 0))::integer AS passed,
           (count(*) FILTER (WHERE said = 1))::integer AS failed,
           (count(*) FILTER (WHERE said = 3))::integer AS waived,
           (count(*) FILTER (WHERE said IN (2, 4)))::integer AS unknown, max(seen_at) AS last_run,
           min(seen_at) FILTER (WHERE said < 3) AS as_of, bit_or(family) AS families
    FROM state GROUP BY site_id, appliance_id
), boxes AS (
    SELECT box.site_id, count(*) FILTER (WHERE last_checkin > p_online) AS online,
           count(*) FILTER (WHERE last_checkin <= p_online AND last_checkin > p_overdue) AS overdue,
           count(*) FILTER (WHERE last_checkin <= p_overdue) AS offline,
           count(*) FILTER (WHERE last_checkin IS NULL) AS never, sum(waiting)::bigint AS waiting,
           min(since) FILTER (WHERE waiting > 0 AND since <= last_checkin) AS waiting_since,
           min(last_checkin) FILTER (WHERE waiting > 0) AS waiting_as_of, sum(passed) AS passed,
           sum(failed) AS failed, sum(waived) AS waived,
           sum(coalesce(unknown, 0) + cardinality(p_families)
               - bit_count(coalesce(families, 0)::bit(32))::integer) AS unknown,
           min(as_of) AS as_of, max(last_run) AS last_run
    FROM box LEFT JOIN checked c ON c.site_id = box.site_id AND c.appliance_id = box.id
    GROUP BY box.site_id
)
SELECT s.id, s.name, s.closed_at, coalesce(passed, 0) AS passed, coalesce(failed, 0) AS failed,
       coalesce(unknown, 0) AS unknown, coalesce(waived, 0) AS waived, as_of, last_run,
       coalesce(online, 0) AS online, coalesce(overdue, 0) AS overdue, coalesce(offline, 0) AS offline,
       coalesce(never, 0) AS never, coalesce(waiting, 0) AS waiting, waiting_since, waiting_as_of,
       coalesce(open_critical, 0) AS open_critical, coalesce(open_high, 0) AS open_high,
       coalesce(open_medium, 0) AS open_medium, coalesce(open_low, 0) AS open_low,
       coalesce(open_critical + open_high + open_medium + open_low, 0) AS open,
       coalesce(success_count, 0) AS succeeded, coalesce(l1_count, 0) AS l1, coalesce(l2_count, 0) AS l2,
       coalesce(l3_count, 0) AS l3, coalesce(forks, 0) + coalesce(faults, 0) AS alarms
FROM sites s LEFT JOIN boxes ON boxes.site_id = s.id
LEFT JOIN site_totals t ON t.partner_id = p_partner AND t.site_id = s.id
LEFT JOIN (SELECT site_id, count(*) AS forks FROM equivocations WHERE partner_id = p_partner GROUP BY site_id) e
  ON e.site_id = s.id
LEFT JOIN (SELECT site_id, count(*) AS faults FROM log_verifications
           WHERE partner_id = p_partner AND fault IS NOT NULL GROUP BY site_id) v ON v.site_id = s.id
LEFT JOIN user_sites u ON u.partner_id = p_partner AND u.site_id = s.id AND u.user_id = p_auditor
WHERE s.partner_id = p_partner AND (p_auditor IS NULL OR u.user_id IS NOT NULL)
$function$;
REVOKE ALL ON FUNCTION cc_sites_stand(text, text, timestamptz, timestamptz, timestamptz, timestamptz, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cc_sites_stand(text, text, timestamptz, timestamptz, timestamptz, timestamptz, text[]) TO cc_server;

CREATE INDEX IF NOT EXISTS idx_orders_of_status ON orders (partner_id, status, created_at DESC, id DESC);
