"""The server's certificate: looked at before it is used; a bad new one leaves the one before in its place."""

import logging
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ccserver import config, limits
from ccserver.certificates import Pair, Shown
from ccserver.errors import BadConfigError, CertificateError
from tests.certificates import Authority, authority

HOST = "cc.example.test"


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return authority(tmp_path)


@pytest.fixture
def pair(tmp_path: Path, ca: Authority) -> Pair:
    return Pair(*ca.sign(tmp_path, HOST), HOST)


def serial_shown(shown: Shown, ca: Authority) -> str:
    """Shake hands as a client that trusts the authority alone; return the serial number that it saw."""
    trusting = ssl.create_default_context(cafile=str(ca.file))
    near, far = socket.socketpair()
    with near, far:
        far.settimeout(10)
        near.settimeout(10)
        serving = threading.Thread(target=lambda: shown.context.wrap_socket(far, server_side=True).close())
        serving.start()
        with trusting.wrap_socket(near, server_hostname=HOST) as client:
            seen = client.getpeercert() or {}
        serving.join(10)
    return str(seen["serialNumber"])


def test_a_new_certificate_is_shown_to_new_connections(pair: Pair, ca: Authority) -> None:
    shown = Shown(pair)
    before = serial_shown(shown, ca)
    ca.sign(pair.cert.parent, HOST)
    assert shown.has_changed()
    assert serial_shown(shown, ca) == before
    assert shown.reload()
    assert serial_shown(shown, ca) != before
    assert not shown.has_changed()


@pytest.mark.parametrize("spoil", ["expired", "early", "elsewhere", "no PEM", "gone", "another's key", "locked"])
def test_a_broken_new_certificate_keeps_the_one_before_and_says_so(
    pair: Pair, ca: Authority, caplog: pytest.LogCaptureFixture, spoil: str
) -> None:
    shown = Shown(pair)
    before = serial_shown(shown, ca)
    spoiled(pair, ca, spoil)
    with caplog.at_level(logging.ERROR, "ccserver.tls"):
        assert not shown.reload()
    assert "the one before stays" in caplog.text
    assert serial_shown(shown, ca) == before
    with pytest.raises(CertificateError) as caught:
        Shown(pair)
    assert str(caught.value).count("\n") == 0
    assert str(pair.cert.parent) in str(caught.value)


def spoiled(pair: Pair, ca: Authority, how: str) -> None:
    folder, kept = pair.cert.parent, pair.cert.read_bytes()
    locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"
    ways: dict[str, Callable[[], object]] = {
        "expired": lambda: ca.sign(folder, HOST, days=1, ago=2),
        "early": lambda: ca.sign(folder, HOST, ago=-2),
        "elsewhere": lambda: ca.sign(folder, "cc.example.org", "10.0.0.1"),
        "no PEM": lambda: pair.cert.write_text("half a certif"),
        "gone": pair.cert.unlink,
        "another's key": lambda: (ca.sign(folder, HOST), pair.cert.write_bytes(kept)),
        "locked": lambda: pair.key.write_text(locked),
    }
    ways[how]()


@pytest.mark.parametrize(
    ("names", "host", "fits"),
    [
        (("cc.example.test",), "CC.example.test", True),
        (("*.example.test",), "cc.example.test", True),
        (("*.example.test",), "a.cc.example.test", False),
        (("*.example.test",), "example.test", False),
        (("10.0.0.1",), "10.0.0.1", True),
        (("10.0.0.1",), "10.0.0.2", False),
        (("::1", "cc.example.test"), "::1", True),
    ],
)
def test_a_certificate_is_for_the_names_in_it(
    tmp_path: Path, ca: Authority, names: tuple[str, ...], host: str, fits: bool
) -> None:
    pair = Pair(*ca.sign(tmp_path, *names), host)
    if fits:
        Shown(pair)
    else:
        with pytest.raises(CertificateError, match=f"is not for {host}"):
            Shown(pair)


@pytest.mark.parametrize("listen", ["0.0.0.0:8440", "[::]:8440", "192.0.2.1:8440", "cc.example.test:8440"])
def test_plain_http_is_for_the_loopback_alone(listen: str) -> None:
    with pytest.raises(BadConfigError, match="plain http to everybody"):
        config.from_environ({"CCSERVER_LISTEN": listen}).check_transport()


@pytest.mark.parametrize(
    "more",
    [
        {"CCSERVER_LISTEN": "127.0.0.1:8440"},
        {"CCSERVER_LISTEN": "[::1]:8440"},
        {"CCSERVER_LISTEN": "0.0.0.0:8440", "CCSERVER_TRUSTED_PROXIES": "10.0.0.5"},
        {"CCSERVER_LISTEN": "0.0.0.0:8440", "CCSERVER_TLS_CERT": "/tls.crt", "CCSERVER_TLS_KEY": "/tls.key"},
    ],
)
def test_a_certificate_or_a_listed_proxy_opens_other_addresses(more: dict[str, str]) -> None:
    config.from_environ(more).check_transport()


def test_certificate_and_key_go_together() -> None:
    with pytest.raises(BadConfigError, match="go together"):
        config.from_environ({"CCSERVER_TLS_CERT": "/tls.crt"})


def test_with_a_certificate_people_are_sent_to_https() -> None:
    made = config.from_environ({"CCSERVER_TLS_CERT": "/tls.crt", "CCSERVER_TLS_KEY": "/tls.key"})
    assert made.public_url == "https://127.0.0.1:8440"
    assert made.secure


@pytest.mark.parametrize(
    ("peer", "may"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.5", True), ("10.0.0.6", False)],
)
def test_only_this_host_and_listed_proxies_speak_plainly(peer: str, may: bool) -> None:
    listed = config.from_environ({"CCSERVER_TRUSTED_PROXIES": "10.0.0.5"}).trusted_proxies
    assert limits.may_speak_plainly(peer, listed) is may
