"""HTTP from this server to addresses that people typed in: to nothing that is not public, unless that is allowed.

The name is resolved here, every address that it has is looked at, and the connection goes to an address that was looked
at: a name that resolves to another the next time leads nowhere else. Redirects, proxies and cookies are not followed,
nothing of an answer but its status is read, and all of it has to be done within some seconds.
"""

import asyncio
import functools
import ipaddress
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from ccserver.errors import AddressRefusedError, BadBodyError, ReceiverFailedError
from ccserver.limits import Network

SECONDS = 10.0
_CONNECT_SECONDS = 5.0
_MAX_URL = 2000
_TRIED = 3  # addresses of a name
# Public by its number, and the metadata and agent address inside of Azure.
_METADATA = frozenset({ipaddress.ip_address("168.63.129.16")})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Answer:
    """A receiver's status, how long it took, and when it wants the next try, in seconds, where it says."""

    status: int
    took_ms: int
    retry_after_s: int | None


def checked(url: str, allow: Sequence[Network]) -> str:
    """Return the host of an address that may be told; BadBodyError or AddressRefusedError for one that never can be.

    What its name resolves to is looked at when it is told.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL) as error:
        raise BadBodyError("url: this is no address.") from error
    if len(url) > _MAX_URL or not url.isascii() or not url.isprintable() or " " in url or not host or port == 0:
        raise BadBodyError("url: an https address of at most 2000 ASCII characters is needed.")
    if parts.scheme not in ("https", "http") or (parts.scheme == "http" and not allow):
        raise AddressRefusedError("Only https addresses are told.")
    if "@" in parts.netloc or parts.fragment:
        raise BadBodyError("url: an address with a name and password, or a fragment, is not taken.")
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return host
    _refuse_unless_public(literal, parts.scheme, allow)
    return host


def is_public(address: _Address) -> bool:
    """Return whether an address leads to the internet, and the IPv4 address that may be in it too."""
    inner = _embedded(address)
    if inner is not None and not is_public(inner):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved and address not in _METADATA


def _embedded(address: _Address) -> _Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(address.packed[12:])
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


def _refuse_unless_public(address: _Address, scheme: str, allow: Sequence[Network]) -> None:
    plain = getattr(address, "ipv4_mapped", None) or address
    if any(each in network for network in allow for each in {address, plain} if each.version == network.version):
        return
    if scheme != "https":
        raise AddressRefusedError("Only https addresses are told.")
    if not is_public(address) or getattr(address, "scope_id", None):
        raise AddressRefusedError


async def resolved(url: httpx.URL, allow: Sequence[Network]) -> list[str]:
    """Return the addresses that a URL's name has, all of them fit to be told; AddressRefusedError when one is not."""
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ReceiverFailedError("The name of the receiver does not resolve.") from error
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    for address in addresses:
        _refuse_unless_public(ipaddress.ip_address(address), url.scheme, allow)
    return addresses[:_TRIED]


async def post(url: str, body: bytes, headers: Mapping[str, str], allow: Sequence[Network]) -> Answer:
    """Send a JSON body and return how it was answered, whatever the status; ReceiverFailedError without an answer."""
    checked(url, allow)
    asked = httpx.URL(url)
    began = time.monotonic()
    try:
        async with asyncio.timeout(SECONDS):
            return await _first_reached(asked, await resolved(asked, allow), body, headers, began)
    except TimeoutError as error:
        raise ReceiverFailedError(f"The receiver did not answer within {SECONDS:.0f} s.") from error
    except httpx.HTTPError as error:
        raise ReceiverFailedError(f"The receiver cannot be reached ({type(error).__name__}).") from error


async def _first_reached(
    url: httpx.URL, addresses: Sequence[str], body: bytes, headers: Mapping[str, str], began: float
) -> Answer:
    failed: Exception | None = None
    for address in addresses:
        try:
            return await _to(url, address, body, headers, began)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failed = error
    raise failed or ReceiverFailedError("The name of the receiver has no address.")


async def _to(url: httpx.URL, address: str, body: bytes, headers: Mapping[str, str], began: float) -> Answer:
    """Send to this very address; name and certificate are still those of the URL."""
    named = {"Host": url.netloc.decode("ascii"), "Content-Type": "application/json", "User-Agent": "central-command"}
    request = httpx.Request("POST", url.copy_with(host=address), content=body, headers=named | dict(headers))
    request.extensions["sni_hostname"] = url.host
    status, answered = await _exchange(request)
    return Answer(status, int((time.monotonic() - began) * 1000), _retry_after(answered.get("retry-after", "")))


async def _exchange(request: httpx.Request) -> tuple[int, httpx.Headers]:
    """Return the status and headers of an answer, whose body is not read: it may have no end.

    By the bare transport: a client would write the address, which may hold a secret, into the log.
    """
    request.extensions["timeout"] = httpx.Timeout(SECONDS, connect=_CONNECT_SECONDS).as_dict()
    async with httpx.AsyncHTTPTransport(verify=_trusted(), trust_env=False) as transport:
        answer = await transport.handle_async_request(request)
        await answer.aclose()
        return answer.status_code, answer.headers


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Return whom certificates are believed from; reading them takes longer than a call."""
    return httpx.create_ssl_context(trust_env=False)


async def ask(url: str) -> int:
    """GET an address that the server's own configuration names; return the status. ReceiverFailedError without one."""
    try:
        async with asyncio.timeout(SECONDS):
            return (await _exchange(httpx.Request("GET", url, headers={"User-Agent": "central-command"})))[0]
    except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise ReceiverFailedError(f"It does not answer ({type(error).__name__}).") from error


def _retry_after(text: str) -> int | None:
    """Return the seconds that a header names; dates are not worth their trouble here."""
    return min(max(int(text), 1), 3600) if text.isascii() and text.isdigit() and len(text) < 10 else None
