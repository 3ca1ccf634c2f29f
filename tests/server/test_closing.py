"""The end of a tenant: a site is closed, a partner off-boarded; evidence stays, and nothing new begins."""

import asyncio
import io
import json
import zipfile
from pathlib import Path

import asyncpg
import pytest

from ccserver import closing, enrolment, partner_export
from ccserver.errors import SiteClosedError
from ccserver.scope import SiteScope
from ccshared import ids
from tests import operators
from tests.devices import Device, Running
from tests.operators import audited, type_of


async def close(server: Running) -> closing.Closing:
    async with server.db.site("acme", "acme-clinic") as scope:
        return await closing.close(scope, "test", None)


async def order(scope: SiteScope, appliance_id: str) -> None:
    await scope.conn.execute(
        """
        INSERT INTO orders (site_id, partner_id, appliance_id, id, runbook_id, created_by, expires_at)
        VALUES ('acme-clinic', 'acme', $1, $2, 'restart', 'test', now() + interval '1 hour')
        """,
        appliance_id,
        ids.new_id(),
    )


async def test_closing_revokes_appliances_codes_and_orders(server: Running, device: Device) -> None:
    code = await server.code("acme", "acme-clinic")
    async with server.db.site("acme", "acme-clinic") as scope:
        await order(scope, device.appliance_id)
        foreseen = await closing.foresee(scope)
    ended = await close(server)
    assert ended == foreseen == closing.Closing("acme-clinic", 1, 1, 1, 0)
    assert (await device.call("GET", "log")).status_code == 401
    assert (await Device(server, device.seed).enroll(code)).status_code == 403
    assert (await audited(server))[-1] == ("site.close", "site:acme-clinic")


async def test_what_begins_while_a_site_is_closed_ends_with_it(server: Running, device: Device) -> None:
    async with server.db.site("acme", "acme-clinic") as scope:
        await order(scope, device.appliance_id)
        closed = asyncio.create_task(close(server))
        await asyncio.sleep(0.3)
        assert not closed.done()
    assert (await closed).orders == 1


async def test_what_still_waits_on_appliances_is_told_before_a_site_is_closed(server: Running, device: Device) -> None:
    body = {"version": "1", "hostname": "box", "clock": "sync", "epoch": device.epoch, "size": 0, "sent_at_ms": 1}
    body |= {"waiting": 7, "waiting_bytes": 700, "oldest_at_ms": 1, "alarms": []}
    assert (await device.call("POST", "checkin", json=body)).status_code == 200
    async with server.db.site("acme", "acme-clinic") as scope:
        assert (await closing.foresee(scope)).waiting == 7
    assert (await close(server)).waiting == 7


async def test_a_closed_site_is_read_and_nothing_begins_there(server: Running, device: Device) -> None:
    device.seal()
    await device.send(device.batch(0))
    owner = await operators.with_key(server, "owner")
    answer = await owner.call("POST", "sites/acme-clinic/close", json={"confirm": "acme-clinic"})
    assert answer.status_code == 200, answer.text
    again = await owner.call("POST", "sites/acme-clinic/close", json={"confirm": "acme-clinic"})
    assert (again.status_code, type_of(again)) == (409, "site-closed")
    shown = (await owner.call("GET", "sites/acme-clinic")).json()
    assert shown["closed_at"] is not None
    assert (await owner.call("GET", "sites/acme-clinic/logs")).json()["items"][0]["size"] == 1
    exported = await owner.call("GET", "sites/acme-clinic/evidence-export")
    assert "manifest.json" in zipfile.ZipFile(io.BytesIO(exported.content)).namelist()
    codes = await owner.call("POST", "sites/acme-clinic/codes", json={})
    assert (codes.status_code, type_of(codes)) == (409, "site-closed"), codes.text
    name = {"If-Match": f'"{shown["revision"]}"'}
    renamed = await owner.call("PATCH", "sites/acme-clinic", json={"name": "Other"}, headers=name)
    assert (renamed.status_code, type_of(renamed)) == (409, "site-closed")


@pytest.mark.parametrize("role", ["technician", "viewer"])
async def test_only_an_owner_closes_a_site_and_says_which(server: Running, role: str) -> None:
    other = await operators.with_key(server, role)
    assert (await other.call("POST", "sites/acme-clinic/close", json={"confirm": "acme-clinic"})).status_code == 403
    owner = await operators.with_key(server, "owner")
    assert (await owner.call("POST", "sites/acme-clinic/close", json={"confirm": "acme"})).status_code == 422


async def test_no_statement_opens_a_closed_site_again(server: Running) -> None:
    await close(server)
    with pytest.raises(SiteClosedError):
        async with server.db.site("acme", "acme-clinic") as scope:
            await scope.conn.execute("UPDATE sites SET closed_at = NULL WHERE id = 'acme-clinic'")
    with pytest.raises(SiteClosedError):
        async with server.db.site("acme", "acme-clinic") as scope:
            await enrolment.make_code(scope, server.keys, 24)
    with pytest.raises(SiteClosedError):
        async with server.db.site("acme", "acme-clinic") as scope:
            await closing.foresee(scope)


async def test_off_boarding_exports_all_and_ends_people_and_keys(
    server: Running, device: Device, tmp_path: Path
) -> None:
    device.seal()
    await device.send(device.batch(0))
    owner = await operators.with_key(server, "owner")
    person = await operators.with_session(server, "owner")
    manifest = await partner_export.write(server.db, server.keys, "acme", tmp_path, lambda _: None)
    assert set(manifest["files"]) >= {"sites/acme-clinic.zip", "users.ndjson", "audit.ndjson", "keys.json"}
    admin, path = await operators.with_key(server, "platform_admin", "platform"), "partners/acme/off-board"
    assert (await owner.call("POST", path, json={"confirm": "acme"})).status_code == 403
    assert (await admin.call("POST", path, json={"confirm": "other"})).status_code == 422
    assert (await admin.call("POST", path.replace("acme", "no"), json={"confirm": "no"})).status_code == 404
    ended = (await admin.call("POST", path, json={"confirm": "acme"})).json()
    assert ([each["site_id"] for each in ended["closed"]], ended["users"], ended["api_keys"]) == (["acme-clinic"], 1, 1)
    assert (await owner.call("GET", "sites")).status_code == 401
    assert (await person.call("GET", "sites")).status_code == 401


async def test_a_partners_export_is_over_what_came_since_it_was_last_made(
    server: Running, device: Device, tmp_path: Path
) -> None:
    device.seal()
    await device.send(device.batch(0))
    await partner_export.write(server.db, server.keys, "acme", tmp_path, lambda _: None)
    device.check_run("logging", "pass")
    await device.send(device.batch(1))
    await partner_export.write(server.db, server.keys, "acme", tmp_path, lambda _: None)
    with zipfile.ZipFile(tmp_path / "sites" / "acme-clinic.zip") as opened:
        assert json.loads(opened.read("manifest.json"))["entries"] == 2


async def test_a_partners_export_holds_no_credential_and_goes_on_where_it_was(server: Running, tmp_path: Path) -> None:
    await operators.with_session(server, "owner")
    await operators.with_key(server, "owner")
    for number in range(3):
        await server.add_site("acme", f"clinic-{number}")
    await partner_export.write(server.db, server.keys, "acme", tmp_path, lambda _: None)
    kept = (tmp_path / "sites" / "clinic-1.zip").stat()
    (tmp_path / "sites" / "clinic-2.zip").unlink()
    await partner_export.write(server.db, server.keys, "acme", tmp_path, lambda _: None)
    assert (tmp_path / "sites" / "clinic-1.zip").stat().st_ino == kept.st_ino
    assert len(list((tmp_path / "sites").iterdir())) == 4
    users = [json.loads(line) for line in (tmp_path / "users.ndjson").read_text(encoding="utf-8").splitlines()]
    assert [each["role"] for each in users] == ["owner"]
    text = b"".join((tmp_path / name).read_bytes() for name in ("users.ndjson", "audit.ndjson", "sites.ndjson"))
    conn = await asyncpg.connect(server.urls.admin)
    secrets = await conn.fetch("SELECT token_hash FROM sessions UNION SELECT key_hash FROM api_keys")
    await conn.close()
    assert not [row[0] for row in secrets if row[0].encode() in text]
    assert b"password" not in text
