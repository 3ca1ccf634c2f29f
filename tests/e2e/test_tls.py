"""TLS between the real programs: a private authority, a proxy on the way, and every certificate that must not do."""

import signal
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ccserver.localpg import Urls
from tests.certificates import Authority, authority
from tests.e2e.processes import Clinic, wait_until

NAME = "cc.example.test"


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return authority(tmp_path)


@pytest.fixture
def clinic(database: Urls, tmp_path: Path, ca: Authority) -> Iterator[Clinic]:
    """A clinic whose server has a certificate for 127.0.0.1 and for a name, by an authority of its own."""
    made = Clinic.prepare(database, tmp_path)
    cert, key = ca.sign(tmp_path, "127.0.0.1", NAME)
    url = made.url.replace("http:", "https:")
    made.server.env |= {"CCSERVER_PUBLIC_URL": url, "CCSERVER_TLS_CERT": str(cert), "CCSERVER_TLS_KEY": str(key)}
    yield replace(made, url=url)
    made.stop()


def serve(clinic: Clinic) -> None:
    clinic.server.start("serve")
    wait_until(lambda: clinic.server.log.exists() and '"serving"' in clinic.server.log.read_text())


def enrol(clinic: Clinic, *more: str, url: str = "", code: int | None = 0) -> str:
    given = clinic.server.json("enroll-code", "create", "--site", "clinic")["code"]
    done = clinic.command(
        "enroll", "--server-url", url or clinic.url, "--code-file", "-", *more, given=given, code=code
    )
    return "".join(line for line in done.stderr.splitlines(keepends=True) if line.startswith("Error"))


def serial_shown(clinic: Clinic, ca: Authority) -> str:
    port = int(clinic.url.rpartition(":")[2])
    trusting = ssl.create_default_context(cafile=str(ca.file))
    with socket.create_connection(("127.0.0.1", port), 5) as plain:
        with trusting.wrap_socket(plain, server_hostname=NAME) as seen:
            return str((seen.getpeercert() or {})["serialNumber"])


async def test_an_appliance_enrols_under_a_private_authority_and_keeps_it(clinic: Clinic, ca: Authority) -> None:
    serve(clinic)
    enrol(clinic, "--ca-file", str(ca.file))
    ca.file.unlink()
    clinic.command("once")
    assert clinic.status()["waiting"] == 0


async def test_the_settings_may_name_another_authority_later(clinic: Clinic, ca: Authority, tmp_path: Path) -> None:
    serve(clinic)
    (tmp_path / "later").mkdir()
    enrol(clinic, "--ca-file", str(ca.file))
    other = authority(tmp_path / "later", "Another CA")
    line = f'ca_file = "{other.file}"\n'
    clinic.config.write_text(clinic.config.read_text().replace("[checks", line + "[checks", 1))
    assert "cannot prove who it is" in clinic.command("once", code=3).stderr
    hang_up(clinic, other.sign(tmp_path, "127.0.0.1"), "new connections are shown")
    clinic.command("once")
    assert clinic.status()["waiting"] == 0


async def test_an_authority_that_did_not_sign_it_is_one_sentence_and_nothing_is_touched(
    clinic: Clinic, tmp_path: Path
) -> None:
    serve(clinic)
    (tmp_path / "other").mkdir()
    for more in ((), ("--ca-file", str(authority(tmp_path / "other", "Another CA").file))):
        said = enrol(clinic, *more, code=1)
        assert said.count("\n") == 1
        assert "cannot prove who it is" in said
    assert not (tmp_path / "agent" / "identity.json").exists()


async def test_a_certificate_for_another_name_is_one_sentence(clinic: Clinic, ca: Authority) -> None:
    serve(clinic)
    url = clinic.url.replace("127.0.0.1", "localhost")
    assert "cannot prove who it is" in enrol(clinic, "--ca-file", str(ca.file), url=url, code=1)


async def test_a_new_certificate_is_taken_on_sighup_and_a_broken_one_is_not(
    clinic: Clinic, ca: Authority, tmp_path: Path
) -> None:
    serve(clinic)
    before = serial_shown(clinic, ca)
    hang_up(clinic, (tmp_path / "tls.key").write_text("no key"), "the one before stays")
    assert serial_shown(clinic, ca) == before
    hang_up(clinic, ca.sign(tmp_path, "127.0.0.1", NAME), "new connections are shown")
    assert serial_shown(clinic, ca) != before


def hang_up(clinic: Clinic, _changed: object, says: str) -> None:
    """Tell the server that the files are others now, and wait until it has said what it makes of them."""
    assert clinic.server.process is not None
    clinic.server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: says in clinic.server.log.read_text())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"CCSERVER_LISTEN": "0.0.0.0:0", "CCSERVER_TLS_CERT": "", "CCSERVER_TLS_KEY": ""}, "plain http to everybody"),
        ({"CCSERVER_PUBLIC_URL": "https://cc.example.org"}, "is not for cc.example.org"),
        ({"CCSERVER_TLS_CERT": "/nowhere/tls.crt"}, "cannot be read"),
        ({"CCSERVER_TLS_KEY": ""}, "go together"),
    ],
)
async def test_a_server_that_could_not_be_trusted_does_not_start(
    clinic: Clinic, changes: dict[str, str], why: str
) -> None:
    clinic.server.env |= changes
    said = clinic.server.run("serve", code=1).stderr.splitlines()
    assert [line for line in said if not line.startswith("{")] == [next(line for line in said if why in line)]


async def test_a_server_whose_certificate_expired_does_not_start(clinic: Clinic, ca: Authority, tmp_path: Path) -> None:
    ca.sign(tmp_path, "127.0.0.1", days=1, ago=2)
    said = [line for line in clinic.server.run("serve", code=1).stderr.splitlines() if not line.startswith("{")]
    assert len(said) == 1
    assert "expired on" in said[0]


async def test_plain_http_is_not_answered_where_tls_is_spoken(clinic: Clinic) -> None:
    serve(clinic)
    with socket.create_connection(("127.0.0.1", int(clinic.url.rpartition(":")[2])), 5) as plain:
        plain.sendall(b"GET /agent/v1/nonce HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"nonce" not in plain.recv(4096)
