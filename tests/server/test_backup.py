"""A backup is one moment of every table, holds no key, and goes back whole into an empty database or not at all."""

import asyncio
import contextlib
import gzip
import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import pyrage
import pytest

import ccserver
from ccserver import age, archive, backup, keys, migrate, restoring
from ccserver.archive import BackupBrokenError
from ccserver.config import Config
from ccserver.errors import CentralCommandError
from ccserver.localpg import Urls
from ccserver.queries.backups import Relation
from ccserver.restoring import Source
from tests.databases import Server
from tests.devices import Device, Running


@dataclass(frozen=True)
class Host:
    """`ccserver` on a host whose database is at `urls`; `code` is the folder of another release's."""

    urls: Urls
    settings: Config
    code: Path | None = None

    async def run(self, *arguments: str, code: int = 0, given: bytes = b"") -> tuple[bytes, str]:
        """Return what a command wrote to standard output and to standard error; `given` is its standard input."""
        env = os.environ | {
            "DATABASE_URL": self.urls.server,
            "DATABASE_OWNER_URL": self.urls.owner,
            "DATABASE_BACKUP_URL": self.urls.backup,
            "DATABASE_ADMIN_URL": self.urls.admin,
            "CCSERVER_DATA_DIR": str(self.settings.data_dir),
        }
        if self.code is not None:
            env["PYTHONPATH"] = f"{self.code}:{os.environ.get('PYTHONPATH', '')}"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from ccserver.cli import main; main()", *arguments),
            env=env | {"CCSERVER_NAME": "cc.example"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(given)
        assert process.returncode == code, err.decode()
        assert b"Traceback" not in err
        return out, err.decode()

    async def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads((await self.run(*arguments, "--json", code=code))[0])

    async def refused(self, *arguments: str) -> str:
        """Return the one sentence with which a command failed."""
        said = (await self.run(*arguments, code=1))[1].strip().splitlines()
        return said[-1]


async def rows(urls: Urls, statement: str) -> list[asyncpg.Record]:
    conn = await asyncpg.connect(urls.admin)
    found = await conn.fetch(statement)
    await conn.close()
    return list(found)


async def contents(urls: Urls) -> dict[str, list[str]]:
    """Every row of every table as text, but what a restore changes on purpose."""
    tables = await rows(
        urls, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    )
    changed = {"schema_migrations", "witness_marks", "sessions", "audit_log", "audit_heads"}
    return {
        row["relname"]: sorted(str(tuple(each.values())) for each in await rows(urls, f"TABLE {row['relname']}"))
        for row in tables
        if row["relname"] not in changed
    }


@pytest.fixture
async def host(server: Running, device: Device, settings: Config) -> Host:
    """A server with two logs, what a person wrote with every letter that COPY escapes, and a chain for each partner."""
    for each in (device, await Device.enrolled(server, "acme", "acme-clinic")):
        for status in ("pass", "fail", "pass", "fail", "pass"):
            each.check_run("firewall", status)
        assert (await each.send(each.batch(0))).status_code == 200
    made = Host(server.urls, settings)
    await made.run("partner", "create", "Tab\there, back\\slash, line\nend, \\N and ż", "--id", "beta")
    await made.run("enroll-code", "create", "--site", "acme-clinic")
    return made


@pytest.fixture
async def copy(host: Host, tmp_path: Path) -> Path:
    """A backup of the host."""
    await host.run("backup", "-o", str(tmp_path / "cc.backup"))
    return tmp_path / "cc.backup"


@pytest.fixture
def elsewhere(host: Host, empty_database: Urls) -> Host:
    """The same keys, and an empty database."""
    return replace(host, urls=empty_database)


@pytest.fixture
async def before(settings: Config, postgres: Server, tmp_path: Path) -> AsyncIterator[Host]:
    """The same keys, an empty database, and a release that lacks the newest migration."""
    code = Path(ccserver.__file__).parent
    made = shutil.copytree(code, tmp_path / "before" / "ccserver", ignore=shutil.ignore_patterns("__pycache__"))
    (made / "migrations" / migrate.files()[-1].name).unlink()
    yield Host(postgres.create_database("cc_before"), settings, made.parent)
    await rows(postgres.urls("postgres"), "DROP DATABASE cc_before WITH (FORCE)")


async def test_what_is_restored_is_what_was_backed_up(host: Host, copy: Path, elsewhere: Host) -> None:
    told = await elsewhere.json("restore", str(copy), "--yes")
    assert (told["logs"], told["entries"], told["audit_chains"], told["faults"]) == (2, 10, 3, [])
    assert await contents(elsewhere.urls) == await contents(host.urls)
    assert mode(copy) == 0o600


async def test_a_restored_database_is_locked_as_it_was(host: Host, copy: Path, elsewhere: Host) -> None:
    await elsewhere.run("restore", str(copy), "--yes")
    locks = """
        SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, c.relacl::text,
               (SELECT array_agg(t.tgname || t.tgenabled::text ORDER BY t.tgname) FROM pg_trigger t
                WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) AS triggers
        FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace ORDER BY 1
    """
    assert await rows(elsewhere.urls, locks) == await rows(host.urls, locks)


async def test_ids_go_on_after_the_highest_that_was_restored(copy: Path, elsewhere: Host) -> None:
    await elsewhere.run("restore", str(copy), "--yes")
    (row,) = await rows(
        elsewhere.urls,
        """
        SELECT nextval(pg_get_serial_sequence('evidence_bundles', 'id')) AS next, max(id) AS last FROM evidence_bundles
        """,
    )
    assert row["next"] == row["last"] + 1


@pytest.mark.parametrize("known", [None, 123456789], ids=["on a new host", "beside the old mark"])
async def test_a_new_generation_of_the_witness_begins_beyond_every_known_mark(
    host: Host, copy: Path, elsewhere: Host, known: int | None
) -> None:
    (before,) = await rows(host.urls, "SELECT mark, generation FROM witness_marks")
    put_mark(host.settings.key_file.with_name("server-keys.json.mark"), known)
    await elsewhere.run("restore", str(copy), "--yes")
    (after,) = await rows(elsewhere.urls, "SELECT mark, generation FROM witness_marks")
    assert after["generation"] > before["generation"]
    assert after["mark"] > max(before["mark"], known or 0)


async def test_a_policy_that_was_made_before_is_made_anew_for_an_appliance_that_may_have_a_later_one(
    host: Host, tmp_path: Path, elsewhere: Host, device: Device
) -> None:
    assert (await device.call("GET", "policy")).status_code == 200
    await host.run("backup", "-o", str(tmp_path / "later"))
    await elsewhere.run("restore", str(tmp_path / "later"), "--yes")
    found = await rows(elsewhere.urls, "SELECT DISTINCT policy_version, policy_basis FROM appliances")
    assert [tuple(row) for row in found] == [(None, None)]


async def test_the_restore_stands_in_the_audit_log_and_nobody_is_signed_in(copy: Path, elsewhere: Host) -> None:
    await elsewhere.run("restore", str(copy), "--yes")
    (last,) = await rows(
        elsewhere.urls, "SELECT action FROM audit_log WHERE partner_id = 'platform' ORDER BY seq DESC LIMIT 1"
    )
    assert last["action"] == "backup.restore"
    assert await rows(elsewhere.urls, "TABLE sessions") == []


async def test_a_backup_sees_one_moment_while_evidence_arrives(
    host: Host, device: Device, tmp_path: Path, elsewhere: Host
) -> None:
    async def upload() -> None:
        while True:
            first = len(device.payloads)
            device.check_run("firewall", "pass")
            assert (await device.send(device.batch(first))).status_code == 200

    uploading = asyncio.create_task(upload())
    for number in range(3):
        await host.run("backup", "-o", str(tmp_path / f"{number}.backup"))
    uploading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await uploading
    told = await elsewhere.json("restore", str(tmp_path / "2.backup"), "--verify")
    assert (told["logs"], told["faults"]) == (2, [])
    assert 10 < told["entries"] <= len(device.payloads) + 5


async def test_restore_verify_leaves_no_database_unless_it_is_kept(host: Host, copy: Path) -> None:
    scratches = "SELECT datname FROM pg_database WHERE datname LIKE 'cc_restore_%'"
    told = await host.json("restore", str(copy), "--verify")
    assert (told["database"], await rows(host.urls, scratches)) == (None, [])
    kept = (await host.json("restore", str(copy), "--verify", "--keep"))["database"]
    assert [row["datname"] for row in await rows(host.urls, scratches)] == [kept]
    await rows(host.urls, f'DROP DATABASE "{kept}" WITH (FORCE)')


async def test_a_dry_run_restores_nothing(copy: Path, elsewhere: Host) -> None:
    told = await elsewhere.json("restore", str(copy), "--dry-run")
    assert told["dry_run"] is True
    assert await is_untouched(elsewhere.urls)


async def test_a_database_that_holds_anything_is_not_restored_into(host: Host, copy: Path) -> None:
    before = await contents(host.urls)
    assert "holds tables" in await host.refused("restore", str(copy), "--yes")
    assert await contents(host.urls) == before


async def test_a_changed_entry_in_the_source_is_named_by_the_log(host: Host, tmp_path: Path) -> None:
    conn = await asyncpg.connect(host.urls.admin)
    await conn.execute("SET session_replication_role = replica")
    await conn.execute("UPDATE evidence_bundles SET payload = payload || ' ' WHERE seq = 3")
    await conn.close()
    await host.run("backup", "-o", str(tmp_path / "bad"))
    told = await host.json("restore", str(tmp_path / "bad"), "--verify", code=1)
    assert len(told["faults"]) == 2
    assert "the payload of entry 3 is not what was hashed" in told["faults"][0]


async def test_an_encrypted_backup_opens_with_its_identity_alone(host: Host, tmp_path: Path, elsewhere: Host) -> None:
    mine, others = [identity(tmp_path / name) for name in ("mine", "others")]
    path = str(tmp_path / "cc.age")
    assert (await host.json("backup", "-o", path, "--recipient", mine))["encrypted"] is True
    assert "--identity" in await elsewhere.refused("restore", path, "--yes")
    assert "None of the identities" in await elsewhere.refused(
        "restore", path, "--yes", "--identity", others_path(tmp_path)
    )
    assert others != mine
    assert await is_untouched(elsewhere.urls)
    told = await elsewhere.json("restore", path, "--yes", "--identity", str(tmp_path / "mine"))
    assert (told["logs"], told["faults"]) == (2, [])


async def test_an_identity_that_a_passphrase_protects_comes_by_standard_input(host: Host, tmp_path: Path) -> None:
    path, mine = str(tmp_path / "cc.age"), identity(tmp_path / "mine")
    await host.run("backup", "-o", path, "--recipient", mine)
    trying = ("restore", path, "--verify", "--identity")
    (tmp_path / "locked").write_bytes(b"age-encryption.org/v1\n-> scrypt\n\xff")
    assert "as --identity -" in await host.refused(*trying, str(tmp_path / "locked"))
    out, _ = await host.run(*trying, "-", "--json", given=(tmp_path / "mine").read_bytes())
    assert json.loads(out)["faults"] == []
    _, said = await host.run(*trying, "-", code=1)  # what `age -d` gives for a wrong passphrase: nothing
    assert said.strip() == "ccserver: - holds no identity of age."


async def test_standard_output_gets_the_same_archive(host: Host, tmp_path: Path) -> None:
    mine = identity(tmp_path / "mine")
    (tmp_path / "piped").write_bytes((await host.run("backup", "-o", "-", "--recipient", mine))[0])
    told = await host.json(
        "restore", str(tmp_path / "piped"), "--dry-run", "--verify", "--identity", str(tmp_path / "mine")
    )
    assert told["logs"] == 2


async def test_no_key_is_in_a_backup(host: Host, copy: Path) -> None:
    data = unzipped(copy)
    held = keys.load(host.settings.key_file)
    for secret in (held.master, *(key.seed for key in held.signing)):
        assert secret not in data
        assert secret.hex().encode() not in data


async def test_half_an_archive_is_one_sentence_and_touches_nothing(copy: Path, elsewhere: Host) -> None:
    cut(copy, 0.5)
    assert "not a whole backup" in await elsewhere.refused("restore", str(copy), "--yes")
    assert await is_untouched(elsewhere.urls)


async def test_the_key_file_is_backed_up_apart_and_put_back_only_where_none_is(host: Host, tmp_path: Path) -> None:
    path, copy = host.settings.key_file, str(tmp_path / "keys.age")
    await host.run("keys", "backup", "-o", copy, "--recipient", identity(tmp_path / "mine"))
    opening = ("--identity", str(tmp_path / "mine"))
    assert "never overwritten" in await host.refused("keys", "restore", copy, *opening)
    before = path.read_bytes()
    path.unlink()
    identity(tmp_path / "others")
    assert "None of the identities" in await host.refused("keys", "restore", copy, "--identity", others_path(tmp_path))
    assert not path.exists()
    await host.run("keys", "restore", copy, *opening)
    assert (path.read_bytes(), mode(path)) == (before, 0o600)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.5, 0.9, 0.999])
def test_an_archive_is_refused_wherever_it_ends(host: Host, copy: Path, share: float) -> None:
    cut(copy, share)
    with pytest.raises(BackupBrokenError):
        restoring.examine(Source(copy, [], keys.load(host.settings.key_file)))


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_flipped_byte_is_refused_wherever_it_is(host: Host, tmp_path: Path, encrypted: bool) -> None:
    path, mine = tmp_path / "copy", identity(tmp_path / "mine")
    await host.run("backup", "-o", str(path), *(["--recipient", mine] if encrypted else []))
    opening = age.identities(tmp_path / "mine") if encrypted else []
    assert taken(path, opening, host.settings) == []


def taken(path: Path, opening: list[Any], settings: Config) -> list[int]:
    """Return at which of some hundred places a flipped byte was not noticed, though another backup came of it.

    A distance in what gzip wrote may lead to the same zeros further back.
    """
    data, found = path.read_bytes(), list[int]()
    source = Source(path, opening, keys.load(settings.key_file))
    restoring.examine(source)
    for place in range(10, len(data), len(data) // 100):  # before it are the time and system in gzip's header
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with contextlib.suppress(CentralCommandError):
            restoring.examine(source)
            found += [place] if opening or gzip.decompress(data) != unzipped(path) else []
    return found


Change = Callable[[dict[str, bytes]], None]


def first_row_twice(members: dict[str, bytes]) -> None:
    name = "tables/sites/000001.copy"
    members[name] += members[name]


def without_a_table(members: dict[str, bytes]) -> None:
    del members["tables/evidence_bundles/000001.copy"]


def without_proof(members: dict[str, bytes]) -> None:
    del members[archive.MAC]


def with_another_manifest(members: dict[str, bytes]) -> None:
    members[archive.MANIFEST] = members[archive.MANIFEST].replace(b'"rows":10', b'"rows":11')


def with_a_path(members: dict[str, bytes]) -> None:
    members["tables/../../etc/000001.copy"] = b"x\n"


@pytest.mark.parametrize(
    "change", [first_row_twice, without_a_table, without_proof, with_another_manifest, with_a_path]
)
def test_an_archive_that_somebody_packed_anew_is_refused(host: Host, copy: Path, change: Change) -> None:
    repack(copy, change)
    with pytest.raises(CentralCommandError):
        restoring.examine(Source(copy, [], keys.load(host.settings.key_file)))


async def test_a_backup_of_a_newer_schema_names_what_to_install(copy: Path, elsewhere: Host) -> None:
    def newer(members: dict[str, bytes]) -> None:
        begin = json.loads(members[archive.BEGIN])
        begin["schema"].append([len(begin["schema"]) + 1, "999_next.sql", "0" * 64])
        members[archive.BEGIN] = json.dumps(begin).encode()

    repack(copy, newer)
    assert "newer than this release" in await elsewhere.refused("restore", str(copy), "--yes")
    assert await is_untouched(elsewhere.urls)


async def test_a_backup_by_the_release_before_is_brought_up_to_date(
    before: Host, elsewhere: Host, tmp_path: Path
) -> None:
    await before.run("migrate")
    await before.run("partner", "create", "Beta", "--id", "beta")
    await before.run("backup", "-o", str(tmp_path / "older"))
    told = await elsewhere.json("restore", str(tmp_path / "older"), "--yes")
    assert (told["faults"], told["audit_chains"]) == ([], 2)
    (row,) = await rows(elsewhere.urls, "SELECT max(number) AS number FROM schema_migrations")
    assert row["number"] == migrate.files()[-1].number
    assert [each["id"] for each in await rows(elsewhere.urls, "SELECT id FROM partners ORDER BY id DESC")] == [
        "platform",
        "beta",
    ]


async def test_the_release_before_refuses_the_backup_of_this_one(copy: Path, before: Host) -> None:
    assert "newer than this release" in await before.refused("restore", str(copy), "--yes")
    assert await is_untouched(before.urls)


async def test_another_servers_key_file_restores_nothing(copy: Path, elsewhere: Host) -> None:
    elsewhere.settings.key_file.unlink()
    assert "no key file" in await elsewhere.refused("restore", str(copy), "--yes")
    keys.create(elsewhere.settings.key_file, "cc.example")
    assert "not the one that the backup was made with" in await elsewhere.refused("restore", str(copy), "--yes")
    elsewhere.settings.key_file.unlink()
    keys.create(elsewhere.settings.key_file, "cc.other")
    assert "key file is of cc.other" in await elsewhere.refused("restore", str(copy), "--yes")
    assert await is_untouched(elsewhere.urls)


async def test_only_the_role_that_reads_makes_a_backup(host: Host, tmp_path: Path) -> None:
    for role in ("server", "owner", "admin"):
        wrong = Host(replace(host.urls, backup=getattr(host.urls, role)), host.settings)
        assert "cc_backup" in await wrong.refused("backup", "-o", str(tmp_path / "none"))
    assert [name for name in names(tmp_path) if "none" in name] == []


async def test_the_role_that_reads_writes_nothing(host: Host) -> None:
    conn = await asyncpg.connect(host.urls.backup)
    for statement in (
        "DELETE FROM sites",
        "UPDATE users SET login = 'x'",
        "INSERT INTO partners (id, name) VALUES ('a', 'b')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(statement)
    await conn.close()


def test_a_table_comes_after_those_it_refers_to_and_a_circle_is_told() -> None:
    a, b, c = Relation("a", [], ["c"]), Relation("b", [], []), Relation("c", [], ["b"])
    assert [each.name for each in backup.in_order([a, b, c])] == ["b", "c", "a"]
    with pytest.raises(ValueError, match="'a', 'c'"):
        backup.in_order([a, Relation("c", [], ["a"])])


async def test_every_table_is_in_a_backup(host: Host, copy: Path) -> None:
    (manifest,) = [json.loads(data) for name, data in read(copy) if name == archive.MANIFEST]
    assert {table["name"] for table in manifest["tables"]} == {
        row["relname"]
        for row in await rows(
            host.urls,
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')",
        )
    } - {"schema_migrations"}


# What the tests need


def put_mark(path: Path, known: int | None) -> None:
    path.unlink(missing_ok=True)
    if known is not None:
        path.write_text(json.dumps({"mark": known}))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def unzipped(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def others_path(folder: Path) -> str:
    return str(folder / "others")


def identity(path: Path) -> str:
    """Write a private key to a file and return the public one."""
    made = pyrage.x25519.Identity.generate()
    path.write_text(f"# made for a test\n{made}\n")
    return str(made.to_public())


async def is_untouched(urls: Urls) -> bool:
    found = await rows(urls, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    return found == []


def read(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        yield from archive.members(file)


def repack(path: Path, change: Change) -> None:
    """Write the archive anew with its members changed, in their order."""
    members = dict(read(path))
    change(members)
    out = io.BytesIO()
    with tarfile.open(mode="w", fileobj=out) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    path.write_bytes(gzip.compress(out.getvalue()))
