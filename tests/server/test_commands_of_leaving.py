"""The command line by which evidence and tenants leave: real processes on a real database."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ccserver import verify
from ccserver.config import Config
from ccserver.localpg import Urls
from tests.server.test_commands import CommandLine


@pytest.fixture
async def cli(database: Urls, settings: Config) -> CommandLine:
    made = CommandLine(database, settings)
    await made.run("partner", "create", "Acme", "--id", "acme")
    await made.run("site", "create", "Acme clinic", "--partner", "acme", "--id", "acme-clinic")
    await made.rows(
        "INSERT INTO appliances (site_id, partner_id, id, hostname, public_key)"
        " VALUES ('acme-clinic', 'acme', 'box-1', 'box', sha256('k'))"
    )
    return made


def names(path: Path) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as opened:
        return set(opened.namelist())


async def test_an_export_by_command_is_judged_by_what_keys_trust_prints(cli: CommandLine, tmp_path: Path) -> None:
    out, trust = tmp_path / "export.zip", tmp_path / "keys.txt"
    trust.write_text(await cli.run("keys", "trust"), encoding="utf-8")
    await cli.run("evidence", "export", "--site", "acme-clinic", "-o", str(out))
    command = [sys.executable, "-I", str(Path(verify.__file__)), str(out), "--trust", str(trust), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: ASYNC221  nothing else runs
    found = json.loads(done.stdout)
    assert (found["verdict"], set(found["counts"])) == ("INCOMPLETE", {"empty"})  # every key is vouched for
    read = verify.read_trust(trust.read_text(encoding="utf-8"))
    assert (len(read.witnesses), len(read.fingerprints)) == (1, 1)


async def test_the_first_keys_are_trusted_after_a_rotation_too(cli: CommandLine) -> None:
    before = await cli.run("keys", "trust")
    await cli.run("keys", "rotate", "witness", "--yes")
    await cli.run("keys", "rotate", "order", "--yes")
    assert await cli.run("keys", "trust") == before


async def test_an_export_of_no_site_or_of_an_impossible_range_writes_nothing(cli: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "export.zip"
    assert "There is no site nowhere" in await cli.refused("evidence", "export", "--site", "nowhere", "-o", str(out))
    span = ("--from", "2026-02-01", "--to", "2026-01-01")
    await cli.run("evidence", "export", "--site", "acme-clinic", *span, "-o", str(out), code=2)
    assert not out.exists()


async def test_a_site_is_closed_once_its_evidence_is_kept(cli: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "kept.zip"
    await cli.run("site", "close", "acme-clinic", "--yes", code=2)
    assert (await cli.json("site", "close", "acme-clinic", "--dry-run"))["appliances"] == 1
    assert (await cli.json("site", "close", "acme-clinic", "--export", str(out), "--yes"))["appliances"] == 1
    assert {"manifest.json", "verify.py"} <= names(out)
    await cli.refused("site", "close", "acme-clinic", "--export", str(out), "--yes")
    (row,) = await cli.rows("SELECT closed_at IS NOT NULL AS closed FROM sites")
    assert row["closed"]


async def test_a_partner_is_off_boarded_with_all_that_is_its(cli: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "all"
    await cli.run("partner", "off-board", "acme", code=2)
    assert await cli.json("partner", "off-board", "acme", "--dry-run") == {"would_close": ["acme-clinic"]}
    done = await cli.json("partner", "off-board", "acme", "--export", str(out), "--yes")
    assert [each["site_id"] for each in done["closed"]] == ["acme-clinic"]
    assert "sites/acme-clinic.zip" in json.loads((out / "manifest.json").read_text(encoding="utf-8"))["files"]
    actions = [each["action"] for each in await cli.json("audit", "list", "--partner", "acme")]
    assert actions[:2] == ["partner.off_board", "site.close"]


async def test_all_of_a_partner_is_exported_into_a_folder(cli: CommandLine, tmp_path: Path) -> None:
    assert "files" in await cli.run("export", "--partner", "acme", "-o", str(tmp_path))
    assert all((tmp_path / name).exists() for name in ("manifest.json", "sites/acme-clinic.zip", "keys.json"))
    assert "There is no partner nobody" in await cli.refused("export", "--partner", "nobody", "-o", str(tmp_path))
