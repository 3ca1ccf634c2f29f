"""The main job with real processes: checks, evidence, upload, receipt; a server killed in mid-upload loses nothing."""

import signal
import subprocess
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import asyncpg
import pytest
from playwright.async_api import Browser

from ccagent import queue
from ccagent.places import Places
from ccagent.store import Store
from ccserver.localpg import Urls
from ccshared.entries import Draft
from ccshared.vocabulary import Clock, Kind
from tests.e2e.processes import Clinic, wait_until


@pytest.fixture
async def clinic(database: Urls, tmp_path: Path) -> AsyncIterator[Clinic]:
    made = Clinic.prepare(database, tmp_path)
    yield made
    made.stop()


async def stored(clinic: Clinic) -> list[tuple[int, str]]:
    conn = await asyncpg.connect(clinic.urls.admin)
    rows = await conn.fetch("SELECT seq, encode(bundle_hash, 'hex') AS leaf FROM evidence_bundles ORDER BY seq")
    await conn.close()
    return [(row["seq"], row["leaf"]) for row in rows]


async def test_real_checks_become_receipted_evidence(clinic: Clinic) -> None:
    clinic.serve()
    clinic.enroll()
    done = clinic.command("once")
    assert "backup" in done.stdout
    told = clinic.status()
    assert (told["waiting"], told["enrolled"], told["server"]) == (0, True, "cc.example")
    assert {check["check"] for check in told["checks"]} == {
        "patching", "antivirus", "backup", "logging", "firewall", "encryption",
    }  # fmt: skip
    assert len(await stored(clinic)) == told["size"] >= 7


async def test_a_server_killed_in_mid_upload_finds_every_bundle_exactly_once(clinic: Clinic, tmp_path: Path) -> None:
    clinic.serve()
    clinic.enroll()
    clinic.command("once")
    await fill(Places(tmp_path / "agent"), 6000)
    for _ in range(3):
        before = len(await stored(clinic))
        clinic.agent.start("--config", str(clinic.config), "once")
        await until_more_than(clinic, before)
        clinic.server.end(signal.SIGKILL)
        assert clinic.agent.process is not None
        assert clinic.agent.process.wait(30) == 3
        clinic.serve()
    clinic.command("once")
    store = Store.open(Places(tmp_path / "agent"))
    epoch = store.read(queue.current)
    assert epoch is not None
    size = store.read(queue.size_of, epoch.epoch)
    root = store.read(queue.root_at, epoch.epoch, size)
    store.close()
    found = await stored(clinic)
    assert [seq for seq, _ in found] == list(range(size))
    assert size >= 6000
    assert root_of([leaf for _, leaf in found]) == root


def root_of(leaves: list[str]) -> bytes:
    from ccshared import merkle

    return merkle.root([bytes.fromhex(leaf) for leaf in leaves])


async def until_more_than(clinic: Clinic, count: int) -> None:
    for _ in range(2000):
        if len(await stored(clinic)) > count:
            return
    raise AssertionError("nothing was uploaded")


async def fill(places: Places, count: int) -> None:
    """Seal entries while no agent runs, as weeks without a network would."""
    store = Store.open(places)

    def seal(tx: object, start: int) -> None:
        for number in range(start, start + 100):
            body = {"version": "x" * 1500, "number": number}
            queue.append(tx, Draft(Kind.HEARTBEAT, f"{number:032x}", 1_790_000_000_000, Clock.UNSYNC, "0" * 32, body))  # type: ignore[arg-type]

    for start in range(0, count, 100):
        await store.write(seal, start)
    store.close()


async def test_a_damaged_store_is_salvaged_and_the_server_receipts_what_is_left(clinic: Clinic, tmp_path: Path) -> None:
    clinic.serve()
    clinic.enroll()
    clinic.command("once")
    places = Places(tmp_path / "agent")
    await fill(places, 300)
    data = bytearray(places.database.read_bytes())
    data[data.index(b'"number":200,') + 3] ^= 1
    places.database.write_bytes(data)
    assert "quarantine" in clinic.command("once").stderr
    assert clinic.status()["waiting"] == 0
    assert clinic.command("verify").stdout.count("whole") == 2
    conn = await asyncpg.connect(clinic.urls.admin)
    rows = await conn.fetch("SELECT bundle_id FROM evidence_bundles WHERE bundle_id = ANY($1)", ids_of(range(300)))
    await conn.close()
    assert sorted(row["bundle_id"] for row in rows) == sorted(set(ids_of(range(300))) - set(ids_of([200])))


def ids_of(numbers: Iterable[int]) -> list[str]:
    return [f"{number:032x}" for number in numbers]


async def test_an_appliance_goes_on_while_the_server_is_away(clinic: Clinic) -> None:
    clinic.serve()
    clinic.enroll()
    clinic.server.end()
    done = clinic.command("once", code=3)
    assert "wait" in done.stdout + done.stderr
    assert clinic.status()["waiting"] > 0
    clinic.serve()
    clinic.command("once")
    assert clinic.status()["waiting"] == 0


async def test_sigint_and_sigterm_end_both_with_zero_and_nothing_left(clinic: Clinic, tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        clinic.serve()
        clinic.agent.start("--config", str(clinic.config), "run")
        wait_until((tmp_path / "agent" / "control.sock").exists)
        assert clinic.agent.end(number) == 0
        assert clinic.server.end(number) == 0
        assert not (tmp_path / "agent" / "control.sock").exists()
        assert not clinic.answers()


async def test_each_bad_start_is_one_sentence(clinic: Clinic, tmp_path: Path) -> None:
    sentences = [
        refused(clinic, {"DATABASE_URL": "postgresql://cc_server@127.0.0.1:1/x"}, "serve"),
        refused(clinic, {"DATABASE_URL": clinic.urls.admin}, "serve"),
        refused(clinic, {"CCSERVER_KEY_FILE": str(tmp_path / "no.json")}, "serve"),
        refused(clinic, {"CCSERVER_LISTEN": "300"}, "serve"),
        refused(clinic, {"CCSERVER_SURPRISE": "1"}, "serve"),
        refused(clinic, {"DATABASE_OWNER_URL": ""}, "migrate"),
        refused(clinic, {}, "site", "create", "x", "--partner", "nobody"),
        refused(clinic, {}, "enroll-code", "create", "--site", "nowhere"),
        refused(clinic, {}, "admin", "create", "admin"),
    ]
    clinic.serve()
    sentences.append(refused(clinic, {}, "serve"))
    # Beside its log, in which a line is an object.
    said = [[line for line in sentence.splitlines() if not line.startswith("{")] for sentence in sentences]
    assert [lines for lines in said if len(lines) != 1] == []


def refused(clinic: Clinic, changes: dict[str, str], *arguments: str) -> str:
    kept = clinic.server.env
    clinic.server.env = kept | changes
    done: subprocess.CompletedProcess[str] = clinic.server.run(*arguments, code=None)
    clinic.server.env = kept
    assert done.returncode != 0
    return "\n".join(line for line in done.stderr.splitlines() if " INFO " not in line and " WARNING " not in line)


async def test_a_newer_schema_stops_the_server(clinic: Clinic) -> None:
    conn = await asyncpg.connect(clinic.urls.owner)
    await conn.execute("INSERT INTO schema_migrations VALUES (999, '999_future.sql', 'x')")
    await conn.close()
    assert "newer" in refused(clinic, {}, "serve")
    assert "newer" in refused(clinic, {}, "migrate")


@pytest.mark.parametrize("code", ["x", "cc.example/" + "0" * 64 + "/" + "a" * 32])
async def test_a_wrong_code_is_one_sentence_and_loses_nothing(clinic: Clinic, code: str) -> None:
    clinic.serve()
    clinic.command("once", code=None)
    done = clinic.command("enroll", "--server-url", clinic.url, "--code-file", "-", given=code, code=None)
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1
    clinic.enroll()
    clinic.command("once")
    assert clinic.status()["waiting"] == 0


@pytest.mark.browser
async def test_a_person_signs_in_and_sees_the_real_appliance_its_stale_backup_and_the_evidence(
    clinic: Clinic, browser: Browser
) -> None:
    clinic.serve()
    clinic.enroll()
    clinic.command("once")
    page = await browser.new_page()
    await page.goto(clinic.url)
    await page.get_by_label("Login").fill(clinic.admin["login"])
    await page.get_by_label("Password").fill(clinic.admin["password"])
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("link", name="Clinic", exact=True).click()
    await page.wait_for_url("**/sites/*")
    text = await page.get_by_role("main").inner_text()
    assert clinic.status()["checks"][0]["host"] in text
    assert "the last backup is older than 48 h" in text
    assert "check run of backup" in text
    assert await page.get_by_role("link", name="receipted").count() >= 7
    receipt = await page.get_by_label("The receipt, to copy").first.text_content() or ""
    assert receipt.startswith(f"cc.example/log/{clinic.status()['appliance']}/1-")
    await page.close()
