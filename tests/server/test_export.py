"""A site's evidence leaves as one file: the same each time, whole, and verified by the verifier that lies in it."""

import asyncio
import io
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ccserver import exporting, verify
from ccserver.exporting import Asked
from ccserver.scope import Database
from ccshared import purposes
from ccshared.vocabulary import Kind
from tests import exports, operators
from tests.devices import NOW_MS, Device, Running

SITE = Asked("acme", "acme-clinic")


async def exported(server: Running, asked: Asked = SITE) -> bytes:
    out: list[bytes] = []
    await exporting.write_site(server.db, server.keys, asked, out.append)
    return b"".join(out)


def trust(server: Running, device: Device) -> str:
    lines = [f"{key.name} {purposes.fingerprint(key.public_key)}" for key in server.keys.signing]
    return "\n".join([*lines, f"{device.appliance_id} {purposes.fingerprint(device.public_key)}", ""])


def verified(server: Running, device: Device, data: bytes, *receipts: str) -> verify.Report:
    found = verify.read_trust(trust(server, device))
    return verify.verify(io.BytesIO(data), found, list(receipts), verify.Options(now_ms=NOW_MS))


async def filled(device: Device, count: int) -> str:
    """Send entries a minute apart, in two batches; return the newest receipt."""
    device.seal()
    for minute in range(1, count):
        device.check_run("logging", "pass", at=NOW_MS + minute * 60_000)
    await device.send(device.batch(0, count // 2))
    return str((await device.send(device.batch(count // 2))).json()["receipt"])


async def test_an_export_is_intact_and_the_same_each_time(server: Running, device: Device) -> None:
    receipt = await filled(device, 250)
    data = await exported(server)
    assert data == await exported(server)
    found = verified(server, device, data, receipt)
    assert (found.verdict, found.findings) == (verify.INTACT, [])
    assert found.logs[0]["verified"] == 250


async def test_the_verifier_in_the_export_verifies_it_alone(server: Running, device: Device, tmp_path: Path) -> None:
    (tmp_path / "newest.txt").write_text(await filled(device, 3), encoding="utf-8")
    data = await exported(server)
    (tmp_path / "export.zip").write_bytes(data)
    (tmp_path / "keys.txt").write_text(trust(server, device), encoding="utf-8")
    (tmp_path / "verify.py").write_bytes(exports.taken_apart(data)["verify.py"])
    command = [sys.executable, "-I", "verify.py", "export.zip", "--trust", "keys.txt", "--receipt", "newest.txt"]
    done = await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, env={})
    assert (done.returncode, done.stdout.splitlines()[-1], done.stderr) == (0, "INTACT", "")


@pytest.mark.parametrize(("since", "until"), [(30, 60), (None, 10), (120, None), (500, None), (None, -5), (-5, 500)])
async def test_a_range_shows_what_is_in_it_and_every_leaf(
    server: Running, device: Device, since: int | None, until: int | None
) -> None:
    await filled(device, 130)
    times = [None if at is None else datetime.fromtimestamp(NOW_MS / 1000 + at * 60, UTC) for at in (since, until)]
    data = await exported(server, Asked("acme", "acme-clinic", *times))
    found = verified(server, device, data)
    assert (found.verdict, found.findings) == (verify.INTACT, [])
    shown = [f'"at":{NOW_MS + minute * 60_000},'.encode() for minute in range(since or 0, min(until or 130, 130))]
    lines = b"".join(body for name, body in exports.taken_apart(data).items() if name.endswith(".ndjson"))
    assert all(at in lines for at in shown if since != -5)
    assert (
        since is None
        or since < 0
        or lines.count(b"out_of_range") == min(since, 130) - 2 + max(0, 130 - (until or 130) - 2)
    )


async def test_what_was_withheld_is_listed_and_what_nobody_vouches_for(server: Running, device: Device) -> None:
    await filled(device, 3)
    data = await exported(server)
    nobody = verify.read_trust(f"elsewhere {'0' * 64}\n")
    found = verify.verify(io.BytesIO(data), nobody, [], verify.Options(now_ms=NOW_MS))
    assert found.verdict == verify.INCOMPLETE
    assert set(found.counts) == {"unvouched_server_key", "unvouched_key", "missing_appliance"}


async def test_an_export_of_another_partners_site_is_empty(server: Running, device: Device) -> None:
    await filled(device, 3)
    await server.add_site("other", "other-clinic")
    data = await exported(server, Asked("other", "acme-clinic"))
    assert not [name for name in exports.taken_apart(data) if name.startswith("logs/")]


async def test_an_appliance_that_was_rolled_back_shows_as_a_fork(server: Running, device: Device) -> None:
    await filled(device, 4)
    device.payloads[2:] = []
    device.seal(Kind.HEARTBEAT)
    device.seal(Kind.HEARTBEAT)
    assert (await device.send(device.batch(2))).status_code == 409
    found = verified(server, device, await exported(server))
    assert (found.verdict, [(each["code"], each["seq"]) for each in found.findings]) == (1, [("fork", 2)])


async def test_an_export_sees_one_moment(server: Running, device: Device, db: Database) -> None:
    receipt = await filled(device, 4)
    async with db.snapshot("acme", "acme-clinic") as scope:
        before = await scope.conn.fetchval("SELECT sum(size) FROM evidence_logs")
        device.seal(Kind.HEARTBEAT)
        await device.send(device.batch(4))
        assert await scope.conn.fetchval("SELECT sum(size) FROM evidence_logs") == before
    found = verified(server, device, await exported(server), receipt)
    assert (found.verdict, found.logs[0]["size"]) == (verify.INTACT, 5)


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("cc-export-*")]


async def test_no_way_to_ask_for_an_export_leaves_its_file_behind(
    server: Running, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    await filled(device, 3)
    owner = await operators.with_key(server, "owner")
    for part in ("bytes=x", "bytes=99999999-", "bytes=0-1", "bytes=0-1,5-6"):
        await owner.call("GET", "sites/acme-clinic/evidence-export", headers={"Range": part})
    await asyncio.sleep(0.3)  # the last one goes just after its last byte
    assert left_in(tmp_path) == []
