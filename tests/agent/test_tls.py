"""Whom the agent believes to be its server, and the way through a proxy."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ccagent.client import Client, ConfigurationError, TransientError, authorities
from tests.certificates import Authority, authority

NAME = "cc.example.test"


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return authority(tmp_path)


@asynccontextmanager
async def standing_in(cert: Path, key: Path) -> AsyncIterator[int]:
    """Give the port of something that has a certificate, and hangs up on whoever believed it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def proxy(port: int, asked: list[bytes]) -> AsyncIterator[str]:
    """Give the address of a proxy that notes what it is asked for, and leads everybody to one port."""

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    async with await asyncio.start_server(lead, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except OSError:
        pass
    finally:
        writer.close()


async def ask(url: str, ca: str | None) -> None:
    async with Client(url, timeout_s=10, ca=ca) as client:
        await client.keys()


async def test_the_authority_that_was_given_vouches(ca: Authority, tmp_path: Path) -> None:
    async with standing_in(*ca.sign(tmp_path, "127.0.0.1")) as port:
        with pytest.raises(TransientError):  # it hangs up after the handshake: the certificate was good
            await ask(f"https://127.0.0.1:{port}", authorities(ca.file))


async def test_nobody_else_vouches_once_an_authority_was_given(
    ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.file))
    (tmp_path / "other").mkdir()
    async with standing_in(*ca.sign(tmp_path, "127.0.0.1")) as port:
        with pytest.raises(ConfigurationError, match="cannot prove who it is"):
            await ask(f"https://127.0.0.1:{port}", authorities(authority(tmp_path / "other", "Another CA").file))


BAD = {
    "expired": ("127.0.0.1", 1, 2),
    "not yet valid": ("127.0.0.1", 9, -2),
    "mismatch": (NAME, 9, 1),
}


@pytest.mark.parametrize("why", BAD)
async def test_a_certificate_that_does_not_do_is_one_sentence(ca: Authority, tmp_path: Path, why: str) -> None:
    name, days, ago = BAD[why]
    async with standing_in(*ca.sign(tmp_path, name, days=days, ago=ago)) as port:
        with pytest.raises(ConfigurationError, match=f"cannot prove who it is .*{why}") as caught:
            await ask(f"https://127.0.0.1:{port}", authorities(ca.file))
    assert "\n" not in str(caught.value)


async def test_https_proxy_is_the_way_to_a_server_elsewhere(
    ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    async with standing_in(*ca.sign(tmp_path, NAME)) as port, proxy(port, asked) as address:
        monkeypatch.setenv("HTTPS_PROXY", address)
        with pytest.raises(TransientError):
            await ask(f"https://{NAME}", authorities(ca.file))
    assert asked == [b"CONNECT cc.example.test:443 HTTP/1.1"]


async def test_a_proxy_that_cannot_prove_the_server_is_not_believed(
    ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with standing_in(*ca.sign(tmp_path, "proxy.example")) as port, proxy(port, []) as address:
        monkeypatch.setenv("HTTPS_PROXY", address)
        with pytest.raises(ConfigurationError, match="cannot prove who it is"):
            await ask(f"https://{NAME}", authorities(ca.file))


@pytest.mark.parametrize(
    "text", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_without_an_authority_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "ca.pem").write_text(text)
    with pytest.raises(ConfigurationError, match=r"ca\.pem holds no certificate"):
        authorities(tmp_path / "ca.pem")


def test_of_a_file_only_the_certificates_are_kept(ca: Authority, tmp_path: Path) -> None:
    _, key = ca.sign(tmp_path, NAME)
    both = tmp_path / "both.pem"
    both.write_text("Zürich\n" + key.read_text() + ca.file.read_text(), encoding="utf-8")
    assert authorities(both).strip() == ca.file.read_text().strip()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.pem cannot be read"):
        authorities(tmp_path / "nowhere.pem")
