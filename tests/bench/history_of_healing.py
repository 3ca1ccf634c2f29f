"""The rest of that long history: what repairs taught, what was ordered of many, erased, set, signed and charted."""

import base64
import zlib
from dataclasses import replace

import orjson

from ccserver import catalogue
from ccshared.policy import Policy, make
from ccshared.rules import BUILT_IN
from ccshared.runbooks import digest

RUNBOOK = "run-backup"
# Past references and triggers as well. Rules that run, run on every appliance; the orders for many are of those orders
# that the history has, one of a site each.
FILL = """
    SET session_replication_role = replica;
    INSERT INTO pattern_runbooks (site_id, partner_id, appliance_id, pattern_signature, runbook_id, incident_type,
                                  total_count, success_count, total_resolution_time_ms, order_count,
                                  order_success_count, epoch_number, revision, due)
    SELECT site_id, partner_id, id, lpad(to_hex(n), 16, '0'), '{runbook}', 'backup_stale', 9, 8, 90000, 1, 1, 1, 1,
           false
    FROM appliances, generate_series(0, 19) n;
    INSERT INTO rules (partner_id, id, pattern_signature, runbook_id, conditions, status, comment, decided_by,
                       created_at, decided_at, evidence, canary_site_id, canary_appliance_id)
    SELECT 'p-0', 'r-' || n, signature, '{runbook}',
           jsonb_build_array(
               jsonb_build_object('field', 'incident_type', 'operator', 'eq', 'value', 'backup_stale'),
               jsonb_build_object('field', 'pattern_signature', 'operator', 'eq', 'value', signature)),
           status, 'It helps.', 'user:olga', now() - n * interval '1 hour', now() - n * interval '30 minutes',
           jsonb_build_object('count', 27000, 'successes', 24000, 'lower_bound_permille', 880, 'mean_ms', 10000,
                              'appliances', 3000, 'sites', 1000, 'loudest', 9, 'eligible', true),
           's-1', 'a-3'
    FROM (SELECT n, lpad(to_hex(n % 20), 16, '0') AS signature,
                 (ARRAY['active', 'active', 'canary', 'candidate', 'rejected', 'demoted'])[1 + n % 6] AS status
          FROM generate_series(0, 119) n) made;
    INSERT INTO rule_trials (site_id, partner_id, appliance_id, rule_id, total_count, success_count, epoch_number,
                             revision, due)
    SELECT a.site_id, a.partner_id, a.id, r.id, 12, 11, 1, 1, false
    FROM rules r, appliances a
    WHERE r.status IN ('active', 'demoted') OR r.status = 'canary' AND a.id = r.canary_appliance_id;
    INSERT INTO fleet_orders (partner_id, id, runbook_id, runbook_digest, parameters, life_s, status, created_by,
                              creator, created_at, finished_at)
    SELECT 'p-0', 'f-' || f, '{runbook}', '{digest}', '{{}}', 3600,
           CASE WHEN f % 10 = 0 THEN 'paused' ELSE 'done' END, 'user:olga', 'user:olga', now() - f * interval '1 day',
           CASE WHEN f % 10 > 0 THEN now() - f * interval '1 day' + interval '1 hour' END
    FROM generate_series(0, {fleets} - 1) f;
    INSERT INTO fleet_order_members (site_id, partner_id, appliance_id, fleet_order_id, turn, order_id)
    SELECT 's-' || a / {boxes}, 'p-0', 'a-' || a, 'f-' || f, a,
           CASE WHEN a % {boxes} = 0 THEN md5((f * {sites} + a / {boxes})::text) END
    FROM generate_series(0, {fleets} - 1) f, generate_series(0, {sites} * {boxes} - 1) a;
    UPDATE orders o SET fleet_order_id = m.fleet_order_id
    FROM fleet_order_members m WHERE m.site_id = o.site_id AND m.order_id = o.id;
    INSERT INTO redactions (site_id, partner_id, id, log_id, seq, leaf, reason, requested_by, approved_by, approved_at)
    SELECT site_id, partner_id, 'x-' || log_id, log_id, seq, bundle_hash, 'A name was in it.', 'user:olga',
           'user:otto', now()
    FROM evidence_bundles b
    WHERE EXISTS (SELECT FROM appliances a WHERE a.site_id = b.site_id AND a.id = b.appliance_id)
      AND seq = {size} - {per};
    INSERT INTO settings (partner_id, level, target_id, name, value, updated_by)
    SELECT 'p-0', 'partner', 'p-0', 'healing.mode', '"heal"'::jsonb, 'user:olga'
    UNION ALL SELECT 'p-0', 'site', id, 'healing.mode', '"observe"', 'user:olga' FROM sites WHERE id LIKE '%0'
    UNION ALL SELECT 'p-0', 'appliance', id, 'checks.backup.max_age_hours', '24', 'user:olga' FROM appliances;
    INSERT INTO users (partner_id, id, login, role, password_hash)
    VALUES ('platform', 'u-platform', 'admin', 'platform_admin', 'x');
    INSERT INTO audit_log (partner_id, seq, at, actor, action, target, entry, hash)
    SELECT 'platform', seq, at, actor, action, target, entry, hash FROM audit_log WHERE partner_id = 'p-0';
    INSERT INTO audit_heads (partner_id, size, hash)
    SELECT 'platform', size, hash FROM audit_heads WHERE partner_id = 'p-0';
    INSERT INTO notification_channels (partner_id, id, kind, name, target_sealed, target_hint, min_severity)
    SELECT 'platform', id, kind, name, target_sealed, target_hint, min_severity FROM notification_channels;
    INSERT INTO problems (partner_id, id, kind, subject, of_site, severity, says, began_at, noticed_at, ended_at)
    SELECT 'platform', id, 'sweep', id, NULL, severity, says, began_at, noticed_at, ended_at
    FROM problems ORDER BY began_at DESC LIMIT 1000;
    INSERT INTO notifications (partner_id, id, channel_id, dedupe_key, body, created_at, attempts, delivered_at,
                               problem_id, event)
    SELECT 'platform', n.id, n.channel_id, n.dedupe_key, n.body, n.created_at, n.attempts, n.delivered_at,
           n.problem_id, n.event
    FROM notifications n JOIN problems p ON p.partner_id = 'platform' AND p.id = n.problem_id;
    INSERT INTO notification_attempts (partner_id, notification_id, number, took_ms, status)
    SELECT partner_id, id, 1, 120, 204 FROM notifications;
    INSERT INTO healed_days (site_id, partner_id, day, l1_count, l2_count, l3_count)
    SELECT site_id, partner_id, date_bin('1 day', resolved_at, timestamptz 'epoch'),
           count(*) FILTER (WHERE resolution_level = 'L1'), count(*) FILTER (WHERE resolution_level = 'L2'),
           count(*) FILTER (WHERE resolution_level = 'L3')
    FROM incidents WHERE resolution_level IS NOT NULL AND resolved_at > now() - interval '400 days' GROUP BY 1, 2, 3;
    INSERT INTO queue_samples (site_id, partner_id, appliance_id, at, waiting)
    SELECT site_id, partner_id, id, date_bin('10 minutes', now() - n * interval '10 minutes', timestamptz 'epoch'),
           n % 50
    FROM appliances, generate_series(0, {samples} - 1) n ON CONFLICT DO NOTHING;
    RESET session_replication_role;
"""


def words() -> dict[str, object]:
    """Return what the filling says of the catalogue: a runbook of it, and its digest."""
    return {"runbook": RUNBOOK, "digest": digest(catalogue.load()[RUNBOOK])}


def policies() -> list[bytes]:
    """Return two versions of a policy as they are kept: the whole catalogue, and a setting apart."""
    before = Policy(
        site="s-0", appliance="a-0", version=0, mode="heal", window=None, canary=False, rules=BUILT_IN,
        settings={"checks.backup.max_age_hours": 24}, runbooks=tuple(catalogue.load().values()),
    )  # fmt: skip
    after = replace(before, mode="observe", settings={"checks.backup.max_age_hours": 48})
    return [zlib.compress(_envelope(each)) for each in (before, after)]


def _envelope(policy: Policy) -> bytes:
    return orjson.dumps({"payload": base64.b64encode(orjson.dumps(make(policy))).decode()})
