"""Who may ask the root helper what: one user, one line, the list; everything else is refused and nothing happens."""

import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ccagent.config import HelperSettings
from ccagent.helper import reads
from ccagent.helper.request import MAX_REQUEST
from tests.agent.root_helper import ROOT, RootHelper, compact, policy_of, receive, standing

NOBODY = 65534
CASES = 3000


@pytest.fixture(scope="module")
def helper() -> Iterator[RootHelper]:
    with standing() as made:
        yield made.start()


def as_user(uid: int, do: Callable[[], str]) -> str:
    """Return what a function returns in a process of another user with none of root's groups."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.write(writing, do().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read().decode()
    os.waitpid(child, 0)
    return said


def asking(helper: RootHelper, **request: Any) -> Callable[[], str]:
    """Return what asks, and gives the answer or the error's name as text."""

    def ask() -> str:
        try:
            return json.dumps(helper.ask(**request))
        except OSError as error:
            return type(error).__name__

    return ask


def readable(*places: Path) -> Callable[[], str]:
    """Return what names the places that it can read."""

    def read(place: Path) -> bool:
        try:
            return bool(list(place.iterdir()) if place.is_dir() else place.read_bytes())
        except OSError:
            return False

    return lambda: " ".join(str(place) for place in places if read(place))


def test_every_read_of_the_list_is_answered(helper: RootHelper) -> None:
    for what in reads.LIST:
        answer = helper.ask(ask="read", what=what)
        assert answer["ok"] or "configured" in answer["reason"] or "cannot be read" in answer["reason"]


@pytest.mark.parametrize("what", ["passwd", "/etc/shadow", "nft ", "", "NFT", "../nft", "nft\n", "__class__"])
def test_what_is_not_on_the_list_is_not_read(helper: RootHelper, what: str) -> None:
    assert helper.ask(ask="read", what=what) == {"ok": False, "reason": "not on the list of what is read"}


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"ask": "run"},
        {"ask": "read"},
        {"ask": "read", "what": ["nft"]},
        {"ask": "read", "what": "nft", "path": "/etc/shadow"},
        {"ask": "outcome", "id": 7},
        {"ask": "outcome", "id": "a/b"},
        {"ask": "keys", "statements": {}},
        {"ask": "keys", "statements": [1]},
        {"ask": "order", "envelope": "", "runbook": {}},
        {"ask": "order", "envelope": {}},
        {
            "ask": "repair",
            "id": "x",
            "policy": {},
            "rule": None,
            "runbook": "y",
            "parameters": {"a": True},
            "host": "h",
        },
        [],
        None,
        "read",
    ],
)
def test_a_request_has_exactly_the_members_of_its_kind(helper: RootHelper, request_: object) -> None:
    assert helper.send(compact(request_) + b"\n")["ok"] is False


@pytest.mark.parametrize(
    "line",
    [
        b'{"ask":"read","what":"nft","what":"nft"}\n',
        b'{"ask":"read","what":"nft"}\n\n',
        b'{"ask":"read","what":"nft"}\n{"ask":"read","what":"nft"}\n',
        b'{"ask":"read","what":NaN}\n',
        b'{"ask":"outcome","id":1.0}\n',
        b'{"ask":"read","what":"\xff"}\n',
        b'\xef\xbb\xbf{"ask":"read","what":"nft"}\n',
        b"[" * 200_000 + b"\n",
        b'{"ask":"outcome","id":' + b"9" * 100_000 + b"}\n",
        b"\n",
    ],
)
def test_a_line_that_could_mean_two_things_is_refused(helper: RootHelper, line: bytes) -> None:
    assert helper.send(line)["ok"] is False


def test_a_line_longer_than_512_kib_is_refused(helper: RootHelper) -> None:
    filled = b'{"ask":"read","what":"nft"}'
    assert helper.send(filled + b" " * (MAX_REQUEST - len(filled)) + b"\n")["ok"] is False
    assert helper.send(filled + b" " * (MAX_REQUEST - len(filled) - 1) + b"\n")["ok"] is True


def test_a_line_that_breaks_off_or_never_ends_is_refused(helper: RootHelper) -> None:
    assert helper.send(b'{"ask":"read","what":"nft"}', close=True)["ok"] is False
    assert helper.send(b"", close=True)["ok"] is False
    assert helper.send(b'{"ask":"re')["ok"] is False  # after its five seconds


def test_thousands_of_broken_requests_leave_it_alive_and_nothing_done(helper: RootHelper) -> None:
    chance = random.Random(20261124)
    watching = policy_of(helper.mark(), mode="observe")  # id and host of a repair are the agent's to say
    good = [helper.order(helper.mark()), helper.repair(helper.mark(), watching), {"ask": "read", "what": "nft"}]
    good += [{"ask": "outcome", "id": "0-1"}, {"ask": "keys", "statements": [{}]}]
    before = state_of(helper)
    for _ in range(CASES):
        data = spoilt(chance, compact(chance.choice(good[:2] if chance.random() < 0.7 else good)))
        answer = helper.send(data, close=chance.random() < 0.5 or not data.endswith(b"\n"))
        assert answer.get("ok") is not True or {"output", "keys"} & answer.keys(), (data, answer)
    assert (helper.lines(), state_of(helper)) == ([], before)
    assert helper.process is not None
    assert helper.process.poll() is None
    assert helper.ask(**good[0])["status"] == "succeeded"
    helper.ran.unlink()


def spoilt(chance: random.Random, data: bytes) -> bytes:
    """Return a request with bytes changed, cut, doubled or put in, so that it is never the same."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del changed[at:]
            case 2:
                changed[at:at] = changed[at : at + chance.randrange(200)]
            case 3:
                changed[at:at] = chance.choice([b'"', b"{", b"}", b"\\", b"\0", b",", b"null", b"1e9", b"\n"])
            case 4:
                del changed[at : at + chance.randrange(1, 20)]
    return bytes(changed) + (b"\n" if bytes(changed) != data else b"")


def state_of(helper: RootHelper) -> dict[str, Any]:
    import sqlite3

    with sqlite3.connect(helper.state_dir / "journal.db") as db:
        runs = db.execute("SELECT kind, id, status FROM runs").fetchall()
    db.close()
    return {"runs": runs, "pinned": (helper.state_dir / "pinned.json").read_bytes()}


def test_another_user_is_not_answered_even_where_the_socket_is_open_to_all(helper: RootHelper) -> None:
    ask = asking(helper, ask="read", what="nft")
    assert as_user(NOBODY, ask) == "PermissionError"
    helper.socket.chmod(0o666)
    refused = json.loads(as_user(NOBODY, ask))
    helper.socket.chmod(0o660)
    assert refused == {"ok": False, "reason": "only the agent's user is answered"}


def test_only_the_agents_user_is_answered_not_even_root() -> None:
    with standing(uid=NOBODY) as helper:
        helper.start()
        assert json.loads(as_user(NOBODY, asking(helper, ask="read", what="nft")))["ok"] is True
        assert helper.ask(ask="read", what="nft")["ok"] is False
        assert stat.S_IMODE(helper.socket.lstat().st_mode) == 0o660


def test_the_agents_user_reads_neither_keys_of_root_nor_a_home() -> None:
    with standing(uid=NOBODY) as helper:
        secret = helper.place / "root-only.key"
        secret.write_text("the-secret-of-root, in one line\n")
        secret.chmod(0o600)
        status = helper.place / "status.json"
        status.symlink_to(secret)  # as somebody could who may write where the backup leaves its status
        checks = f'[checks.backup]\nstatus_file = "{status}"\n[checks.logging]\ncanary_file = "{secret}"\n'
        helper.start(checks + f'[checks.antivirus]\nbinary = "{secret}"\n')
        wanted = [*reads.LIST, str(secret), "../root-only.key", "/root/.ssh/id_ed25519"]
        told = [as_user(NOBODY, asking(helper, ask="read", what=what)) for what in wanted]
        assert all("ok" in answer and "the-secret-of-root" not in answer for answer in told)
        places = [
            secret,
            helper.state_dir / "pinned.json",
            helper.state_dir / "journal.db",
            Path("/root"),
            secret.parent,
        ]
        assert as_user(NOBODY, readable(*places)) == str(secret.parent)


def test_idle_connections_do_not_shut_others_out(helper: RootHelper) -> None:
    idle = [helper.connect() for _ in range(16)]
    began = time.monotonic()
    assert helper.ask(ask="read", what="lsblk")["ok"] is True
    assert time.monotonic() - began < 30
    for line in idle:
        assert receive(line)["ok"] is False
        line.close()


def test_who_leaves_without_listening_leaves_no_process_behind(helper: RootHelper) -> None:
    assert helper.process is not None
    for _ in range(20):
        with helper.connect() as line:
            line.sendall(compact({"ask": "read", "what": "lsblk"}) + b"\n")
    children = Path(f"/proc/{helper.process.pid}/task/{helper.process.pid}/children")
    until = time.monotonic() + 20
    while children.read_text().strip():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_it_loads_no_network_code() -> None:
    look = (
        "import sys, ccagent.commands.helper;"
        "print([m for m in ('httpx', 'httpcore', 'ssl', 'ccagent.client', 'ccagent.store') if m in sys.modules])"
    )
    code = [sys.executable, "-X", "frozen_modules=off", "-c", look]
    said = subprocess.run(code, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert said.strip() in ("[]", "['ssl']")  # asyncio of the standard library loads ssl, and nothing here uses it


def started_badly(helper: RootHelper, config: Path | None = None) -> str:
    """Return the one sentence of a helper that does not start."""
    argv = [sys.executable, "-c", "from ccagent.cli import main; main()"]
    argv += ["--config", str(config or helper.configure()), "helper"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30, cwd=ROOT)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.fixture
def idle() -> Iterator[RootHelper]:
    with standing() as made:
        yield made


def test_a_socket_that_somebody_else_owns_is_refused_and_left(idle: RootHelper) -> None:
    idle.socket.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(idle.socket))
        os.chown(idle.socket, NOBODY, NOBODY)
        assert f"belongs to uid {NOBODY}" in started_badly(idle)
        assert idle.socket.lstat().st_uid == NOBODY


def test_what_is_no_socket_is_left_where_the_socket_belongs(idle: RootHelper) -> None:
    idle.socket.parent.mkdir()
    idle.socket.write_text("somebody's notes")
    assert "is no socket" in started_badly(idle)
    assert idle.socket.read_text() == "somebody's notes"


def test_a_directory_that_others_can_change_is_refused(idle: RootHelper) -> None:
    idle.socket.parent.mkdir()
    os.chown(idle.socket.parent, NOBODY, NOBODY)
    assert f"{idle.socket.parent} belongs to uid {NOBODY}" in started_badly(idle)
    os.chown(idle.socket.parent, 0, 0)
    idle.socket.parent.chmod(0o777)
    assert "can be written by others" in started_badly(idle)


def test_settings_that_others_can_change_are_refused(idle: RootHelper) -> None:
    config = idle.configure()
    config.chmod(0o666)
    assert "can be written by others" in started_badly(idle, config)


def test_a_state_directory_that_others_can_read_is_refused(idle: RootHelper) -> None:
    idle.state_dir.chmod(0o755)
    assert "not a private directory" in started_badly(idle)


def test_an_unknown_user_and_a_second_helper_are_refused(idle: RootHelper) -> None:
    config = idle.configure()
    config.write_text(config.read_text().replace(f'user = "{idle.uid}"', 'user = "no-such-user"'))
    assert "there is no user no-such-user" in started_badly(idle, config)
    idle.start()
    assert "another helper runs" in started_badly(idle)


def test_the_socket_of_a_helper_that_was_killed_is_taken_over(idle: RootHelper) -> None:
    idle.start()
    idle.end(signal.SIGKILL)
    assert idle.socket.exists()
    idle.start()
    assert idle.ask(ask="read", what="lsblk")["ok"] is True


def test_what_is_read_and_every_setting_are_told_in_the_docs() -> None:
    text = (ROOT / "docs" / "helper.md").read_text()
    assert [what for what in reads.LIST if f"`{what}`" not in text] == []
    assert [name for name in HelperSettings.model_fields if f"| `{name}` |" not in text] == []
