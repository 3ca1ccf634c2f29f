"""The agent's side of the root helper: checks that need root ask it, and say so where it is not there."""

import asyncio
import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ccagent import helper_client
from ccagent.checks import antivirus, backup, encryption, firewall, logging
from ccagent.config import AntivirusSettings, BackupSettings, EncryptionSettings, FirewallSettings, LoggingSettings
from ccagent.finding import Finding
from ccagent.helper_client import HelperAbsentError, HelperRefusedError
from ccagent.host import Host
from ccshared.vocabulary import Status
from tests.agent.machine import Machine
from tests.agent.root_helper import RootHelper, standing
from tests.agent.test_checks_encryption import STATUS
from tests.agent.test_checks_firewall import FORBIDDEN, GUARDED
from tests.agent.test_helper_asking import NOBODY, as_user

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


@pytest.fixture
def helper() -> Iterator[RootHelper]:
    with standing() as made:
        yield made


def agents_host(helper: RootHelper, machine: Machine) -> Host:
    """The machine as the agent sees it, which is not root and may ask the helper."""
    return replace(machine.host(privileged=False), helper=helper.socket)


def found_by(uid: int, check: Callable[[], Coroutine[Any, Any, Finding]]) -> tuple[str, str]:
    """Return status and reason of what a check of another user finds."""

    def run() -> str:
        found = asyncio.run(check())
        return json.dumps([found.status, found.reason])

    status, reason = json.loads(as_user(uid, run))
    return status, reason


async def test_the_ruleset_is_read_by_the_helper(helper: RootHelper, tmp_path: Path) -> None:
    Machine(helper.place).program("nft", GUARDED)  # what root sees
    mine = Machine(tmp_path)
    mine.program("nft", code=1, complaint=FORBIDDEN)
    mine.program("iptables-save", code=1, complaint=FORBIDDEN)
    alone = await firewall.check(agents_host(helper, mine), FirewallSettings(), NOW)
    assert (alone.status, "run the helper" in alone.reason) == (Status.UNKNOWN, True)
    helper.start()
    found = await firewall.check(agents_host(helper, mine), FirewallSettings(), NOW)
    approved = FirewallSettings(baseline_sha256=found.facts["ruleset_sha256"])
    assert (await firewall.check(agents_host(helper, mine), approved, NOW)).status is Status.PASS


async def test_an_empty_ruleset_that_the_helper_saw_is_a_failure(helper: RootHelper, tmp_path: Path) -> None:
    seen = Machine(helper.place)
    seen.program("nft", '{"nftables": []}')
    seen.program("iptables-save")
    helper.start()
    mine = Machine(tmp_path)
    mine.program("nft", '{"nftables": []}')
    mine.program("iptables-save")
    found = await firewall.check(agents_host(helper, mine), FirewallSettings(), NOW)
    assert found.status is Status.FAIL
    unasked = await firewall.check(mine.host(privileged=False), FirewallSettings(), NOW)
    assert unasked.status is Status.UNKNOWN


async def test_cipher_and_key_are_read_by_the_helper_for_the_volumes_of_its_own_settings(
    helper: RootHelper, tmp_path: Path
) -> None:
    root = Machine(helper.place)
    leaf = {"name": "vault", "path": "/dev/mapper/vault", "type": "crypt", "fstype": "ext4", "mountpoints": ["/data"]}
    disk = {"name": "sda", "path": "/dev/sda", "type": "disk", "fstype": "crypto_LUKS", "children": [leaf]}
    root.program("lsblk", json.dumps({"blockdevices": [disk]}))
    root.program("cryptsetup", STATUS.format(cipher="aes-xts-plain64", bits=512))
    helper.start('[checks.encryption]\nvolumes = ["/data"]\n')
    host = agents_host(helper, Machine(tmp_path))
    found = await encryption.check(host, EncryptionSettings(volumes=(Path("/data"),)), NOW)
    assert (found.status, root.calls("cryptsetup")) == (Status.PASS, ["status -- vault"])
    other = await encryption.check(host, EncryptionSettings(volumes=(Path("/dev/sda"),)), NOW)
    assert (other.status, "run the helper" in other.reason) == (Status.UNKNOWN, True)  # root's settings name no such


def test_a_status_file_of_roots_is_told_by_its_fields_alone() -> None:
    with standing(uid=NOBODY) as helper:
        status = helper.place / "backup.json"
        told = {
            "last_backup": NOW.isoformat(),
            "last_restore_test": NOW.isoformat(),
            "checksum": "abc",
            "key": "secret",
        }
        status.write_text(json.dumps(told))
        status.chmod(0o600)
        settings = BackupSettings(status_file=status)
        host = Host("box", privileged=False, helper=helper.socket)
        assert found_by(NOBODY, lambda: backup.check(host, settings, NOW))[0] == Status.UNKNOWN
        helper.start(f'[checks.backup]\nstatus_file = "{status}"\n')
        assert found_by(NOBODY, lambda: backup.check(host, settings, NOW))[0] == Status.PASS
        assert "secret" not in str(as_user(NOBODY, lambda: str(helper.ask(ask="read", what="backup_status"))))


def test_of_a_log_that_only_root_reads_the_canary_lines_are_told_and_no_other() -> None:
    with standing(uid=NOBODY) as helper:
        log = helper.place / "messages"
        log.write_text(f"{NOW.isoformat()} box patient Mary\n{NOW.isoformat()} box cc-canary\n")
        log.chmod(0o600)
        settings = LoggingSettings(units=(), canary_file=log, volume=helper.place)
        host = Host("box", privileged=False, helper=helper.socket)
        assert "run the helper" in found_by(NOBODY, lambda: logging.check(host, settings, NOW))[1]
        helper.start(f'[checks.logging]\ncanary_file = "{log}"\n')
        assert found_by(NOBODY, lambda: logging.check(host, settings, NOW))[0] == Status.PASS
        assert "Mary" not in as_user(NOBODY, lambda: str(helper.ask(ask="read", what="canary")))


def test_of_a_binary_that_only_root_reads_the_hash_is_told() -> None:
    with standing(uid=NOBODY) as helper:
        binary = helper.place / "engine"
        binary.write_bytes(b"engine")
        binary.chmod(0o700)
        settings = AntivirusSettings(binary=binary, signature_dir="")
        host = Host("box", privileged=False, helper=helper.socket)
        helper.start(f'[checks.antivirus]\nbinary = "{binary}"\n')
        found = as_user(NOBODY, lambda: str(asyncio.run(antivirus.check(host, settings, NOW)).facts["binary_sha256"]))
        assert found == hashlib.sha256(b"engine").hexdigest()


async def test_nobody_listening_and_a_refusal_are_two_errors(helper: RootHelper) -> None:
    with pytest.raises(HelperAbsentError, match="start cc-agent helper"):
        await helper_client.ask(helper.socket, {"ask": "read", "what": "nft"})
    helper.start()
    with pytest.raises(HelperRefusedError, match="not on the list"):
        await helper_client.ask(helper.socket, {"ask": "read", "what": "passwd"})
    with pytest.raises(HelperRefusedError, match="longer than"):
        await helper_client.ask(helper.socket, {"ask": "read", "what": "x" * helper_client.MAX_REQUEST})


@contextmanager
def listening(path: Path, answer: bytes) -> Iterator[None]:
    """Listen as somebody who takes one request and answers these bytes."""
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(path))
        line.listen(1)

        def serve() -> None:
            taken, _ = line.accept()
            with taken:
                taken.recv(65536)
                taken.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(10)


@pytest.mark.parametrize("answer", [b"", b"{", b'{"ok":true}', b"[" * 5000 + b"\n", b"\xff\n"])
async def test_an_answer_that_breaks_off_is_no_answer(helper: RootHelper, answer: bytes) -> None:
    place = helper.place / "fake.sock"
    with listening(place, answer):
        with pytest.raises(HelperAbsentError):
            await helper_client.ask(place, {"ask": "read", "what": "nft"})


def listen_as(uid: int, place: Path, ready: int) -> None:
    os.setresuid(uid, uid, uid)
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(place))
        line.listen(1)
        os.write(ready, b"x")
        taken, _ = line.accept()
        taken.sendall(b'{"ok":true}\n')


@pytest.fixture
def theirs(helper: RootHelper) -> Iterator[Path]:
    """A socket at which another user answers that all is well."""
    place = helper.place / "theirs" / "sock"
    place.parent.mkdir()
    os.chown(place.parent, NOBODY, NOBODY)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            listen_as(NOBODY, place, writing)
        finally:
            os._exit(0)
    os.read(reading, 1)
    yield place
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)


async def test_who_listens_as_another_user_than_root_is_not_believed(theirs: Path) -> None:
    with pytest.raises(HelperAbsentError):
        await helper_client.ask(theirs, {"ask": "read", "what": "nft"})
