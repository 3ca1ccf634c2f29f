"""Entries carried over from a log that ended: shown as what they were, at their old place, and once."""

import secrets
from typing import Any

import asyncpg

from ccserver import deriving
from ccshared import canonical, entries, ids, merkle
from ccshared.vocabulary import Clock, Kind
from tests.devices import NOW_MS, Device


def carry(device: Device, old: bytes, **changes: Any) -> bytes:
    """Seal an entry that carries an old one."""
    members = canonical.read(old)
    body = {"log": members["log"], "seq": members["seq"], "leaf": merkle.leaf_hash(old).hex(), "payload": old.decode()}
    bundle_id = changes.pop("bundle_id", members["id"])
    prev = merkle.leaf_hash(device.payloads[-1]).hex()
    draft = entries.Draft(Kind.RECOVERED, bundle_id, NOW_MS, Clock.SYNC, secrets.token_hex(16), body | changes)
    device.payloads.append(entries.seal(draft, device.origin, len(device.payloads), prev).payload)
    return device.payloads[-1]


def next_epoch(device: Device, number: int) -> list[bytes]:
    """Go on in a new log; return the old one's payloads."""
    old, device.payloads = device.payloads, []
    device.epoch = f"{number}-{secrets.token_hex(4)}"
    device.seal()
    return old


async def rows(device: Device) -> list[asyncpg.Record]:
    async with device.server.db.platform() as scope:
        return list(
            await scope.conn.fetch("SELECT * FROM evidence_bundles WHERE bundle_type = 'recovered' ORDER BY id")
        )


async def status(device: Device, check: str = "backup") -> Any:
    async with device.server.db.partner("acme") as scope:
        return await scope.conn.fetchval(
            "SELECT (status, epoch_number, seq)::text FROM check_states WHERE check_id = $1", check
        )


async def sent(device: Device, end: int | None = None) -> None:
    answer = await device.send(device.batch(0, end))
    assert device.receipt(answer).checkpoint.size == len(device.payloads[:end])


async def test_a_carried_run_is_shown_as_what_it_was(device: Device) -> None:
    device.seal()
    device.check_run("backup", "fail")
    old = next_epoch(device, 2)
    carry(device, old[1])
    await sent(device)
    (row,) = await rows(device)
    assert (row["host_id"], row["check_id"], row["flag"]) == ("box", "backup", None)
    assert row["carried_hash"] == merkle.leaf_hash(old[1])
    assert await status(device) == "(fail,1,1)"


async def test_what_arrived_in_its_own_log_counts_once(device: Device) -> None:
    device.seal()
    device.check_run("backup", "fail")
    await sent(device)
    old = next_epoch(device, 2)
    carry(device, old[1])
    await sent(device)
    (row,) = await rows(device)
    assert (row["check_id"], row["flag"]) == (None, None)


async def test_what_two_logs_carry_counts_once_and_so_does_the_late_original(device: Device) -> None:
    device.seal()
    device.check_run("backup", "fail")
    first_epoch, old = device.epoch, next_epoch(device, 2)
    carry(device, old[1])
    await sent(device)
    next_epoch(device, 3)
    carry(device, old[1])
    await sent(device)
    assert [row["check_id"] for row in await rows(device)] == ["backup", None]
    device.epoch, device.payloads = first_epoch, old
    await sent(device)
    async with device.server.db.platform() as scope:
        ids_ = await scope.conn.fetch("SELECT check_id, flag FROM evidence_bundles WHERE check_id IS NOT NULL")
    assert [tuple(row) for row in ids_] == [("backup", None)]


async def test_the_same_bundle_id_with_another_content_stays_and_is_flagged_as_a_fork(device: Device) -> None:
    device.seal()
    device.check_run("backup", "fail")
    old = next_epoch(device, 2)[1]
    carry(device, old)
    await sent(device)
    next_epoch(device, 3)
    carry(device, old.replace(b'"reason":"because"', b'"reason":"becauze"'))
    await sent(device)
    first, second = await rows(device)
    assert (first["check_id"], first["flag"]) == ("backup", None)
    assert (second["check_id"], second["flag"]) == (None, deriving.FORK)
    assert second["payload"] is not None


async def test_an_old_run_never_hides_a_newer_one(device: Device) -> None:
    device.seal()
    device.check_run("backup", "fail")
    old = next_epoch(device, 2)
    device.check_run("backup", "pass")
    carry(device, old[1])
    await sent(device)
    assert await status(device) == "(pass,2,1)"


async def test_a_long_payload_may_be_carried(device: Device) -> None:
    device.seal()
    device.seal(Kind.HEARTBEAT, {"version": '"' * 120_000})
    old = next_epoch(device, 2)
    assert len(carry(device, old[1])) > 256 * 1024
    await sent(device)
    assert (await rows(device))[0]["flag"] is None


async def test_what_only_looks_like_a_carried_entry_is_stored_and_flagged(device: Device) -> None:
    device.seal()
    device.check_run("backup", "fail")
    old = next_epoch(device, 2)
    nested = carry(device, old[1])
    other = device.origin.replace(device.appliance_id, ids.new_id())
    carry(device, old[1], leaf="0" * 64, bundle_id="1" * 32)
    carry(device, old[1], bundle_id="2" * 32)
    carry(device, old[1], seq=2, bundle_id="3" * 32)
    carry(device, old[1], log=other, bundle_id="4" * 32)
    carry(device, old[1], payload="{}", bundle_id="5" * 32)
    carry(device, old[1], payload=7, bundle_id="6" * 32)
    carry(device, nested, bundle_id="7" * 32)
    await sent(device)
    flags = [row["flag"] for row in await rows(device)]
    assert flags == [None] + [deriving.NOT_CARRIED] * 7
