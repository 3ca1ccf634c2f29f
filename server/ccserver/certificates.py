"""The certificate that the server shows: looked at whole before it is used, replaced while connections go on."""

import asyncio
import contextlib
import ipaddress
import logging
import signal
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from ccserver.errors import CertificateError

LOOK_S = 60.0
_log = logging.getLogger("ccserver.tls")
Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Pair:
    """Where the certificate (with its chain, PEM) and its key are, and for which host people ask."""

    cert: Path
    key: Path
    host: str


class Shown:
    """What new connections are shown; `reload` replaces it whole or not at all."""

    def __init__(self, pair: Pair) -> None:
        """CertificateError when it cannot be used."""
        self.pair = pair
        self._stamp = _stamp(pair)
        self._current, self.until = _load(pair)
        # Every handshake asks the first context, which hands on to the newest: the socket keeps listening meanwhile.
        self.context = self._current
        self.context.sni_callback = self._choose

    def reload(self) -> bool:
        """Take what the files hold now; on any mistake keep what is shown, say why, and return False."""
        self._stamp = _stamp(self.pair)
        try:
            self._current, self.until = _load(self.pair)
        except CertificateError as error:
            _log.error("the new certificate is not used, the one before stays: %s", error)
            return False
        _log.info("new connections are shown the certificate that is good until %s", f"{self.until:%Y-%m-%d %H:%M} UTC")
        return True

    def has_changed(self) -> bool:
        """Whether the files are others than at the last look."""
        return _stamp(self.pair) != self._stamp

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
        connection.context = self._current


def look(pair: Pair) -> datetime:
    """Return until when a pair is good; CertificateError when a server could not show it."""
    return _load(pair)[1]


@contextlib.asynccontextmanager
async def reloading(shown: Shown | None) -> AsyncIterator[None]:
    """Reload on SIGHUP and when the files change, until the block ends; without a certificate SIGHUP does nothing."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    task = asyncio.create_task(_keep_reloading(shown, asked))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        loop.remove_signal_handler(signal.SIGHUP)


async def _keep_reloading(shown: Shown | None, asked: asyncio.Event) -> None:
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await asked.wait()
        if shown is not None and (asked.is_set() or shown.has_changed()):
            shown.reload()
        asked.clear()


def _load(pair: Pair) -> tuple[ssl.SSLContext, datetime]:
    """Return a context that shows the certificate, and until when it is good; CertificateError with one sentence."""
    certificate = _read(pair.cert)
    _check(certificate, pair, datetime.now(UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(pair.cert, pair.key, password=lambda: "")  # a question would wait for ever
    except OSError as error:  # ssl.SSLError is one
        why = getattr(error, "reason", None) or error.strerror or "no PEM"
        raise CertificateError(
            f"{pair.key} is not the readable, unencrypted key of {pair.cert} ({str(why).replace('_', ' ').lower()}):"
            " give the two that belong together."
        ) from error
    return context, certificate.not_valid_after_utc


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise CertificateError(
            f"{path} cannot be read ({error.strerror}): give the server's user the right to."
        ) from error
    except ValueError as error:
        raise CertificateError(
            f"{path} does not begin with a certificate in PEM: give the server's own first."
        ) from error


def _check(certificate: x509.Certificate, pair: Pair, now: datetime) -> None:
    if certificate.not_valid_after_utc <= now:
        raise CertificateError(
            f"{pair.cert} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: put a new one there."
        )
    if certificate.not_valid_before_utc > now:
        raise CertificateError(
            f"{pair.cert} is not good before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: is the clock right?"
        )
    if not is_for(certificate, pair.host):
        raise CertificateError(
            f"{pair.cert} is not for {pair.host}, where CCSERVER_PUBLIC_URL sends people: give one that names it."
        )


def is_for(certificate: x509.Certificate, host: str) -> bool:
    """Return whether a certificate names a host (RFC 9525): its alternative names only, a star as the first label."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    try:
        return ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        wanted = host.lower().rstrip(".")
        anywhere = f"*.{wanted.partition('.')[2]}"
        return any(name.lower() in (wanted, anywhere) for name in names.get_values_for_type(x509.DNSName))


def _stamp(pair: Pair) -> Stamp:
    """Return what changes when one of the files does; a file that is not there at the moment counts as one."""
    found = []
    for path in (pair.cert, pair.key):
        try:
            about = path.stat()
            found.append((about.st_ino, about.st_mtime_ns, about.st_size))
        except OSError:
            found.append((0, 0, 0))
    return tuple(found)
