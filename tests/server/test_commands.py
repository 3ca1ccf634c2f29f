"""The command line as processes against a real database."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import click
import pytest

from ccserver.config import Config
from ccserver.localpg import Urls
from tests.devices import Running


@dataclass(frozen=True)
class CommandLine:
    """`ccserver` with a database and a key file of its own."""

    urls: Urls
    settings: Config

    async def run(self, *arguments: str, code: int = 0, given: str = "") -> str:
        """Return what a command, given this on standard input, printed; it ends with this code and no traceback."""
        return (await self.both(*arguments, code=code, given=given))[0]

    async def refused(self, *arguments: str, given: str = "") -> str:
        """Return the sentence with which a command failed."""
        return (await self.both(*arguments, code=1, given=given))[1]

    async def both(self, *arguments: str, code: int, given: str) -> tuple[str, str]:
        env = os.environ | {"DATABASE_URL": self.urls.server, "CCSERVER_DATA_DIR": str(self.settings.data_dir)}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", "from ccserver.cli import main; main()", *arguments),
            env=env | {"CCSERVER_NAME": "cc.example"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(given.encode())
        assert process.returncode == code, err.decode()
        assert b"Traceback" not in err
        return out.decode(), err.decode()

    async def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(await self.run(*arguments, "--json", code=code))

    async def rows(self, statement: str) -> list[asyncpg.Record]:
        """Run a statement as the database's superuser."""
        conn = await asyncpg.connect(self.urls.admin)
        found = await conn.fetch(statement)
        await conn.close()
        return found


@pytest.fixture
async def command_line(database: Urls, settings: Config) -> CommandLine:
    made = CommandLine(database, settings)
    await made.run("partner", "create", "Acme", "--id", "acme")
    await made.run("site", "create", "Acme clinic", "--partner", "acme", "--id", "acme-clinic")
    return made


async def test_what_is_made_on_the_host_is_audited(command_line: CommandLine) -> None:
    await command_line.run("admin", "create", "olga@acme.example", "--partner", "acme")
    await command_line.run("enroll-code", "create", "--site", "acme-clinic")
    rows = await command_line.rows("SELECT partner_id, action, actor FROM audit_log ORDER BY at")
    assert [(row["partner_id"], row["action"]) for row in rows] == [
        ("platform", "partner.create"),
        ("acme", "site.create"),
        ("acme", "user.create"),
        ("acme", "enroll_code.create"),
    ]
    assert {row["actor"] for row in rows} == {f"host:uid-{os.getuid()}"}


async def test_a_key_made_on_the_host_is_listed_without_itself_and_revoked(command_line: CommandLine) -> None:
    made = await command_line.json("key", "create", "--partner", "acme", "--role", "viewer", "--days", "30", "reports")
    assert made["key"].startswith("cck_")
    await command_line.json("key", "revoke", made["id"], "--partner", "acme", "--yes")
    (listed,) = await command_line.json("key", "list", "--partner", "acme")
    assert (listed["id"], listed["name"]) == (made["id"], "reports")
    assert listed["revoked_at"] is not None
    assert "key" not in listed
    await command_line.run("key", "create", "--partner", "acme", "--role", "platform_admin", "--days", "1", "x", code=2)
    await command_line.run("key", "revoke", made["id"], "--partner", "nobody", "--yes", code=1)


async def test_people_are_invited_listed_reset_and_disabled_on_the_host(command_line: CommandLine) -> None:
    create = ("user", "create", "--partner", "acme")
    made = await command_line.json(*create, "--role", "auditor", "--site", "acme-clinic", "Anna@acme.example")
    assert "/welcome/" in made["link"]
    assert "/welcome/" in (await command_line.json("user", "reset", "anna@acme.example", "--second-factor"))["link"]
    await command_line.run("user", "disable", "anna@acme.example", "--yes")
    (listed,) = await command_line.json("user", "list", "--partner", "acme")
    assert (listed["login"], listed["sites"], listed["invited"]) == ("anna@acme.example", ["acme-clinic"], True)
    assert listed["disabled_at"] is not None
    await command_line.run(*create, "--role", "auditor", "eve@acme.example", code=2)
    await command_line.run("user", "disable", "nobody@acme.example", "--yes", code=1)


async def test_the_last_admin_is_rescued_on_the_host(command_line: CommandLine) -> None:
    first = await command_line.json("admin", "create", "root@platform.example")
    await command_line.rows("UPDATE users SET disabled_at = now(), locked_until = now() + interval '1 h'")
    rescued = await command_line.json("admin", "rescue", "root@platform.example")
    assert rescued["password"] != first["password"]
    (row,) = await command_line.rows("SELECT disabled_at, locked_until, totp_sealed FROM users")
    assert tuple(row) == (None, None, None)
    await command_line.run("admin", "rescue", "nobody@platform.example", code=1)


async def test_who_was_rescued_signs_in_with_the_new_password_and_nothing_else(
    server: Running, settings: Config, tmp_path: Path
) -> None:
    command_line = CommandLine(server.urls, settings)
    made = await command_line.json("admin", "create", "root@platform.example")
    (tmp_path / "password").write_text("a password of my own\n")
    await command_line.run("admin", "rescue", "root@platform.example", "--password-file", str(tmp_path / "password"))
    headers, login = {"Sec-Fetch-Site": "same-origin"}, "root@platform.example"
    for password, status in ((made["password"], 401), ("a password of my own", 303)):
        answer = await server.client.post("/login", data={"login": login, "password": password}, headers=headers)
        assert answer.status_code == status


async def test_who_was_reset_chooses_a_password_by_the_link_once(server: Running, settings: Config) -> None:
    command_line = CommandLine(server.urls, settings)
    await command_line.json("user", "create", "--partner", "acme", "--role", "viewer", "vera@acme.example")
    path = "/welcome/" + (await command_line.json("user", "reset", "vera@acme.example"))["link"].rpartition("/")[2]
    chosen = {"password": "a password of my own"}
    statuses = [
        (await server.client.post(path, data=chosen, headers={"Sec-Fetch-Site": "same-origin"})).status_code
        for _ in range(2)
    ]
    assert statuses[0] in (200, 303)
    assert statuses[1] == 404


def test_no_command_takes_a_secret_as_an_argument() -> None:
    from ccserver.cli import cli

    names = {
        name for command in commands(cli) for parameter in command.params for name in (*parameter.opts, parameter.name)
    }
    assert len(names) > 10
    assert {name for name in names if re.search("password|secret|token|code|url", name or "")} <= {
        "--password-file",
        "password_file",
        "--secret-file",
        "secret_file",
        "code_id",  # names a code, opens nothing
    }


def commands(group: click.Command) -> Iterator[click.Command]:
    yield group
    for each in group.commands.values() if isinstance(group, click.Group) else ():
        yield from commands(each)


async def test_the_command_says_good_or_names_the_first_bad_entry_and_exits_1(command_line: CommandLine) -> None:
    good = await command_line.json("audit", "verify")
    assert {row["partner_id"]: (row["good"], row["size"]) for row in good} == {
        "acme": (True, 1),
        "platform": (True, 1),
    }
    conn = await asyncpg.connect(command_line.urls.admin)
    await conn.execute("SET session_replication_role = replica")
    await conn.execute("UPDATE audit_log SET target = 'site:other' WHERE partner_id = 'acme'")
    await conn.close()
    (bad,) = await command_line.json("audit", "verify", "--partner", "acme", code=1)
    assert (bad["good"], bad["first_bad_seq"]) == (False, 0)
    assert "BAD at entry 0" in await command_line.run("audit", "verify", code=1)
    await command_line.run("audit", "verify", "--partner", "platform")
    await command_line.run("audit", "verify", "--partner", "nobody", code=1)
