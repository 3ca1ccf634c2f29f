"""Addresses that people type in: nothing that is not public is reached, whatever it is written like or resolves to."""

import ipaddress
import time

import httpx
import pytest

from ccserver import outbound
from ccserver.errors import AddressRefusedError, BadBodyError, ReceiverFailedError
from ccserver.limits import Network
from tests.receivers import http_receiver

HERE: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.1/32"),)
ELSEWHERE: tuple[Network, ...] = (ipaddress.ip_network("192.0.2.7/32"),)
INSIDE = [
    "127.0.0.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "169.254.169.254",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.100.100.200",
    "168.63.129.16",
    "0.1.2.3",
    "[::]",
    "255.255.255.255",
    "224.0.0.1",
    "[ff02::1]",
]
ODD = ["2130706433", "0177.0.0.1", "0x7f.1", "127.1", "0x7f000001", "localhost"]


@pytest.mark.parametrize("host", INSIDE)
def test_an_address_that_is_not_public_is_refused_when_it_is_given(host: str) -> None:
    with pytest.raises(AddressRefusedError):
        outbound.checked(f"https://{host}/hook", ())


@pytest.mark.parametrize("host", [*INSIDE, *ODD])
async def test_an_address_that_is_not_public_is_never_connected_to(host: str) -> None:
    async with http_receiver() as receiver:
        for scheme in ("https", "http"):
            with pytest.raises((AddressRefusedError, BadBodyError)):
                await outbound.post(f"{scheme}://{host}:{receiver.port}/hook", b"{}", {}, ELSEWHERE)
        assert receiver.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433"])
async def test_an_address_that_is_allowed_is_reached_however_it_is_written(host: str) -> None:
    allow = (*HERE, ipaddress.ip_network("::1/128"))
    async with http_receiver(204) as receiver:
        answer = await outbound.post(f"http://{host}:{receiver.port}/hook?a=1", b"{}", {"x-own": "1"}, allow)
    (told,) = receiver.told
    assert (answer.status, told.method, told.path, told.headers["x-own"]) == (204, "POST", "/hook?a=1", "1")
    assert told.headers["host"] == f"{host}:{receiver.port}"


async def test_one_private_address_among_those_of_a_name_refuses_it() -> None:
    url = httpx.URL("https://localhost/")
    with pytest.raises(AddressRefusedError):
        await outbound.resolved(url, ELSEWHERE)
    assert await outbound.resolved(url, (*HERE, ipaddress.ip_network("::1/128")))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with http_receiver() as inside, http_receiver(status, extra=f"Location: {inside.url}\r\n") as receiver:
        assert (await outbound.post(receiver.url, b"{}", {}, HERE)).status == status
        assert inside.connections == 0


async def test_a_body_without_end_is_not_read() -> None:
    async with http_receiver(200, endless=True) as receiver:
        began = time.monotonic()
        assert (await outbound.post(receiver.url, b"{}", {}, HERE)).status == 200
        assert time.monotonic() - began < outbound.SECONDS / 2


async def test_who_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "SECONDS", 0.3)
    async with http_receiver(0) as receiver:
        with pytest.raises(ReceiverFailedError, match="did not answer"):
            await outbound.post(receiver.url, b"{}", {}, HERE)
        assert receiver.connections == 1


async def test_who_does_not_listen_is_an_error_without_the_address() -> None:
    async with http_receiver() as receiver:
        url = receiver.url
    with pytest.raises(ReceiverFailedError) as raised:
        await outbound.post(url, b"{}", {}, HERE)
    assert "127.0.0.1" not in str(raised.value)


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_receiver() as proxy, http_receiver() as receiver:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy.port}")
        assert (await outbound.post(receiver.url, b"{}", {}, HERE)).status == 200
        assert proxy.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hook",
        "ftp://example.org/",
        "https://",
        "https://user:pw@example.org/",
        "https://example.org/#part",
        "https://exam ple.org/",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://ex\u00e4mple.org/",
        "https://example.org/" + "a" * 2000,
        "https://[::1/",
        "https://example.org/\n",
        "http://example.org/",
    ],
)
def test_what_is_no_https_address_is_refused(url: str) -> None:
    with pytest.raises((BadBodyError, AddressRefusedError)):
        outbound.checked(url, ())


@pytest.mark.parametrize("host", ["93.184.216.34", "[2606:2800:220:1::1]", "example.org"])
def test_a_public_address_is_taken(host: str) -> None:
    assert outbound.checked(f"https://{host}/hook", ()) == host.strip("[]")
