"""The real programs when an appliance's disk is copied, put back, or forgotten by the server; and when keys follow."""

import json
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ccagent import queue
from ccagent.places import Places
from ccagent.store import Store
from ccserver import keys
from ccserver.localpg import Urls
from ccshared import merkle
from ccshared.entries import Draft
from ccshared.vocabulary import Clock, Kind
from tests.e2e.processes import Clinic, wait_until


@pytest.fixture
async def clinic(database: Urls, tmp_path: Path) -> AsyncIterator[Clinic]:
    made = Clinic.prepare(database, tmp_path)
    made.serve()
    made.enroll()
    yield made
    made.stop()


def beside(clinic: Clinic, tmp_path: Path, name: str) -> Clinic:
    """Return the same clinic with a copy of the appliance's state directory as it is now."""
    shutil.copytree(tmp_path / "agent", tmp_path / name)
    config = tmp_path / f"{name}.toml"
    config.write_text(clinic.config.read_text().replace(str(tmp_path / "agent"), str(tmp_path / name)))
    return replace(clinic, config=config, agent=replace(clinic.agent, log=tmp_path / f"{name}.log"))


async def rows(clinic: Clinic, sql: str) -> list[tuple[Any, ...]]:
    conn = await asyncpg.connect(clinic.urls.admin)
    found = [tuple(row) for row in await conn.fetch(sql)]
    await conn.close()
    return found


BY_EPOCH = """
    SELECT split_part(l.epoch, '-', 1)::int, l.size::int, count(b.carried_hash)::int
    FROM evidence_logs l JOIN evidence_bundles b ON b.log_id = l.id GROUP BY l.id, l.epoch, l.size ORDER BY l.id
"""


async def seal(places: Places, numbers: range) -> None:
    """Seal entries while no agent runs."""
    store = Store.open(places)
    for number in numbers:
        draft = Draft(Kind.HEARTBEAT, f"{number:032x}", 1_790_000_000_000, Clock.UNSYNC, "0" * 32, {"number": number})
        await store.write(queue.append, draft)
    store.close()


async def test_an_old_disk_put_back_goes_on_in_a_new_log_and_says_so(clinic: Clinic, tmp_path: Path) -> None:
    clinic.command("once")
    old = beside(clinic, tmp_path, "old")
    await seal(Places(tmp_path / "agent"), range(3))
    clinic.command("once")
    before = (await rows(clinic, BY_EPOCH))[0][1]
    old.command("once")
    old.command("once")
    told = old.status()
    assert (told["waiting"], told["epoch"].split("-")[0]) == (0, "2")
    assert [alarm["name"] for alarm in told["alarms"]] == ["rollback"]
    assert "ALARM rollback" in old.command("status").stdout
    first, second = await rows(clinic, BY_EPOCH)
    assert (first[:2], second[0]) == ((1, before), 2)
    assert await rows(clinic, "SELECT alarms FROM appliances") == [(["rollback"],)]


async def test_two_copies_at_once_are_found_and_nothing_of_either_is_lost(clinic: Clinic, tmp_path: Path) -> None:
    clinic.command("once")
    clone = beside(clinic, tmp_path, "clone")
    for one in (clinic, clone):
        one.agent.start("--config", str(one.config), "run")
    for folder, one in (("agent", clinic), ("clone", clone)):
        wait_until((tmp_path / folder / "control.sock").exists)
        wait_until(lambda one=one: one.status()["size"] > 0 and one.status()["waiting"] == 0)  # type: ignore[misc]
        one.agent.end(signal.SIGTERM)
    await seal(Places(tmp_path / "agent"), range(5))
    await seal(Places(tmp_path / "clone"), range(5, 10))
    for one in (clinic, clone, clinic):
        one.command("once", code=None)
    assert (clinic.status()["waiting"], clone.status()["waiting"]) == (0, 0)
    names = {alarm["name"] for one in (clinic, clone) for alarm in one.status()["alarms"]}
    assert names & {"rollback", "clone_suspected"}
    numbered = "SELECT bundle_id, bundle_type FROM evidence_bundles WHERE bundle_id < repeat('1', 32) AND flag IS NULL"
    found = {int(bundle_id, 16): kind for bundle_id, kind in await rows(clinic, numbered) if bundle_id < "1" * 31}
    assert {number: found.get(number) for number in range(10)} == {
        number: "heartbeat" if number < 5 else "recovered" for number in range(10)
    }


async def test_a_server_restored_from_a_backup_is_filled_up_again(clinic: Clinic) -> None:
    clinic.command("once")
    size = clinic.status()["size"]
    conn = await asyncpg.connect(clinic.urls.admin)
    await conn.execute("SET session_replication_role = replica")
    await conn.execute("DELETE FROM evidence_bundles")
    await conn.execute("DELETE FROM evidence_logs")
    await conn.close()
    clinic.command("once")
    told = clinic.status()
    assert (told["waiting"], [alarm["name"] for alarm in told["alarms"]]) == (0, ["server_rollback"])
    assert told["size"] >= size
    assert (await rows(clinic, BY_EPOCH))[0][:2] == (1, told["size"])


async def test_receipts_by_the_servers_later_keys_are_believed_however_long_the_agent_was_away(
    clinic: Clinic, tmp_path: Path
) -> None:
    clinic.command("once")
    clinic.server.end()
    for use in ("order", "witness", "order", "witness"):
        keys.rotate(next((tmp_path / "server").glob("*.json")), use)
    clinic.serve()
    await seal(Places(tmp_path / "agent"), range(2))
    clinic.command("once")
    told = clinic.status()
    assert (told["waiting"], told["alarms"]) == (0, [])
    newest = keys.load(next((tmp_path / "server").glob("*.json"))).witness.name
    assert newest in {key["name"] for key in json.loads((tmp_path / "agent" / "identity.json").read_text())["keys"]}


async def test_flush_alarms_and_support_bundle_work_while_the_agent_runs(clinic: Clinic, tmp_path: Path) -> None:
    clinic.command("once")
    assert "no agent runs" in clinic.command("flush", code=1).stderr
    clinic.agent.start("--config", str(clinic.config), "run")
    wait_until((tmp_path / "agent" / "control.sock").exists)
    wait_until(lambda: clinic.status()["size"] > 0)
    assert "receipted" in clinic.command("flush").stdout
    clinic.server.end()
    wait_until(lambda: clinic.command("flush", "--wait", "1", code=None).returncode in (0, 3))
    assert "no alarms" in clinic.command("alarms").stdout
    bundle = tmp_path / "bundle.tar.gz"
    clinic.command("support-bundle", "--output", str(bundle))
    assert bundle.stat().st_mode & 0o777 == 0o600
    assert "cannot be written" in clinic.command("support-bundle", "--output", str(bundle), code=1).stderr
    shutil.unpack_archive(bundle, tmp_path / "unpacked", filter="data")
    parts = {path.name: json.loads(path.read_text()) for path in (tmp_path / "unpacked").rglob("*.json")}
    assert {"status.json", "queue.json", "incidents.json", "config.json", "versions.json", "log.json"} <= set(parts)
    assert parts["log.json"]["lines"]
    assert parts["status.json"]["running"] is True
    secret = (tmp_path / "agent" / "device.key").read_bytes().hex()
    assert all(secret not in json.dumps(part) for part in parts.values())


async def registered(clinic: Clinic) -> str:
    ((key,),) = await rows(clinic, "SELECT encode(public_key, 'hex') FROM appliances")
    return str(key)


async def test_a_new_device_key_is_named_by_the_old_one_and_takes_its_place(clinic: Clinic, tmp_path: Path) -> None:
    clinic.command("once")
    before = clinic.status()["fingerprint"]
    named = clinic.command("rotate-key").stdout
    assert "earlier rotation" in clinic.command("rotate-key", code=1).stderr
    assert clinic.status()["fingerprint"] == before
    clinic.command("once")
    told = clinic.status()
    assert (told["waiting"], told["epoch"].split("-")[0]) == (0, "2")
    assert told["fingerprint"] != before
    assert told["fingerprint"] in named
    assert not (tmp_path / "agent" / "device.key.next").exists()
    logs = await rows(clinic, "SELECT encode(public_key, 'hex') FROM evidence_logs ORDER BY id")
    assert logs[0] != logs[1] == (await registered(clinic),)
    assert clinic.command("verify").returncode == 0


async def test_a_device_key_is_rotated_twice_while_the_agent_runs(clinic: Clinic, tmp_path: Path) -> None:
    clinic.agent.start("--config", str(clinic.config), "run")
    wait_until((tmp_path / "agent" / "control.sock").exists)
    for number in (1, 2):
        wait_until(lambda n=number: clinic.status()["size"] > 0 and clinic.status()["waiting"] == 0)  # type: ignore[misc]
        before = clinic.status()["fingerprint"]
        clinic.command("rotate-key")
        wait_until(lambda b=before: clinic.status()["fingerprint"] != b, 40)  # type: ignore[misc]
    wait_until(lambda: clinic.status()["waiting"] == 0)
    assert clinic.status()["epoch"].split("-")[0] == "3"


async def put_back(clinic: Clinic, size: int, key: str) -> None:
    """Put the database back to when the first log had so many entries, no other was begun, and that key was known."""
    conn = await asyncpg.connect(clinic.urls.admin)
    await conn.execute("SET session_replication_role = replica")
    await conn.execute("UPDATE appliances SET public_key = decode($1, 'hex')", key)
    await conn.execute(
        "DELETE FROM evidence_bundles WHERE seq >= $1 OR log_id > (SELECT min(id) FROM evidence_logs)", size
    )
    await conn.execute("DELETE FROM evidence_logs WHERE $1 = 0 OR id > (SELECT min(id) FROM evidence_logs)", size)
    leaves = [row["bundle_hash"] for row in await conn.fetch("SELECT bundle_hash FROM evidence_bundles ORDER BY seq")]
    await conn.execute(
        """
        UPDATE evidence_logs SET size = $1, last_leaf = $2, compact_range = $3, checkpoint = NULL, cosigned_at = NULL,
            witness_name = NULL
        """,
        size,
        leaves[-1] if leaves else None,
        b"".join(merkle.extend(0, [], leaves)[1]),
    )
    await conn.close()


async def rotated(clinic: Clinic, tmp_path: Path, times: int) -> list[str]:
    """Rotate the device key so often, each time with something to tell; return the keys that were registered."""
    keys = [await registered(clinic)]
    for number in range(times):
        await seal(Places(tmp_path / "agent"), range(2 * number, 2 * number + 2))
        clinic.command("rotate-key")
        clinic.command("once")
        keys.append(await registered(clinic))
    assert len(set(keys)) == times + 1
    return keys


SIZES = """
    SELECT encode(public_key, 'hex'), size::int, cosigned_at IS NOT NULL FROM evidence_logs
    ORDER BY split_part(epoch, '-', 1)::int
"""  # whichever came back first


@pytest.mark.parametrize(("times", "size"), [(1, 2), (1, 0), (2, 2), (2, 0)])
async def test_a_server_put_back_to_before_a_device_key_was_rotated_is_filled_up_again(
    clinic: Clinic, tmp_path: Path, times: int, size: int
) -> None:
    clinic.command("once")
    first, *_, newest = await rotated(clinic, tmp_path, times)
    before = await rows(clinic, SIZES)
    await put_back(clinic, size, first)
    clinic.command("once")
    told = clinic.status()
    assert (told["waiting"], {alarm["name"] for alarm in told["alarms"]}) == (0, {"server_rollback"})
    assert [log[::2] for log in await rows(clinic, SIZES)] == [log[::2] for log in before]
    assert (await rows(clinic, SIZES))[:-1] == before[:-1]
    assert await registered(clinic) == newest
    assert clinic.command("verify").returncode == 0
    assert (tmp_path / "agent" / "device.key.earlier").stat().st_mode & 0o777 == 0o600


async def test_a_running_agent_fills_up_a_server_put_back_to_before_its_key_was_rotated(
    clinic: Clinic, tmp_path: Path
) -> None:
    clinic.command("once")
    first, newest = await rotated(clinic, tmp_path, 1)
    before = await rows(clinic, SIZES)
    clinic.agent.start("--config", str(clinic.config), "run")
    wait_until((tmp_path / "agent" / "control.sock").exists)
    wait_until(lambda: clinic.status()["waiting"] == 0)
    await put_back(clinic, 0, first)
    clinic.command("rotate-key")  # something to tell; the token that it holds is good still
    for _ in range(200):
        clinic.command("flush", "--wait", "1", code=None)
        if clinic.status()["waiting"] == 0 and await registered(clinic) not in (first, newest):
            break
    found = await rows(clinic, SIZES)
    assert (found[0], len(found), clinic.status()["waiting"]) == (before[0], len(before) + 1, 0)


async def test_after_an_enrolment_anew_logs_of_the_keys_before_are_taken_again(clinic: Clinic, tmp_path: Path) -> None:
    clinic.command("once")
    _, newest = await rotated(clinic, tmp_path, 1)
    before = await rows(clinic, SIZES)
    await put_back(clinic, 0, newest)  # as when a code that names it registered its present key
    clinic.command("once")
    assert (clinic.status()["waiting"], (await rows(clinic, SIZES))[:-1]) == (0, before[:-1])
    assert await registered(clinic) == newest


async def test_a_revoked_appliance_that_keeps_keys_of_before_is_told_that_it_was_revoked(
    clinic: Clinic, tmp_path: Path
) -> None:
    clinic.command("once")
    await rotated(clinic, tmp_path, 1)
    conn = await asyncpg.connect(clinic.urls.admin)
    await conn.execute("UPDATE appliances SET revoked_at = now()")
    await conn.close()
    assert "revoked" in clinic.command("once", code=3).stderr


async def test_an_agent_that_did_not_hear_that_its_new_key_is_known_finds_out(clinic: Clinic, tmp_path: Path) -> None:
    clinic.command("once")
    clinic.command("rotate-key")
    deaf = beside(clinic, tmp_path, "deaf")
    clinic.command("once")
    new = await registered(clinic)
    conn = await asyncpg.connect(clinic.urls.admin)  # and the next log did not arrive either
    await conn.execute("SET session_replication_role = replica")
    await conn.execute("DELETE FROM evidence_bundles WHERE log_id = (SELECT max(id) FROM evidence_logs)")
    await conn.execute("DELETE FROM evidence_logs WHERE id = (SELECT max(id) FROM evidence_logs)")
    await conn.close()
    deaf.command("once")
    told = deaf.status()
    assert (told["waiting"], told["alarms"]) == (0, [])
    assert await registered(clinic) == new
