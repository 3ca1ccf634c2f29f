"""Every secret is made anew while the server runs: nothing old works, nothing that is kept is lost."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from ccserver import keys, sealing, targets, totp
from ccserver.config import Config
from ccserver.errors import BadConfigError, SealBrokenError
from ccserver.keys import SEAL_PURPOSE, KeyFile
from ccserver.queries import users
from ccserver.queries.users import User
from ccserver.sealing import Place
from ccserver.targets import Target
from ccserver.telling import Sender
from ccshared import purposes
from ccshared.vocabulary import Role
from tests.compat.samples import as_superuser
from tests.devices import Device, Running
from tests.people import Person
from tests.server.test_backup import Host, rows
from tests.server.test_dump import HASH, made

PLACE = Place("users", "totp_sealed", "acme/olga")


@pytest.fixture
async def olga(server: Running) -> AsyncIterator[Person]:
    """A person with a second factor, who is signed in."""
    headers = {"Sec-Fetch-Site": "same-origin"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False) as client:
        person = Person(User("acme", "olga", "olga@acme.example", str(Role.OWNER)), client)
        async with server.db.platform() as scope:
            await users.insert(scope, person.user, HASH)
        assert (await person.give_password()).status_code == 303
        await person.set_up()
        assert (await person.give_code(await person.ticket(), person.code())).status_code == 303
        yield person


@pytest.fixture
def host(server: Running, settings: Config) -> Host:
    return Host(server.urls, settings)


async def gives_a_code(host: Host, person: Person) -> int:
    """Sign in by a code of this moment, which counts as unused."""
    await rows(host.urls, "UPDATE users SET totp_last_step = NULL RETURNING 1")
    code = totp.code(person.secret, totp.step_at(time.time()))
    return (await person.give_code(await person.ticket(), code)).status_code


async def answers(person: Person) -> int:
    return (await person.client.get("/api/v1/sites")).status_code


async def test_nothing_of_before_works_and_the_second_factor_still_does(
    server: Running, host: Host, olga: Person, device: Device
) -> None:
    key = await made(olga, "api-keys", "key", name="key", role="owner", days=9)
    code = await made(olga, "sites/acme-clinic/codes", "code", hours=9)
    assert await answers(olga) == 200
    done = await host.json("secrets", "rotate", "--all", "--yes")
    assert (done["resealed"], done["unopened"]) == (1, [])
    assert {name: count >= 1 for name, count in done["voided"].items()} | {"invitations": True} == {
        "sessions": True, "api_keys": True, "enrollment_codes": True, "invitations": True
    }  # fmt: skip
    assert await answers(olga) == 401
    bearer = {"Authorization": f"Bearer {key}"}
    assert (await server.client.get("/api/v1/sites", headers=bearer)).status_code == 401
    assert (await device.call("GET", "log")).status_code == 401
    assert (await Device(server, b"7" * 32).enroll(purposes.EnrolmentCode(*code.split("/")))).status_code >= 400
    assert await gives_a_code(host, olga) == 303
    assert await answers(olga) == 200


async def test_an_appliance_goes_on_by_its_device_key_and_follows_the_signing_keys(
    server: Running, host: Host, device: Device
) -> None:
    device.check_run("firewall", "pass")
    before = (await device.send(device.batch(0))).json()["receipt"]
    await host.run("secrets", "rotate", "--all", "--yes")
    device.token = (await device.ask_token()).json()["token"]
    assert (await device.send(device.batch(0))).json()["receipt"] == before
    device.check_run("firewall", "fail")
    newest = keys.load(host.settings.key_file)
    assert newest.witness.name in (await device.send(device.batch(1))).json()["receipt"]
    told = (await server.client.get("/agent/v1/keys")).json()
    assert (len(told["keys"]), len(told["statements"])) == (4, 2)


async def test_a_dry_run_and_a_refusal_change_nothing(host: Host, olga: Person) -> None:
    before = (host.settings.key_file.read_bytes(), await rows(host.urls, "SELECT totp_sealed FROM users"))
    assert (await host.json("secrets", "rotate", "--all", "--dry-run"))["voided"]["sessions"] >= 1
    await host.run("secrets", "rotate", "--all", code=2)
    await host.run("secrets", "rotate", "--yes", code=2)
    assert (host.settings.key_file.read_bytes(), await rows(host.urls, "SELECT totp_sealed FROM users")) == before
    assert await answers(olga) == 200


async def test_an_interrupted_rotation_is_carried_on_by_the_next(host: Host, olga: Person) -> None:
    keys.rotate_all(host.settings.key_file)  # and then the power went
    assert await gives_a_code(host, olga) == 303
    assert (await host.json("secrets", "rotate", "--all", "--yes"))["resealed"] == 1
    assert len(keys.load(host.settings.key_file).former) == 2


async def test_what_opens_with_no_key_is_named_and_left(host: Host, olga: Person) -> None:
    await rows(host.urls, "UPDATE users SET totp_sealed = '\\x01' || sha256(id::bytea) RETURNING 1")
    assert (await host.json("secrets", "rotate", "--all", "--yes"))["unopened"] == ["users acme/olga"]


async def test_channels_are_sealed_anew_and_a_running_sender_opens_them(
    server: Running, host: Host, olga: Person
) -> None:
    file = KeyFile(host.settings.key_file)
    sender = Sender(server.db, lambda: file.derived(SEAL_PURPOSE), host.settings, "cc.example")
    old = targets.seal(file.derived(SEAL_PURPOSE)[0], "acme", "one", Target(url="https://example.org/hook"))
    insert = """
        INSERT INTO notification_channels (partner_id, id, kind, name, target_sealed, min_severity)
        VALUES ('acme', 'one', 'webhook', 'one', $1, 'low')
    """
    await as_superuser(server.urls.admin, (insert, (old,)))
    assert (await host.json("secrets", "rotate", "--all", "--yes"))["resealed"] == 2
    ((sealed,),) = await rows(host.urls, "SELECT target_sealed FROM notification_channels")
    assert sealed != old
    for each in (sealed, old):
        assert targets.unseal(sender.unseal_keys(), "acme", "one", each).url == "https://example.org/hook"


async def test_a_backup_of_before_is_restored_with_the_key_file_of_after(
    host: Host, olga: Person, tmp_path: Path
) -> None:
    await host.run("backup", "-o", str(tmp_path / "copy"))
    await host.run("secrets", "rotate", "--all", "--yes")
    assert (await host.json("restore", str(tmp_path / "copy"), "--verify"))["faults"] == []


def test_a_running_server_follows_a_new_master_key_and_no_strangers(settings: Config) -> None:
    file = KeyFile(settings.key_file)
    old = file.derived(SEAL_PURPOSE)[0]
    sealed = sealing.seal(old, PLACE, b"secret")
    fresh = keys.rotate_all(settings.key_file)
    assert file.current == fresh
    assert file.derived(SEAL_PURPOSE)[1:] == [old]
    assert sealing.unseal(file.derived(SEAL_PURPOSE), PLACE, sealed) == b"secret"
    with pytest.raises(SealBrokenError):
        sealing.unseal(file.derived(SEAL_PURPOSE)[0], PLACE, sealed)
    settings.key_file.unlink()
    keys.create(settings.key_file, "cc.example")
    assert (file.current, file.refused) == (fresh, 1)


def test_a_rotation_of_all_that_cannot_be_written_changes_nothing(settings: Config) -> None:
    with pytest.raises(BadConfigError):
        keys.rotate_all(settings.key_file.with_name("none"))
