import asyncio
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from ccagent.client import (
    Client,
    ConfigurationError,
    PermanentError,
    ProtocolError,
    RequestError,
    TransientError,
    check_server_url,
    retry_after_s,
)
from ccshared.messages import IncidentReports, PatternReports
from tests.agent.witness_app import Log, Witness, running

EPOCH = "1-00000001"


@pytest.fixture
def witness() -> Iterator[Witness]:
    with running(Witness()) as server:
        yield server


@pytest.fixture
async def client(witness: Witness) -> AsyncIterator[Client]:
    async with Client(witness.url, witness.known_device(), timeout_s=2) as client:
        yield client


async def failure(client: Client, witness: Witness, trick: str) -> RequestError:
    witness.tricks["head"].extend([trick] * (2 if trick == "401" else 1))
    with pytest.raises(RequestError) as caught:
        await client.head(EPOCH)
    return caught.value


@pytest.mark.parametrize(
    ("trick", "kind", "silence"),
    [
        ("503", TransientError, False),
        ("429", TransientError, False),
        ("502", TransientError, True),
        ("portal", TransientError, True),
        ("redirect", TransientError, True),
        ("hang-up", TransientError, True),
        ("huge", TransientError, True),
        ("html-400", TransientError, True),
        ("401", ConfigurationError, False),
        ("403", ConfigurationError, False),
        ("404", ConfigurationError, False),
        ("html-404", ConfigurationError, True),
        ("409-gap", ProtocolError, False),
        ("409-fork", ProtocolError, False),
        ("413", PermanentError, False),
        ("422", PermanentError, False),
    ],
)
async def test_each_answer_has_its_class_and_says_whether_our_server_spoke(
    client: Client, witness: Witness, trick: str, kind: type[RequestError], silence: bool
) -> None:
    error = await failure(client, witness, trick)
    assert type(error) is kind
    assert error.silence is silence
    assert "\n" not in str(error)


async def test_the_fields_of_a_problem_come_along(client: Client, witness: Witness) -> None:
    gap = await failure(client, witness, "409-gap")
    assert (gap.code, gap.expected_seq) == ("log-gap", 0)
    assert (await failure(client, witness, "422")).seq == 1


async def test_what_the_server_asks_to_wait_is_told(client: Client, witness: Witness) -> None:
    error = await failure(client, witness, "429")
    assert isinstance(error, TransientError)
    assert error.retry_after_s == 7


async def test_an_epoch_the_server_has_not_heard_of_has_size_0(client: Client) -> None:
    assert (await client.head(EPOCH)).size == 0


async def test_a_head_of_another_epoch_is_not_believed(client: Client, witness: Witness) -> None:
    witness.logs[EPOCH] = Log(b"")
    witness.tricks["head"].append("other-epoch")
    with pytest.raises(TransientError, match="instead of"):
        await client.head(EPOCH)


async def test_a_token_serves_many_calls(client: Client, witness: Witness) -> None:
    for _ in range(3):
        await client.head(EPOCH)
    assert witness.calls.count("token") == 1


async def test_a_refused_token_is_renewed_once_and_at_once(client: Client, witness: Witness) -> None:
    await client.head(EPOCH)
    witness.tokens.clear()
    await client.head(EPOCH)
    assert witness.calls.count("token") == 2


async def test_calls_at_the_same_time_share_one_renewal(client: Client, witness: Witness) -> None:
    await client.head(EPOCH)
    witness.tokens.clear()
    await asyncio.gather(*(client.head(EPOCH) for _ in range(4)))
    assert witness.calls.count("token") == 2


async def test_a_new_token_refused_too_is_for_a_person(client: Client, witness: Witness) -> None:
    error = await failure(client, witness, "401")
    assert isinstance(error, ConfigurationError)
    assert witness.calls.count("token") == 2


async def test_a_revoked_appliance_is_told_so_without_another_try(client: Client, witness: Witness) -> None:
    witness.revoked = True
    with pytest.raises(ConfigurationError) as caught:
        await client.head(EPOCH)
    assert caught.value.code == "revoked"
    assert witness.calls.count("token") == 1


async def test_a_nonce_that_aged_on_the_way_is_asked_for_again(client: Client, witness: Witness) -> None:
    witness.tricks["token"].append("nonce-expired")
    assert (await client.head(EPOCH)).size == 0


async def test_a_server_that_hangs_is_given_up_after_the_time_limit(witness: Witness) -> None:
    witness.tricks["head"].append("hang")
    async with Client(witness.url, witness.known_device(), timeout_s=0.3) as client:
        started = time.monotonic()
        with pytest.raises(TransientError) as caught:
            await client.head(EPOCH)
        assert caught.value.timed_out
        assert time.monotonic() - started < 2


async def test_a_portal_is_not_taken_for_an_answer_to_incidents_or_patterns(client: Client, witness: Witness) -> None:
    witness.tricks["incidents"].append("portal")
    witness.tricks["patterns"].append("portal")
    with pytest.raises(TransientError):
        await client.put_incidents(IncidentReports(incidents=[]))
    with pytest.raises(TransientError):
        await client.put_patterns(PatternReports(epoch=1, revision=1, patterns=[]))


async def test_a_closed_port_is_transient() -> None:
    async with Client("http://127.0.0.1:9", Witness().known_device()) as client:
        with pytest.raises(TransientError, match="did not answer"):
            await client.epochs()


@pytest.mark.parametrize("url", ["http://cc.example", "ftp://cc.example", "cc.example", "https://u:p@cc.example", ""])
def test_only_https_or_this_machine_is_a_server_address(url: str) -> None:
    with pytest.raises(ConfigurationError):
        check_server_url(url)


@pytest.mark.parametrize(
    "url", ["https://cc.example/", "http://localhost:8080", "http://127.0.0.1:80", "http://[::1]:80"]
)
def test_a_server_address_loses_only_its_slash(url: str) -> None:
    assert check_server_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "30"}, 30),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": "999999999999"}, 3600),
        (
            {"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"},
            30,
        ),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT"}, 1),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_clamped(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(httpx.Headers(headers)) == seconds


async def test_a_certificate_that_nobody_vouches_for_is_for_a_person(tls_port: int) -> None:
    async with Client(f"https://127.0.0.1:{tls_port}", Witness().known_device()) as client:
        with pytest.raises(ConfigurationError, match="cannot prove who it is") as caught:
            await client.epochs()
        assert caught.value.silence


async def test_ssl_cert_file_names_whom_to_trust(
    tls_port: int, certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    async with Client(f"https://127.0.0.1:{tls_port}", Witness().known_device()) as client:
        with pytest.raises(TransientError):  # the stand-in hangs up after the handshake: the certificate was good
            await client.epochs()


async def test_an_ssl_cert_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match="SSL_CERT_FILE /nowhere"):
        Client("https://cc.example")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return (certificate, key) files of a self-signed certificate for 127.0.0.1."""

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stand-in")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")


@pytest.fixture
async def tls_port(certificate: tuple[str, str]) -> AsyncIterator[int]:
    """Return the port of a TLS server that hangs up after the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]
