"""Keys that follow on one another: the server's, announced by the one before; a device's, named by its own log."""

import secrets
from pathlib import Path

import asyncpg
import pytest

from ccserver import config, enrolment, health, keys
from ccserver.app import make
from ccserver.errors import BadConfigError, KeysLackingError, NotFoundError
from ccserver.queries import appliances
from ccshared import ed25519, envelope, ids, notes, purposes
from ccshared.vocabulary import Kind
from tests.devices import Device, Running
from tests.server.test_log import code_of
from tests.server.test_withheld import put, send_with_stub


@pytest.fixture
def settings(tmp_path: Path) -> config.Config:
    """A server whose order key was rotated twice and whose witness key once in between."""
    made = config.from_environ({"CCSERVER_DATA_DIR": str(tmp_path / "server"), "CCSERVER_NAME": "cc.example"})
    keys.create(made.key_file, made.server_name)
    for use in ("order", "witness", "order"):
        keys.rotate(made.key_file, use)
    return made


def test_a_rotation_adds_a_key_and_keeps_the_old_ones(settings: config.Config) -> None:
    before = keys.load(settings.key_file)
    after = keys.rotate(settings.key_file, "witness")
    assert after.signing[:-1] == before.signing
    assert after.witness.name != before.witness.name
    assert before.witness.name in after.witnesses
    assert (after.order, after.master) == (before.order, before.master)
    assert len({(key.use, key.name) for key in after.signing}) == len(after.signing) == 6
    assert settings.key_file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in settings.key_file.parent.iterdir()] == [settings.key_file.name]


def test_a_rotation_that_cannot_be_written_changes_nothing(settings: config.Config) -> None:
    before = settings.key_file.read_bytes()
    with pytest.raises(BadConfigError, match="no use"):
        keys.rotate(settings.key_file, "seal")
    with pytest.raises(BadConfigError, match="key file"):
        keys.rotate(settings.key_file.with_name("other"), "order")
    assert settings.key_file.read_bytes() == before


def test_labels_do_not_end_with_the_alphabet(settings: config.Config) -> None:
    for _ in range(30):
        made = keys.rotate(settings.key_file, "witness")
    assert len({(key.use, key.name) for key in made.signing}) == len(made.signing) == 35


async def test_every_key_after_the_first_is_announced_by_the_order_key_of_before(server: Running) -> None:
    told = (await server.client.get("/agent/v1/keys")).json()
    signing = server.keys.signing
    assert [key["name"] for key in told["keys"]] == [key.name for key in signing]
    orders = [key for key in signing if key.use == "order"]
    said = [
        envelope.open_envelope(statement, envelope.PayloadType.KEYS, by.public_key)
        for statement, by in zip(told["statements"], (orders[0], orders[1], orders[1]), strict=True)
    ]
    assert [one["name"] for one in said] == [key.name for key in signing[2:]]
    assert {one["server"] for one in said} == {"cc.example"}


async def test_receipts_are_by_the_newest_key_and_old_ones_are_made_again(device: Device, server: Running) -> None:
    device.seal()
    answer = await device.send(device.batch(0))
    assert server.keys.witness.name in answer.json()["receipt"]
    older = next(key for key in server.keys.signing if key.use == "witness")
    admin = await asyncpg.connect(server.urls.admin)
    await admin.execute("UPDATE evidence_logs SET witness_name = $1", older.name)
    await admin.close()
    assert older.name in (await device.call("GET", f"log/{device.epoch}")).json()["receipt"]


def rotation(device: Device, new: bytes, signer: bytes | None = None) -> dict[str, object]:
    key = ed25519.public_key(new)
    signed = purposes.new_key("cc.example", device.appliance_id, key)
    return {"public_key": key.hex(), "signature": ed25519.sign(signer or new, signed).hex()}


async def test_a_device_key_named_by_the_last_entry_is_registered_with_it(device: Device) -> None:
    device.seal()
    new = ed25519.new_seed()
    device.seal(Kind.KEY_ROTATION, rotation(device, new))
    first = await device.send(device.batch(0))
    assert (await device.send(device.batch(0))).json() == first.json()
    assert code_of(await device.ask_token()) == (401, "signature-invalid")
    device.seed, device.epoch, device.payloads = new, f"2-{secrets.token_hex(4)}", []
    assert (await device.ask_token()).status_code == 200
    device.seal()
    assert device.receipt(await device.send(device.batch(0))).checkpoint.size == 1


async def test_nothing_follows_the_entry_that_names_a_new_key(device: Device) -> None:
    device.seal()
    device.seal(Kind.KEY_ROTATION, rotation(device, ed25519.new_seed()))
    device.seal()
    assert code_of(await device.send(device.batch(0))) == (422, "entry-invalid")
    assert (await device.send(device.batch(0, 2))).status_code == 200
    refused = await device.send(device.batch(2))
    assert (code_of(refused), refused.json()["seq"]) == ((422, "entry-invalid"), 2)


async def test_a_new_key_that_did_not_sign_for_itself_is_not_registered(device: Device, server: Running) -> None:
    device.seal()
    device.seal(Kind.KEY_ROTATION, rotation(device, ed25519.new_seed(), signer=device.seed))
    assert (await device.send(device.batch(0))).status_code == 200
    assert (await device.ask_token()).status_code == 200
    async with server.db.platform() as scope:
        assert await scope.conn.fetchval("SELECT flag FROM evidence_bundles WHERE seq = 1") is not None


async def test_a_reinstalled_appliance_keeps_its_id_and_begins_a_new_log_under_its_new_key(
    device: Device, server: Running
) -> None:
    device.seal()
    await device.send(device.batch(0))
    async with server.db.site("acme", "acme-clinic") as scope:
        code = await enrolment.make_code(scope, server.keys, replaces=device.appliance_id)
    anew = Device(server, ed25519.new_seed(), epoch="2-00000002")
    answers = [await anew.enroll(code), await anew.enroll(code)]
    assert answers[0].json() == answers[1].json()
    told = envelope.open_envelope(answers[0].json(), envelope.PayloadType.ENROLMENT, server.keys.order.public_key)
    assert told["appliance_id"] == device.appliance_id
    assert code_of(await device.ask_token()) == (401, "signature-invalid")
    anew.appliance_id = device.appliance_id
    anew.token = (await anew.ask_token()).json()["token"]
    anew.seal()
    assert anew.receipt(await anew.send(anew.batch(0))).checkpoint.size == 1
    assert [head["epoch"] for head in (await anew.call("GET", "log")).json()["epochs"]] == [device.epoch, anew.epoch]
    assert code_of(await device.enroll(code)) == (403, "code-used")


async def test_the_old_key_cannot_name_another_after_a_reinstallation(device: Device, server: Running) -> None:
    device.seal()
    await device.send(device.batch(0))
    async with server.db.site("acme", "acme-clinic") as scope:
        code = await enrolment.make_code(scope, server.keys, replaces=device.appliance_id)
    anew = Device(server, ed25519.new_seed(), appliance_id=device.appliance_id)
    await anew.enroll(code)
    device.seal(Kind.KEY_ROTATION, rotation(device, ed25519.new_seed()))
    await device.send(device.batch(0))
    assert (await anew.ask_token()).status_code == 200


async def test_a_code_names_an_appliance_of_its_site_that_is_in_service(device: Device, server: Running) -> None:
    await server.add_site("acme", "acme-other")
    for site, appliance in (("acme-other", device.appliance_id), ("acme-clinic", ids.new_id())):
        with pytest.raises(NotFoundError):
            async with server.db.site("acme", site) as scope:
                await enrolment.make_code(scope, server.keys, replaces=appliance)
    async with server.db.site("acme", "acme-clinic") as scope:
        code = await enrolment.make_code(scope, server.keys, replaces=device.appliance_id)
    async with server.db.partner("acme") as partner:
        await partner.conn.execute("UPDATE appliances SET revoked_at = now()")
    assert code_of(await Device(server, ed25519.new_seed()).enroll(code)) == (403, "code-unknown")


async def test_an_appliance_that_checks_in_without_receipts_for_two_days_is_listed(
    device: Device, server: Running
) -> None:
    device.seal()
    await device.send(device.batch(0))
    body = {"version": "1", "hostname": "box", "sent_at_ms": 1, "clock": "sync", "alarms": ["withheld"]}
    await device.call("POST", "checkin", json=body)
    assert await silent(server) == []
    admin = await asyncpg.connect(server.urls.admin)
    await admin.execute("UPDATE evidence_logs SET cosigned_at = cosigned_at - 49 * 3600")
    assert await silent(server) == [device.appliance_id]
    assert await admin.fetchval("SELECT alarms FROM appliances") == ["withheld"]
    await admin.execute("UPDATE appliances SET last_checkin = now() - interval '1 hour'")
    await admin.close()
    assert await silent(server) == []


async def silent(server: Running) -> list[str]:
    async with server.db.partner("acme") as scope:
        now = await scope.conn.fetchval("SELECT now()")
        return [one.id for one in await appliances.list_silent(scope, now, 10)]


async def test_a_log_that_the_database_forgot_is_begun_again_by_the_key_of_its_receipted_genesis_alone(
    device: Device, server: Running
) -> None:
    device.seal()
    new = ed25519.new_seed()
    device.seal(Kind.KEY_ROTATION, rotation(device, new))
    receipt = (await device.send(device.batch(0))).json()["receipt"]
    await forget_logs(server, ed25519.public_key(new))
    thief = Device(server, ed25519.new_seed(), device.appliance_id, device.token, device.epoch)
    thief.seal()
    thief.seal()
    true = notes.read_receipt(receipt, device.public_key, server.keys.witnesses).checkpoint
    forged = notes.sign_checkpoint(true, thief.seed) + receipt.splitlines(keepends=True)[-1]
    assert notes.read_receipt(forged, thief.public_key, server.keys.witnesses).checkpoint == true
    assert code_of(await thief.send(thief.batch(0, held=forged))) == (409, "held-conflict")
    assert code_of(await device.send(device.batch(0))) == (422, "checkpoint-invalid")
    again = await device.send(device.batch(0, held=receipt))
    assert device.receipt(again).checkpoint == true
    device.seed = new
    assert (await device.ask_token()).status_code == 200


async def test_a_key_is_followed_where_the_log_that_names_the_next_came_back_before_the_one_that_names_it(
    device: Device, server: Running
) -> None:
    first, *later = [ed25519.new_seed() for _ in range(3)]
    logs: list[tuple[bytes, str, list[bytes], str]] = []
    oldest = device.seed
    for number, new in enumerate((first, *later), 1):
        device.epoch, device.payloads = f"{number}-{secrets.token_hex(4)}", []
        device.seal()
        device.seal(Kind.KEY_ROTATION, rotation(device, new))
        receipt = (await device.send(device.batch(0))).json()["receipt"]
        logs.append((device.seed, device.epoch, device.payloads, receipt))
        device.seed = new
        assert (await device.ask_token()).status_code == 200
    await forget_logs(server, ed25519.public_key(oldest))
    device.seed = oldest
    assert (await device.ask_token()).status_code == 200
    for place in (2, 1, 0):
        device.seed, device.epoch, device.payloads, receipt = logs[place]
        assert (await device.send(device.batch(0, held=receipt))).json()["receipt"]
    device.seed = later[-1]
    assert (await device.ask_token()).status_code == 200


@pytest.mark.parametrize("more", [0, 1])
async def test_a_key_that_a_withheld_entry_names_counts_at_the_end_of_its_log_alone(device: Device, more: int) -> None:
    device.seal()
    new = ed25519.new_seed()
    device.seal(Kind.KEY_ROTATION, rotation(device, new))
    for _ in range(more):
        device.seal()
    await send_with_stub(device, 1)
    assert (await put(device, 1, device.payloads[1])).status_code == 200
    device.seed = device.seed if more else new
    assert (await device.ask_token()).status_code == 200


async def forget_logs(server: Running, key: bytes) -> None:
    """Put the database back to before any log, with that key registered."""
    admin = await asyncpg.connect(server.urls.admin)
    await admin.execute("SET session_replication_role = replica")
    await admin.execute("DELETE FROM evidence_bundles")
    await admin.execute("DELETE FROM evidence_logs")
    await admin.execute("UPDATE appliances SET public_key = $1", key)
    await admin.close()


async def test_a_server_does_not_start_with_a_key_file_that_lacks_a_key_of_stored_receipts(
    device: Device, server: Running, tmp_path: Path
) -> None:
    device.seal()
    assert (await device.send(device.batch(0))).status_code == 200
    made = config.from_environ({"CCSERVER_DATA_DIR": str(tmp_path / "other"), "CCSERVER_NAME": "cc.example"})
    keys.create(made.key_file, made.server_name)
    with pytest.raises(KeysLackingError, match=server.keys.witness.name):
        await health.check_keys(server.db, keys.load(made.key_file))
    await health.check_keys(server.db, server.keys)
    app = make(made, server.urls.server)
    with pytest.raises(KeysLackingError, match="newest copy"):
        async with app.router.lifespan_context(app):
            pass
