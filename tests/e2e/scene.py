"""A partner with three sites in every state that the dashboard knows, for tests that look at pages."""

from datetime import UTC, datetime, timedelta

import asyncpg

from ccserver import auth
from ccserver.queries import users
from ccserver.queries.users import User
from ccshared import controls, ids
from ccshared.vocabulary import Clock, Kind, Role
from tests.devices import Device, Running

LOGIN, PASSWORD = "olga@acme.example", "correct horse battery staple"

# check, status, severity, reason
Said = tuple[str, str, str, str]
_BACKUP = (
    "backup",
    "fail",
    "critical",
    "the last backup is 51 h old: /var/lib/backup/status.json, 2026-07-03T02:00:04Z",
)
_LOGGING = ("logging", "fail", "medium", "no canary line of the last 2 h in the journal")
_CHECKS: list[Said] = [
    ("antivirus", "pass", "low", "clamav-daemon is active, signatures of 6 h ago"),
    _BACKUP,
    ("encryption", "unknown", "critical", "no volume is configured: add checks.encryption.volumes to agent.toml"),
    ("firewall", "pass", "low", "the ruleset is the baseline's"),
    _LOGGING,
    ("patching", "pass", "low", "no security update is pending, the last update was 3 days ago"),
]


async def set_up(server: Running) -> None:
    """Fill the database through the real API, then move some times back, which only a superuser can."""
    await server.add_site("acme", "birch-dental")
    await server.add_site("acme", "cedar")
    await _rename(server)
    async with server.db.platform() as scope:
        user = User("acme", ids.new_id(), LOGIN, str(Role.OWNER))
        await users.insert(scope, user, auth.hash_password(PASSWORD))
    await _busy_clinic(server)
    await _silent_clinic(server)


async def _busy_clinic(server: Running) -> None:
    """Six checks, one of them stale, two incidents, and a second appliance with a clock of another decade."""
    device = await Device.enrolled(server, "acme", "acme-clinic")
    device.seal(at=_ms())
    for said in _CHECKS:
        _check_run(device, "acme-gateway", said)
    assert (await device.send(device.batch(0))).status_code == 200
    await _check_in(device, "acme-gateway", 0, {"epoch": device.epoch, "size": len(device.payloads)})
    await _report(device)
    wrong = await Device.enrolled(server, "acme", "acme-clinic")
    ten_years = 3652 * 86_400_000
    await _check_in(
        wrong, "acme-xray", ten_years, {"clock": "unsync", "waiting": 214, "oldest_at_ms": _ms() + ten_years - 10**7}
    )


async def _silent_clinic(server: Running) -> None:
    """An appliance that said good-bye yesterday: what it said then counts no more."""
    device = await Device.enrolled(server, "acme", "birch-dental")
    device.seal(at=_ms())
    device.clock = Clock.UNSYNC
    _check_run(device, "birch-server-room", ("backup", "pass", "low", "a backup of 3 h ago with a checksum"))
    device.seal(Kind.HEARTBEAT, {"version": "0.1.0"}, _ms())
    assert (await device.send(device.batch(0))).status_code == 200
    await _check_in(device, "birch-server-room", 0, {"waiting": 1, "oldest_at_ms": _ms(27)})
    conn = await asyncpg.connect(server.urls.admin)
    await conn.execute(
        "UPDATE appliances SET last_checkin = now() - interval '26 hours' WHERE site_id = 'birch-dental'"
    )
    await conn.execute("UPDATE check_states SET seen_at = now() - interval '27 hours' WHERE site_id = 'birch-dental'")
    await conn.execute("UPDATE check_states SET seen_at = now() - interval '3 hours' WHERE check_id = 'firewall'")
    await conn.close()


async def _rename(server: Running) -> None:
    names = [("acme-clinic", "Alder Street Clinic"), ("birch-dental", "Birch Dental"), ("cedar", "Cedar Paediatrics")]
    conn = await asyncpg.connect(server.urls.admin)
    await conn.execute("UPDATE partners SET name = 'Acme IT Services' WHERE id = 'acme'")
    await conn.executemany("UPDATE sites SET name = $2 WHERE id = $1", names)
    await conn.close()


def _check_run(device: Device, host: str, said: Said) -> None:
    check, status, severity, reason = said
    body: dict[str, object] = {"check": check, "host": host, "status": status, "severity": severity, "reason": reason}
    body |= {"since": _ms(72), "facts": {}, "hipaa_controls": controls.hipaa(check)}
    device.seal(Kind.CHECK_RUN, body, _ms(0.07))


async def _check_in(device: Device, hostname: str, offset_ms: int, more: dict[str, object]) -> None:
    said = {"version": "0.1.0", "hostname": hostname, "sent_at_ms": _ms() + offset_ms, "clock": "sync"} | more
    assert (await device.call("POST", "checkin", json=said)).status_code == 200


async def _report(device: Device) -> None:
    shared: dict[str, object] = {"epoch": 1, "revision": 1, "host_id": "acme-gateway", "pattern_signature": "0" * 16}
    backup: dict[str, object] = {
        "incident_type": "backup",
        "severity": "critical",
        "raw_data": {"reason": _BACKUP[3]},
        "occurrences": 613,
    }
    backup |= {"created_at_ms": _ms(51), "escalated_at_ms": _ms(50)}
    canary: dict[str, object] = {
        "incident_type": "canary_missing",
        "severity": "medium",
        "raw_data": {"reason": _LOGGING[3]},
    }
    canary |= {"created_at_ms": _ms(2)}
    incidents = [shared | one | {"id": ids.new_id(), "last_seen_at_ms": _ms()} for one in (backup, canary)]
    assert (await device.call("PUT", "incidents", json={"incidents": incidents})).status_code == 200


def _ms(hours_ago: float = 0) -> int:
    return int((datetime.now(UTC) - timedelta(hours=hours_ago)).timestamp() * 1000)
