"""The only HTTP of the agent: one connection to one server, a token kept fresh, errors named once, here.

Every request is safe to repeat. Nothing is followed, nothing is read without a limit, plain http is for this machine
only.
"""

import asyncio
import email.utils
import gzip
import ipaddress
import os
import re
import ssl
import time
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import urlsplit

import httpx
import orjson
from pydantic import ValidationError

from ccshared import ed25519, purposes
from ccshared.messages import (
    Checkin,
    CheckinAnswer,
    EnrollRequest,
    EntryKept,
    Epochs,
    Head,
    IncidentReports,
    IncidentsKept,
    Message,
    Nonce,
    OrderKept,
    OrderResult,
    OrdersWaiting,
    OrderTaking,
    PatternReports,
    PlanAnswer,
    PlanRequest,
    Problem,
    ServerKeysAnswer,
    Token,
    TokenRequest,
)

API = "/agent/v1"
PROBLEM = "urn:central-command:problem:"
MAX_ANSWER = 4 * 1024 * 1024
MAX_ENDPOINT_ANSWER = 1024 * 1024
TOKEN_MARGIN_S = 30.0
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----[0-9A-Za-z+/=\s]+-----END CERTIFICATE-----")

M = TypeVar("M", bound=Message)


class Cause(StrEnum):
    """Why the server did not do what was asked, as far as it matters for what to do next."""

    TRANSIENT = "transient"
    CONFIGURATION = "configuration"
    PROTOCOL = "protocol"
    PERMANENT = "permanent"


class RequestError(Exception):
    """The server did not do what was asked; the message is one sentence for a person.

    `code` is the problem's type without its prefix, None when no problem document of ours came: then whoever answered
    was not our server (`silence`), and hearing from it again is news.
    """

    cause = Cause.TRANSIENT

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.code = problem.type.removeprefix(PROBLEM) if problem else None
        self.seq = problem.seq if problem else None
        self.expected_seq = problem.expected_seq if problem else None
        self.silence = problem is None
        self.status: int | None = None
        self.timed_out = False


class TransientError(RequestError):
    """Trying again later may help; `retry_after_s` is what the server asked for, between 1 s and an hour."""

    retry_after_s: float | None = None


class ConfigurationError(RequestError):
    """A person has to put something right: address, certificate, or this appliance's registration."""

    cause = Cause.CONFIGURATION


class ProtocolError(RequestError):
    """The server's log and ours are not where the other believes them to be."""

    cause = Cause.PROTOCOL


class PermanentError(RequestError):
    """The server refuses what was sent, and will again; `seq` names the entry at fault where it is known."""

    cause = Cause.PERMANENT


@dataclass(frozen=True)
class Device:
    """Who asks: the server's name, the appliance's id, the seed of its key.

    `next_seed` is that of the key that follows: the server may know it by now. `earlier_seeds` are those of the keys
    before, newest first: a server that was put back from a backup may know only one of these.
    """

    server: str
    appliance_id: str
    seed: bytes = field(repr=False)
    next_seed: bytes | None = field(default=None, repr=False)
    earlier_seeds: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def seeds(self) -> list[bytes]:
        """All of them, in the order in which they are tried."""
        return [self.seed, *([self.next_seed] if self.next_seed else []), *self.earlier_seeds]


@dataclass(frozen=True)
class Request:
    """What is asked; the path is below /agent/v1, `patience` is how many time-outs the whole exchange may take."""

    method: str
    path: str
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    patience: int = 1


@dataclass(frozen=True)
class Answer:
    """What came back, whatever its status."""

    status: int
    headers: httpx.Headers
    body: bytes


class Wire(Protocol):
    """What carries requests to the server. OSError (TimeoutError is one) and httpx's errors say that it did not."""

    async def exchange(self, request: Request) -> Answer:
        """Return what the server answers."""
        ...


class HttpWire:
    """HTTP to one server over at most so many connections, which are kept for whoever asks next."""

    def __init__(self, server_url: str, *, timeout_s: float = 30, connections: int = 4, ca: str | None = None) -> None:
        self.url = check_server_url(server_url)
        self._http = httpx.AsyncClient(
            base_url=self.url + API,
            verify=trust(ca),
            trust_env=not _is_local(self.url),  # a proxy is for servers elsewhere
            follow_redirects=False,
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 15)),
            limits=httpx.Limits(max_connections=connections, keepalive_expiry=120),
            headers={"Accept-Encoding": "identity", "User-Agent": "cc-agent"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def exchange(self, request: Request) -> Answer:
        """Return what the server answers; httpx's errors when it does not, or at too great a length."""
        async with self._http.stream(
            request.method, request.path, content=request.content, headers=request.headers
        ) as response:
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise httpx.DecodingError(f"an answer longer than {MAX_ANSWER} bytes")
            return Answer(response.status_code, response.headers, bytes(body))


class Client:
    """One server as seen by one appliance, or, without a device, by one that wants to enrol.

    `ca` holds the only authorities (PEM) that its certificate may come from, None for those of this system.
    `timeout_s` bounds a whole request. RequestError's kinds are all that its calls raise. A `wire` that is given may
    be shared with other appliances and is not closed here.
    """

    def __init__(
        self,
        server_url: str,
        device: Device | None = None,
        *,
        timeout_s: float = 30,
        ca: str | None = None,
        wire: Wire | None = None,
    ) -> None:
        self._device = device
        self._timeout_s = timeout_s
        self._token: str | None = None
        self._token_good_until = 0.0
        self._renewing = asyncio.Lock()
        self._url = check_server_url(server_url)
        self._is_own = wire is None
        self._wire: Wire = wire or HttpWire(server_url, timeout_s=timeout_s, ca=ca)

    @property
    def url(self) -> str:
        """The server's address."""
        return self._url

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        if isinstance(self._wire, HttpWire) and self._is_own:
            await self._wire.__aexit__()

    async def enroll(self, request: EnrollRequest) -> Any:
        """Return the envelope (JSON) that answers a code."""
        return _json(await self._send(_with_body("POST", "/enroll", request)))

    async def checkin(self, checkin: Checkin) -> CheckinAnswer:
        """Say how this appliance is; return the server's time and what waits."""
        answer = await self._authorized(_with_body("POST", "/checkin", checkin))
        return _message(CheckinAnswer, answer)

    async def epochs(self) -> Epochs:
        """Return every epoch the server knows of this appliance, oldest first."""
        return _message(Epochs, await self._authorized(Request("GET", "/log")))

    async def head(self, epoch: str) -> Head:
        """Return what the server holds of an epoch: nothing, size 0, when it has not heard of it."""
        try:
            return _head(epoch, await self._authorized(Request("GET", f"/log/{epoch}")))
        except ConfigurationError as error:
            if error.code != "log-unknown":
                raise
        return Head(epoch=epoch, size=0, receipt=None)

    async def append(self, epoch: str, body: bytes) -> Head:
        """Send a gzipped batch; return what the server then holds. No receipt in it means: taken, not acknowledged."""
        headers = {"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"}
        request = Request("POST", f"/log/{epoch}/entries", body, headers, patience=4)
        return _head(epoch, await self._authorized(request))

    async def put_entry(self, epoch: str, seq: int, payload: bytes) -> EntryKept:
        """Send a payload for a place where the server has only its leaf; return the place and leaf that it now has."""
        headers = {"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"}
        packed = await asyncio.to_thread(gzip.compress, payload, 6, mtime=0)
        request = Request("PUT", f"/log/{epoch}/entries/{seq}", packed, headers, patience=2)
        return _message(EntryKept, await self._authorized(request))

    async def keys(self) -> ServerKeysAnswer:
        """Return the server's keys and the statements by which each followed; nothing of it is proved yet."""
        return _message(ServerKeysAnswer, await self._send(Request("GET", "/keys")))

    async def put_incidents(self, reports: IncidentReports) -> IncidentsKept:
        """Mirror incidents; return the revision that the server now holds of each."""
        answer = await self._authorized(_with_body("PUT", "/incidents", reports))
        return _message(IncidentsKept, answer)

    async def put_patterns(self, reports: PatternReports) -> None:
        """Mirror this appliance's totals."""
        answer = await self._authorized(_with_body("PUT", "/patterns", reports))
        if answer.status != 204:
            _json(answer)

    async def policy(self) -> Any:
        """Return the policy (DSSE JSON) that the server has for this appliance; nothing of it is proved yet."""
        return _json(await self._authorized(Request("GET", "/policy")))

    async def orders(self) -> OrdersWaiting:
        """Return the orders that wait; nothing of them is proved yet."""
        return _message(OrdersWaiting, await self._authorized(Request("GET", "/orders")))

    async def acknowledge_order(self, order_id: str, taker: str) -> OrderKept:
        """Say that an order arrived and who takes it; return how it stands: only an acknowledged one is to be run.

        ProtocolError (order-taken) when it was taken by another name before.
        """
        said = OrderTaking(taker=taker)
        return _message(OrderKept, await self._authorized(_with_body("POST", f"/orders/{order_id}/ack", said)))

    async def put_order_result(self, order_id: str, result: OrderResult) -> None:
        """Say how an order stands; the same again is no harm."""
        await self._authorized(_with_body("POST", f"/orders/{order_id}/result", result))

    async def plan(self, request: PlanRequest) -> PlanAnswer:
        """Ask which runbook worked for incidents like this one."""
        return _message(PlanAnswer, await self._authorized(_with_body("POST", "/plan", request)))

    async def _authorized(self, request: Request) -> Answer:
        """Send with a token; when it is refused, get one new token at once and send again."""
        token = await self._fresh_token()
        try:
            return await self._send(_bearing(request, token))
        except ConfigurationError as error:
            if error.status != 401:
                raise
        return await self._send(_bearing(request, await self._fresh_token(refused=token)))

    async def _fresh_token(self, refused: str | None = None) -> str:
        async with self._renewing:  # one renewal serves all who wait for it
            if self._token in (None, refused) or time.monotonic() > self._token_good_until:
                await self._renew()
            return self._token or ""

    async def _renew(self) -> None:
        self._token = None
        token = await self._ask_token() or await self._ask_token()
        if token is None:
            raise TransientError("the server's nonce expired twice before its answer came: the line is slow")
        if not token.token.isascii():
            raise TransientError("what answered is not our server: its token is not ASCII")
        self._token = token.token
        self._token_good_until = time.monotonic() + max(0.0, token.expires_in_s - TOKEN_MARGIN_S)

    async def _ask_token(self) -> Token | None:
        """Return a token; None when the nonce was too old by the time it came back."""
        if self._device is None:
            raise ConfigurationError("this appliance is not enrolled: run cc-agent enroll")
        *others, last = self._device.seeds
        for seed in others:
            try:
                return await self._ask_token_by(seed)
            except ConfigurationError as error:
                if error.code != "signature-invalid":  # known by another key; one that was revoked is by none
                    raise
        return await self._ask_token_by(last)

    async def _ask_token_by(self, seed: bytes) -> Token | None:
        device = self._device
        assert device is not None  # noqa: S101  asked for by _ask_token only
        nonce = _message(Nonce, await self._send(Request("GET", "/nonce"))).nonce
        try:
            signed = purposes.token(device.server, device.appliance_id, nonce)
        except ValueError as error:
            raise TransientError("what answered is not our server: its nonce is not one line") from error
        request = TokenRequest(
            appliance_id=device.appliance_id,
            nonce=nonce,
            signature=ed25519.sign(seed, signed).hex(),
        )
        try:
            answer = await self._send(_with_body("POST", "/token", request))
        except ConfigurationError as error:
            if error.code != "nonce-expired":
                raise
            return None
        return _message(Token, answer)

    async def _send(self, request: Request) -> Answer:
        try:
            async with asyncio.timeout(self._timeout_s * request.patience):
                answer = await self._wire.exchange(request)
        except (TimeoutError, httpx.TimeoutException) as error:
            silent = TransientError(f"{self._url} did not answer in time")
            silent.timed_out = True
            raise silent from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _unanswered(self._url, error) from error
        if not 200 <= answer.status < 300:
            raise _refused(self._url, answer)
        return answer


async def ask_endpoint(url: str, key: str | None, body: dict[str, Any], timeout_s: float) -> Any:
    """Return the JSON that an endpoint of somebody else's answers to `body`; TransientError when it does not.

    Nothing is followed, and at most 1 MiB is read.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    check_server_url(url.partition("?")[0])
    try:
        async with (
            asyncio.timeout(timeout_s),
            httpx.AsyncClient(verify=trust(), timeout=timeout_s, trust_env=not _is_local(url)) as http,
            http.stream("POST", url, json=body, headers=headers) as response,
        ):
            said = bytearray()
            async for chunk in response.aiter_bytes():
                said += chunk
                if len(said) > MAX_ENDPOINT_ANSWER:
                    raise TransientError(f"{url} answered at too great a length")
            if response.status_code != 200:
                raise TransientError(f"{url} answered {response.status_code}")
            return orjson.loads(said)
    except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, OSError, orjson.JSONDecodeError) as error:
        raise TransientError(f"{url} did not answer as it should ({_one_line(error)})") from error


def check_server_url(url: str) -> str:
    """Return the server's address without a slash at its end; ConfigurationError unless https, or on this machine."""
    parts = urlsplit(url.strip())
    try:
        sound = parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound or parts.username or parts.query or parts.fragment:
        raise ConfigurationError(f"{url!r} is not a server's address: give one like https://cc.example.org")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_local(url)):
        raise ConfigurationError(f"{url!r} would send everything readable on the way: give an https address")
    return url.strip().rstrip("/")


def trust(ca: str | None = None) -> ssl.SSLContext:
    """Return what server certificates are checked against: `ca` (PEM) alone if given, else the system's authorities.

    SSL_CERT_FILE and SSL_CERT_DIR name others than the system's. ConfigurationError when there is nothing to read.
    """
    if ca is not None:
        return _trust_only(ca)
    cafile, capath = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    try:
        if cafile or capath:
            return ssl.create_default_context(cafile=cafile or None, capath=capath or None)
    except OSError as error:
        raise ConfigurationError(
            f"SSL_CERT_FILE {cafile} holds no certificates that can be read: correct or unset it"
        ) from error
    paths = ssl.get_default_verify_paths()
    if paths.cafile or paths.capath:
        return ssl.create_default_context()
    return httpx.create_ssl_context()  # no store on this system: the one that comes with httpx


def authorities(path: Path) -> str:
    """Return the certificates in a file, and nothing else of it; ConfigurationError when there is none."""
    try:
        text = path.read_bytes().decode("latin-1")  # people write names beside them in any letters
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror}): give uid {os.geteuid()} the right to, or name another file"
        ) from error
    found = "\n".join(_PEM.findall(text))
    try:
        _trust_only(found)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{path} holds no certificate in PEM: name the file of the server's authority"
        ) from error
    return found


def _trust_only(ca: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=ca)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError("what is to vouch for the server is no certificate in PEM") from error
    return context


def retry_after_s(headers: httpx.Headers) -> float | None:
    """Return how long the server wants to be left alone, between 1 s and an hour; both forms of RFC 9110, 10.2.3.

    A date counts from the answer's own Date, so that a wrong clock here does not matter.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(max(float(text[:9]), 1.0), 3600.0)
    try:
        until = email.utils.parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
    try:
        now = email.utils.parsedate_to_datetime(headers.get("Date", "")).timestamp()
    except ValueError:
        now = time.time()
    return min(max(until - now, 1.0), 3600.0)


def _with_body(method: str, path: str, message: Message) -> Request:
    return Request(method, path, message.model_dump_json().encode())


def _bearing(request: Request, token: str) -> Request:
    return replace(request, headers={**request.headers, "Authorization": f"Bearer {token}"})


def _is_local(url: str) -> bool:
    host = urlsplit(url.strip()).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _unanswered(url: str, error: Exception) -> RequestError:
    """Name what httpx raised: a certificate is for a person to put right, the rest may pass."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ssl.SSLError) and not isinstance(link, ssl.SSLEOFError):
            why = getattr(link, "verify_message", "") or link.reason or "no TLS"
            return ConfigurationError(f"{url} cannot prove who it is ({why}): check address, clock and certificates")
        link = link.__cause__ or link.__context__
    return TransientError(f"{url} did not answer ({_one_line(error)})")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _refused(url: str, answer: Answer) -> RequestError:
    """Name an answer that is no success. What only our server may say counts only in a problem document of ours."""
    problem = _problem(answer.body)
    error = _kind(answer.status, ours=problem is not None)(_sentence(url, answer, problem), problem)
    error.status = answer.status
    if isinstance(error, TransientError):
        error.retry_after_s = retry_after_s(answer.headers)
    return error


def _kind(status: int, *, ours: bool) -> type[RequestError]:
    if status in (408, 425, 429) or not 400 <= status < 500:
        return TransientError
    if status == 413:
        return PermanentError
    if status in (400, 409, 415, 422):
        # From a proxy or portal on the way it says nothing about what was sent.
        return (ProtocolError if status == 409 else PermanentError) if ours else TransientError
    return ConfigurationError


def _sentence(url: str, answer: Answer, problem: Problem | None) -> str:
    if problem is not None:
        return f"{url} answered {answer.status}: {problem.detail or problem.title}"
    if 300 <= answer.status < 400:
        return f"{url} sent us elsewhere ({answer.status}): a captive portal, or another address than the server's"
    return f"{url} answered {answer.status}, and not as our server does"


def _problem(body: bytes) -> Problem | None:
    try:
        problem = Problem.model_validate_json(body)
    except ValidationError:
        return None
    return problem if problem.type.startswith(PROBLEM) else None


def _json(answer: Answer) -> Any:
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError as error:
        raise TransientError("what answered is not our server (a captive portal?): no JSON") from error


def _message(kind: type[M], answer: Answer) -> M:
    try:
        return kind.model_validate_json(answer.body)
    except ValidationError as error:
        raise TransientError(
            f"what answered is not our server (a captive portal?): no {kind.__name__} in it"
        ) from error


def _head(epoch: str, answer: Answer) -> Head:
    head = _message(Head, answer)
    if head.epoch != epoch:
        raise TransientError(f"the server answered for epoch {head.epoch} instead of {epoch}")
    return head
