"""A partner with a thousand sites of three appliances and a long history: made once in SQL, kept, and used again."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from ccserver import migrate
from ccserver.localpg import Urls
from ccshared import ed25519, notes
from tests.bench import history_of_healing
from tests.databases import Server

SITES, BOXES = 1000, 3
APPLIANCES = SITES * BOXES
SERVER_NAME = "cc.example"
MIGRATIONS = Path(migrate.__file__).parent / "migrations"
# Past references and triggers, for they are not on trial. What stands at once is the same in each; what was, is scaled:
# {per} entries a log, {incidents} incidents of which twenty of a site are open, {orders} orders and audit entries.
FILL = """
    SET session_replication_role = replica;
    INSERT INTO partners (id, name) VALUES ('p-0', 'Partner');
    INSERT INTO sites (id, partner_id, name)
    SELECT 's-' || s, 'p-0', 'Clinic ' || lpad(s::text, 4, '0') FROM generate_series(0, {sites} - 1) s;
    INSERT INTO appliances (site_id, partner_id, id, hostname, public_key, last_checkin, waiting, oldest_at, clock,
                            clock_offset_ms, epoch, version)
    SELECT 's-' || a / {boxes}, 'p-0', 'a-' || a, 'box-' || a % {boxes}, sha256(a::text::bytea),
           now() - random() * interval '20 minutes', a % 50, now() - interval '1 hour', 'sync', 12, '1-0a0b0c0d',
           '0.1.0'
    FROM generate_series(0, {appliances} - 1) a;
    INSERT INTO check_states (site_id, partner_id, appliance_id, host_id, check_id, status, severity, reason, since,
                              seen_at, epoch_number, seq)
    SELECT site_id, partner_id, id, hostname, family, CASE WHEN random() < 0.1 THEN 'fail' ELSE 'pass' END, 'high',
           'because of this', now() - interval '3 days', now() - random() * interval '2 hours', 1, 1
    FROM appliances, unnest(ARRAY['patching', 'antivirus', 'backup', 'logging', 'firewall', 'encryption']) family;
    INSERT INTO waivers (site_id, partner_id, id, check_id, reason, created_by, expires_at)
    SELECT id, partner_id, id, 'backup', 'later', 'user:olga', now() + interval '1 day' FROM sites WHERE id LIKE '%0';
    INSERT INTO evidence_bundles (site_id, partner_id, appliance_id, log_id, seq, bundle_id, bundle_type, bundle_hash,
                                  payload, flag, host_id, check_id, hipaa_controls, clock, generated_at, received_at)
    SELECT 's-' || a / {boxes}, 'p-0', 'a-' || a, a + 1, {size} - {per} + n, md5(n || '-' || a), 'check_run',
           sha256((n || '-' || a)::bytea), convert_to(repeat(md5(n || '-' || a), 12), 'UTF8'),
           CASE WHEN (n * {appliances} + a) % 5000 = 0 THEN 'unknown kind' END, 'box-' || a % {boxes}, 'backup',
           '["164.308(a)(7)"]', 'sync', now() - ({per} - n) * interval '1 hour', now() - ({per} - n) * interval '1 hour'
    FROM generate_series(0, {per} - 1) n, generate_series(0, {appliances} - 1) a;
    INSERT INTO incidents (site_id, partner_id, appliance_id, id, host_id, incident_type, severity, raw_data,
                           pattern_signature, occurrences, created_at, last_seen_at, resolved_at, resolution_level,
                           resolution_action, outcome, resolution_time_ms, epoch_number, revision)
    SELECT 's-' || n % {sites}, 'p-0', 'a-' || n % {sites} * {boxes} + n / {sites} % {boxes}, md5(n::text),
           'box-' || n / {sites} % {boxes}, 'backup_stale',
           (ARRAY['low', 'medium', 'high', 'critical'])[1 + (hashint8(n) & 3)],
           jsonb_build_object('reason', 'the last backup is older than 24 h', 'facts', jsonb_build_object('age', n)),
           lpad(to_hex(n % 500), 16, '0'), 1 + n % 4, moment, moment + interval '1 hour',
           CASE WHEN open THEN NULL ELSE moment + interval '2 hours' END,
           CASE WHEN open THEN NULL ELSE (ARRAY['L1', 'L1', 'L1', 'L2', 'L3'])[1 + n % 5] END,
           CASE WHEN open THEN NULL ELSE 'ran run-backup' END, CASE WHEN open THEN NULL ELSE 'success' END,
           CASE WHEN open THEN NULL ELSE 90000 END, 1, 1
    FROM (SELECT n, now() - ({incidents} - n) * interval '365 days' / {incidents} AS moment,
                 n / {sites} % ({incidents} / {sites} / 20) = 0 AS open
          FROM generate_series(0, {incidents} - 1) n) made;
    INSERT INTO site_totals (site_id, partner_id, incidents, open_low, open_medium, open_high, open_critical,
                             success_count, l1_count, l2_count, l3_count)
    SELECT site_id, partner_id, count(*), count(*) FILTER (WHERE resolved_at IS NULL AND severity = 'low'),
           count(*) FILTER (WHERE resolved_at IS NULL AND severity = 'medium'),
           count(*) FILTER (WHERE resolved_at IS NULL AND severity = 'high'),
           count(*) FILTER (WHERE resolved_at IS NULL AND severity = 'critical'),
           count(outcome), count(*) FILTER (WHERE resolution_level = 'L1'),
           count(*) FILTER (WHERE resolution_level = 'L2'), count(*) FILTER (WHERE resolution_level = 'L3')
    FROM incidents GROUP BY site_id, partner_id;
    INSERT INTO incident_comments (site_id, partner_id, incident_id, id, author, body)
    SELECT site_id, partner_id, id, 'c-' || n, 'user:olga', 'Looked at it.'
    FROM incidents, generate_series(1, 3) n WHERE id < '03';
    INSERT INTO compliance_snapshots (site_id, partner_id, snapshot_at, patching_status, antivirus_status,
                                      backup_status, logging_status, firewall_status, encryption_status)
    SELECT 's-' || s, 'p-0', now() - d * interval '1 day', true, true, d % 7 > 0, true, NULL, true
    FROM generate_series(0, {days} - 1) d, generate_series(0, {sites} - 1) s;
    INSERT INTO orders (site_id, partner_id, appliance_id, id, runbook_id, created_by, created_at, expires_at, status,
                        finished_at)
    SELECT 's-' || n % {sites}, 'p-0', 'a-' || n % {sites} * {boxes}, md5(n::text), 'run-backup', 'user:olga',
           now() - ({orders} - n) * interval '1 minute', now(), 'succeeded', now()
    FROM generate_series(0, {orders} - 1) n;
    INSERT INTO audit_log (partner_id, seq, at, actor, action, target, entry, hash)
    SELECT 'p-0', n, now() - ({orders} - n) * interval '1 minute', 'user:' || n % 50, 'incident.acknowledge',
           md5(n::text), '{{"action":"incident.acknowledge"}}', sha256(n::text::bytea)
    FROM generate_series(0, {orders} - 1) n;
    INSERT INTO audit_heads (partner_id, size, hash)
    SELECT 'p-0', {orders}, sha256(({orders} - 1)::text::bytea);
    INSERT INTO users (partner_id, id, login, role, password_hash)
    SELECT 'p-0', 'u-' || n, 'person-' || n, 'owner', 'x' FROM generate_series(0, 199) n;
    INSERT INTO api_keys (partner_id, id, key_hash, name, role, created_by, expires_at)
    SELECT 'p-0', 'k-' || n, encode(sha256(n::text::bytea), 'hex'), 'key', 'viewer', 'user:olga', now()
    FROM generate_series(0, 199) n;
    INSERT INTO enrollment_codes (site_id, partner_id, secret_hash, expires_at)
    SELECT 's-' || n % {sites}, 'p-0', encode(sha256(n::text::bytea), 'hex'), now() FROM generate_series(0, 2999) n;
    INSERT INTO notification_channels (partner_id, id, kind, name, target_sealed, target_hint, min_severity)
    SELECT 'p-0', 'ch-' || n, 'webhook', 'channel ' || n, '\\x00', 'hooks.example', 'low' FROM generate_series(0, 9) n;
    INSERT INTO problems (partner_id, id, kind, subject, of_site, severity, says, began_at, noticed_at, ended_at)
    SELECT 'p-0', md5(n::text), 'offline', 'a-' || n, 's-' || n % {sites}, 'high', 'It does not answer.',
           now() - ({orders} - n) * interval '1 minute', now() - ({orders} - n) * interval '1 minute',
           CASE WHEN n % 100 > 0 THEN now() END
    FROM generate_series(0, {orders} - 1) n;
    INSERT INTO notifications (partner_id, id, channel_id, dedupe_key, body, created_at, attempts, delivered_at,
                               problem_id, event)
    SELECT 'p-0', md5(n::text), 'ch-' || n % 10, n::text, '{{}}', now() - ({orders} - n) * interval '1 minute', 1,
           now(), md5(n::text), 'opened'
    FROM generate_series(0, {orders} - 1) n;
    INSERT INTO pattern_stats (site_id, partner_id, appliance_id, pattern_signature, incident_type, total_count,
                               l1_count, l2_count, l3_count, success_count, total_resolution_time_ms, epoch_number,
                               revision)
    SELECT site_id, partner_id, id, lpad(to_hex(n), 16, '0'), 'backup_stale', 9, 7, 1, 1, 8, 900000, 1, 1
    FROM appliances, generate_series(0, 19) n;
    RESET session_replication_role;
"""


@dataclass(frozen=True)
class Size:
    """How much history: so many incidents and at least as many entries."""

    incidents: int

    @property
    def per_log(self) -> int:
        """Entries of each log."""
        return -(-self.incidents // APPLIANCES)

    @property
    def days(self) -> int:
        """Days with a snapshot: what a site's page shows at least."""
        return max(90, min(self.incidents // 2_500, 2_000))


async def database(server: Server, size: Size, witness: str, tell: Callable[[str], None]) -> Urls:
    """Return a database with that much history, receipted by the witness key of that name.

    It is made anew when it is not there, or its schema, its filling or the key is another.
    """
    name = f"cc_pages_{size.incidents}_{_digest(witness)}"
    await _drop_others(server, name)
    admin = await asyncpg.connect(server.urls("postgres").admin)
    known = await admin.fetchval("SELECT true FROM pg_database WHERE datname = $1", name)
    await admin.close()
    if known:
        return server.urls(name)
    tell(f"making a history of {size.incidents:,} incidents, once")
    urls = server.create_database(f"{name}_new")
    await migrate.run(urls.owner, lambda _: None)
    await _fill(urls, size, witness)
    admin = await asyncpg.connect(server.urls("postgres").admin)
    await admin.execute(f'ALTER DATABASE "{name}_new" RENAME TO "{name}"')
    await admin.close()
    return server.urls(name)


def _digest(witness: str) -> str:
    made = hashlib.sha256((FILL + history_of_healing.FILL + witness).encode())
    for path in sorted(MIGRATIONS.glob("*.sql")):
        made.update(path.read_bytes())
    return made.hexdigest()[:12]


async def _drop_others(server: Server, name: str) -> None:
    """Drop the same history of an earlier schema, and one that was not made to its end."""
    admin = await asyncpg.connect(server.urls("postgres").admin)
    beginning = name.rpartition("_")[0]
    for row in await admin.fetch("SELECT datname FROM pg_database WHERE starts_with(datname, $1)", f"{beginning}_"):
        if row["datname"] != name:
            await admin.execute(f'DROP DATABASE "{row["datname"]}" WITH (FORCE)')
    await admin.close()


async def _fill(urls: Urls, size: Size, witness: str) -> None:
    conn = await asyncpg.connect(urls.admin)
    log_size = 1 << (size.per_log - 1).bit_length()
    await conn.execute("SET maintenance_work_mem = '512MB'; SET work_mem = '256MB'")
    said = {
        "sites": SITES, "boxes": BOXES, "appliances": APPLIANCES, "per": size.per_log, "size": log_size,
        "incidents": size.incidents, "days": size.days, "orders": size.incidents // 10,
        "fleets": min(size.incidents // 10 // SITES, 50), "samples": 7 * 24 * 6,
    }  # fmt: skip
    await conn.execute(FILL.format(**said))
    await conn.execute(history_of_healing.FILL.format(**said, **history_of_healing.words()))
    await conn.execute("SET session_replication_role = replica")
    records = [(*_log(number, log_size), witness) for number in range(APPLIANCES)]
    await conn.copy_records_to_table("evidence_logs", records=records, columns=_LOG)
    for version, envelope in enumerate(history_of_healing.policies(), 1):
        await conn.execute(
            "INSERT INTO policies (site_id, partner_id, appliance_id, version, content_hash, envelope)"
            " SELECT site_id, partner_id, id, $1, $2, $3 FROM appliances",
            version, f"{version:064x}", envelope,
        )  # fmt: skip
    await conn.execute("RESET session_replication_role")
    await conn.execute("VACUUM ANALYZE")
    await conn.close()


_LOG = (
    "site_id", "partner_id", "appliance_id", "id", "epoch", "origin", "public_key", "size", "last_leaf",
    "compact_range", "checkpoint", "cosigned_at", "witness_name",
)  # fmt: skip


def _log(number: int, size: int) -> tuple[object, ...]:
    """Return a log whose receipt verifies: of a power of two of entries, so that its root is its whole range."""
    seed, root, epoch = ed25519.new_seed(), os.urandom(32), "1-0a0b0c0d"
    origin = f"{SERVER_NAME}/log/a-{number}/{epoch}"
    signed = notes.sign_checkpoint(notes.Checkpoint(origin, size, root), seed)
    place = (f"s-{number // BOXES}", "p-0", f"a-{number}", number + 1, epoch, origin)
    return (*place, ed25519.public_key(seed), size, root, root, signed, 1_790_000_000)
