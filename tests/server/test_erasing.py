"""The appliance's side of a redaction: a signed order of its own, again while it is not answered, by nobody else."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from ccserver import catalogue, erasing, ordering, redacting
from ccserver.errors import CatalogueError, RunbookUnknownError
from ccserver.ordering import Wanted
from ccserver.queries import redactions
from ccserver.queries.redactions import Redaction
from ccshared import erasure
from tests.devices import Device, Running
from tests.operators import type_of, with_key
from tests.server.test_orders import ended, fetched, waits, wanted


@pytest.fixture
async def log(device: Device) -> Device:
    """A log of five entries."""
    for status in ("pass", "pass", "fail", "pass", "fail"):
        device.check_run("firewall", status, f"because of {status}")
    assert (await device.send(device.batch(0))).status_code == 200
    return device


@pytest.fixture
async def asked(server: Running, log: Device) -> str:
    """A redaction of the log's fourth entry that waits for its second person."""
    async with server.db.site("acme", "acme-clinic") as scope:
        made, _ = await redacting.request(scope, log.origin, 3, "a name", "user:one")
    return made.id


async def approve(server: Running, redaction_id: str) -> Redaction:
    async with server.db.site("acme", "acme-clinic") as scope:
        return await redacting.approve(scope, redaction_id, "user:two")


async def carry_on(server: Running) -> int:
    return await erasing.follow_all(server.db, server.keys)


async def shown(server: Running, redaction_id: str) -> Redaction:
    async with server.db.site("acme", "acme-clinic") as scope:
        found = await redactions.find(scope, redaction_id)
    assert found is not None
    return found


async def expire(server: Running) -> None:
    """Let every order be over, as seven days later: its columns are frozen, but not for the database's owner."""
    conn = await asyncpg.connect(server.urls.admin)
    await conn.execute("ALTER TABLE orders DISABLE TRIGGER released_stays")
    await conn.execute("UPDATE orders SET expires_at = now() - interval '1 second'")
    await conn.close()


async def test_an_approved_redaction_orders_the_appliance_once(server: Running, log: Device, asked: str) -> None:
    assert (await carry_on(server), await fetched(log)) == (0, [])
    found = await approve(server, asked)
    assert (await carry_on(server), await carry_on(server)) == (1, 0)
    assert await waits(log)
    (signed,) = await fetched(log)
    assert (signed.runbook, signed.digest) == ("erase-payload", erasure.DIGEST)
    read = erasure.read(signed.parameters)
    assert (read.log, read.seq, read.leaf, read.redaction) == (log.epoch, 3, found.leaf, asked)
    assert signed.expires_ms - signed.issued_ms == 7 * 86_400_000


async def test_the_redaction_says_when_the_appliance_erased(server: Running, log: Device, asked: str) -> None:
    await approve(server, asked)
    await carry_on(server)
    (signed,) = await fetched(log)
    await ended(log, signed.id)
    assert (await shown(server, asked)).appliance_erased_at is None
    assert (await carry_on(server), await carry_on(server)) == (1, 0)
    assert (await shown(server, asked)).appliance_erased_at is not None
    assert await fetched(log) == []


async def test_two_servers_at_once_make_one_order(server: Running, log: Device, asked: str) -> None:
    await approve(server, asked)
    assert sum(await asyncio.gather(*(carry_on(server) for _ in range(4)))) == 1
    assert len(await fetched(log)) == 1


@pytest.mark.parametrize("status", ["failed", "rejected"])
async def test_what_was_not_erased_stays_open(server: Running, log: Device, asked: str, status: str) -> None:
    await approve(server, asked)
    await carry_on(server)
    (signed,) = await fetched(log)
    await ended(log, signed.id, status)
    assert (await carry_on(server), (await shown(server, asked)).appliance_erased_at) == (0, None)


async def test_another_order_is_made_once_the_one_before_is_over(server: Running, log: Device, asked: str) -> None:
    await approve(server, asked)
    await carry_on(server)
    (first,) = await fetched(log)
    await expire(server)
    assert await carry_on(server) == 1
    (second,) = await fetched(log)
    assert second.id != first.id


async def test_nobody_orders_an_erasure_by_hand(log: Device) -> None:
    owner = await with_key(log.server, "owner")
    answer = await owner.call("POST", "sites/acme-clinic/orders", json=wanted(log, "erase-payload"))
    assert (answer.status_code, type_of(answer)) == (404, "runbook-unknown")
    with pytest.raises(RunbookUnknownError):
        ordering.check(catalogue.load(), Wanted("erase-payload", {}))


def test_no_catalogue_has_it(tmp_path: Path) -> None:
    text = 'id = "mine"\ntitle = "Mine"\nabout = "Mine."\nfamilies = []\nrisk = "low"\ndisruptive = false\n'
    (tmp_path / "mine.toml").write_text(text + 'action = "erase_payload"\n')
    with pytest.raises(CatalogueError, match="approved redaction alone"):
        catalogue.load(tmp_path)
