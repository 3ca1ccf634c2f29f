"""The server's configuration: environment variables, each also as NAME_FILE, read once at start."""

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from ccserver import retention
from ccserver.errors import BadConfigError
from ccserver.limits import Network, Rate, Rates
from ccserver.retention import Terms
from ccshared import logs

_DATABASE = (
    "DATABASE_URL",
    "DATABASE_OWNER_URL",
    "DATABASE_DIRECT_URL",
    "DATABASE_BACKUP_URL",
    "DATABASE_ADMIN_URL",
    "DATABASE_POOL_MIN",
    "DATABASE_POOL_MAX",
)
_OWN = (
    "CCSERVER_DATA_DIR",
    "CCSERVER_KEY_FILE",
    "CCSERVER_NAME",
    "CCSERVER_LISTEN",
    "CCSERVER_PUBLIC_URL",
    "CCSERVER_TLS_CERT",
    "CCSERVER_TLS_KEY",
    "CCSERVER_LOG_FORMAT",
    "CCSERVER_SWEEP_SECONDS",
    "CCSERVER_METRICS_LISTEN",
    "CCSERVER_METRICS_ANY_ADDRESS",
    "CCSERVER_TRUSTED_PROXIES",
    *(f"CCSERVER_LIMIT_{name.upper()}" for name in vars(Rates())),
    *(f"CCSERVER_KEEP_{name.upper()}_DAYS" for name in retention.NAMES),
    "CCSERVER_BACKUP_WINDOW_DAYS",
    "CCSERVER_APPLIANCE_QUOTA_MIB",
    "CCSERVER_SMTP_HOST",
    "CCSERVER_SMTP_PORT",
    "CCSERVER_SMTP_TLS",
    "CCSERVER_SMTP_USER",
    "CCSERVER_SMTP_PASSWORD",
    "CCSERVER_SMTP_FROM",
    "CCSERVER_NOTIFY_ALLOW",
    "CCSERVER_DEADMAN_URL",
)
SETTINGS = _DATABASE + _OWN
DEFAULT_NAME = "central-command.local"
_LISTEN = re.compile(r"(?:\[([0-9a-f:]+)\]|([0-9A-Za-z.-]+)):([0-9]{1,5})")


@dataclass(frozen=True)
class Smtp:
    """The mail server that mail is handed to; `tls` is starttls, tls (from the first byte) or none."""

    host: str
    port: int
    tls: str
    sender: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Config:
    """How this server runs. `database_url` is None for the embedded database under `data_dir`.

    `tls` names the certificate and its key; None where the server speaks plain http.
    `database_direct_url` goes past a pooler, for the lock of `migrate`; None where the owner's URL does that itself.
    `database_backup_url`: the role that only reads, past row security. `database_admin_url`: who may make a database.
    `backup_window_days`: how old the oldest backup is that may be restored; appliances keep evidence twice as long.
    `appliance_quota_mib`: how much one appliance may store at once; an eighth of it comes back a day.
    `notify_allow`: addresses that are not public and may be told all the same, by plain http too.
    """

    database_url: str | None
    database_owner_url: str | None
    database_direct_url: str | None
    pool_min: int
    pool_max: int
    data_dir: Path
    key_file: Path
    server_name: str
    host: str
    port: int
    public_url: str
    log_format: logs.Format
    keep: Terms
    sweep_s: int
    rates: Rates
    trusted_proxies: tuple[Network, ...]
    metrics: tuple[str, int] | None
    metrics_asked: bool
    database_backup_url: str | None = None
    database_admin_url: str | None = None
    backup_window_days: int = 14
    appliance_quota_mib: int = 2048
    tls: tuple[Path, Path] | None = None
    smtp: Smtp | None = None
    notify_allow: tuple[Network, ...] = ()
    deadman_url: str | None = field(default=None, repr=False)

    @property
    def secure(self) -> bool:
        """Whether people reach the server over TLS: cookies then say so."""
        return self.public_url.startswith("https://")

    @property
    def public_host(self) -> str:
        """The host in the address where people reach the server."""
        return urlsplit(self.public_url).hostname or ""

    def check_transport(self) -> None:
        """BadConfigError where the server would speak plain http to anybody but this host and the proxies listed."""
        if self.tls is None and not self.trusted_proxies and not _is_loopback(self.host):
            raise BadConfigError(
                f"CCSERVER_LISTEN={_bracketed(self.host)}:{self.port} would speak plain http to everybody: give"
                " --tls-cert and --tls-key, list the TLS proxy in front in CCSERVER_TRUSTED_PROXIES, or listen on"
                " 127.0.0.1."
            )


def from_environ(environ: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration; BadConfigError names the variable at fault and what it takes."""
    if strangers := unknown(environ):
        raise BadConfigError(
            "; ".join(f"{name}: no such setting{_nearest(name)}" for name in strangers)
            + f". ccserver knows {', '.join(SETTINGS)}, each also with _FILE."
        )
    values = _with_files(environ)
    data_dir = Path(values.get("CCSERVER_DATA_DIR") or _default_data_dir(values))
    host, port = _listen("CCSERVER_LISTEN", values.get("CCSERVER_LISTEN") or "127.0.0.1:8440")
    tls = _tls(values)
    pool_min = _integer(values, "DATABASE_POOL_MIN", 2, 1)
    return Config(
        database_url=values.get("DATABASE_URL") or None,
        database_owner_url=values.get("DATABASE_OWNER_URL") or None,
        database_direct_url=values.get("DATABASE_DIRECT_URL") or None,
        database_backup_url=values.get("DATABASE_BACKUP_URL") or None,
        database_admin_url=values.get("DATABASE_ADMIN_URL") or None,
        pool_min=pool_min,
        pool_max=_integer(values, "DATABASE_POOL_MAX", max(10, pool_min), pool_min),
        data_dir=data_dir,
        key_file=Path(values.get("CCSERVER_KEY_FILE") or data_dir / "server-keys.json"),
        server_name=_server_name(values.get("CCSERVER_NAME") or DEFAULT_NAME),
        host=host,
        port=port,
        public_url=_public_url(
            values.get("CCSERVER_PUBLIC_URL") or f"http{'s' if tls else ''}://{_bracketed(host)}:{port}"
        ),
        log_format=_log_format(values.get("CCSERVER_LOG_FORMAT") or "json"),
        keep=_terms(values),
        sweep_s=_integer(values, "CCSERVER_SWEEP_SECONDS", 60, 0),
        rates=_rates(values),
        trusted_proxies=_networks(values, "CCSERVER_TRUSTED_PROXIES"),
        metrics=_metrics_listen(values),
        metrics_asked="CCSERVER_METRICS_LISTEN" in values,
        backup_window_days=_integer(values, "CCSERVER_BACKUP_WINDOW_DAYS", 14, 0),
        appliance_quota_mib=_integer(values, "CCSERVER_APPLIANCE_QUOTA_MIB", 2048, 16),
        tls=tls,
        smtp=_smtp(values),
        notify_allow=_networks(values, "CCSERVER_NOTIFY_ALLOW"),
        deadman_url=_deadman(values.get("CCSERVER_DEADMAN_URL", "")),
    )


def unknown(environ: Mapping[str, str]) -> list[str]:
    """Return the variables that look like ours and are none, by name."""
    ours = (name for name in environ if name.startswith(("CCSERVER_", "DATABASE_")))
    return sorted(name for name in ours if name.removesuffix("_FILE") not in SETTINGS and name not in SETTINGS)


def files(environ: Mapping[str, str]) -> dict[str, Path]:
    """Return the files that settings stand in, by the variable that names each."""
    return {name: Path(path) for name, path in environ.items() if _is_file_form(name)}


def _nearest(name: str) -> str:
    known = [*SETTINGS, *(f"{each}_FILE" for each in SETTINGS)]
    close = difflib.get_close_matches(name, known, 1, 0.75)
    return f", is {close[0]} meant?" if close else ""


def _with_files(environ: Mapping[str, str]) -> dict[str, str]:
    values = {name: value for name, value in environ.items() if not _is_file_form(name)}
    for name, path in files(environ).items():
        plain = name.removesuffix("_FILE")
        if plain in values:
            raise BadConfigError(f"{plain} and {name} are both set: unset one.")
        try:
            values[plain] = path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise BadConfigError(f"{name} names a file that cannot be read: {_reason(error)}.") from error
    return values


def _reason(error: Exception) -> str:
    """Say what went wrong with a file; a decoder's own text would repeat a part of the secret."""
    return str(error) if isinstance(error, OSError) else "it is not UTF-8 text, or its name is no path"


def _is_file_form(name: str) -> bool:
    return name not in SETTINGS and name.endswith("_FILE") and name.removesuffix("_FILE") in SETTINGS


def _log_format(text: str) -> logs.Format:
    if text not in logs.FORMATS:
        raise BadConfigError(f"CCSERVER_LOG_FORMAT={text!r}: {' or '.join(logs.FORMATS)} is needed.")
    return cast(logs.Format, text)


def _default_data_dir(values: Mapping[str, str]) -> str:
    if os.geteuid() == 0:
        return "/var/lib/ccserver"
    state = values.get("XDG_STATE_HOME") or f"{values.get('HOME') or '.'}/.local/state"
    return f"{state}/ccserver"


def _integer(values: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = values.get(name) or str(default)
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) < least:
        raise BadConfigError(f"{name}={text!r}: a whole number from {least} to 9999 is needed.")
    return int(text)


def _terms(values: Mapping[str, str]) -> Terms:
    default = Terms()
    days = {
        name: _integer(
            values, f"CCSERVER_KEEP_{name.upper()}_DAYS", getattr(default, name), getattr(retention.LEAST, name)
        )
        for name in retention.NAMES
    }
    return Terms(**days)


def _rates(values: Mapping[str, str]) -> Rates:
    """Return the limits; `CCSERVER_LIMIT_<KIND>=<calls per second>/<at once>`."""
    rates = dict(vars(Rates()))
    for kind in rates:
        name = f"CCSERVER_LIMIT_{kind.upper()}"
        if values.get(name):
            rates[kind] = _rate(name, values[name])
    return Rates(**rates)


def _rate(name: str, text: str) -> Rate:
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,4})?)/([0-9]{1,7})", text)
    if match is None or float(match[1]) <= 0 or int(match[2]) < 1:
        raise BadConfigError(f"{name}={text!r}: calls per second and how many at once are needed, as in 50/500.")
    return Rate(float(match[1]), int(match[2]))


def _networks(values: Mapping[str, str], name: str) -> tuple[Network, ...]:
    text = values.get(name, "")
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise BadConfigError(
            f"{name}={text!r}: addresses or networks with commas between, as in 10.0.0.5,fd00::/8."
        ) from error


_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_MAILBOX = re.compile(r"[^\s<>@,;:\"()\\\[\]]{1,64}@[0-9A-Za-z.-]{1,253}")


def _smtp(values: Mapping[str, str]) -> Smtp | None:
    """Return the mail server; None where none is set, and then no channel can be one of mail."""
    host, tls = values.get("CCSERVER_SMTP_HOST"), values.get("CCSERVER_SMTP_TLS") or "starttls"
    if not host:
        return None
    if tls not in _PORTS:
        raise BadConfigError(f"CCSERVER_SMTP_TLS={tls!r}: {', '.join(_PORTS)} is needed.")
    sender = values.get("CCSERVER_SMTP_FROM", "")
    if not _MAILBOX.fullmatch(sender):
        raise BadConfigError("CCSERVER_SMTP_FROM: the address that mail is from is needed, as in cc@example.org.")
    user, password = values.get("CCSERVER_SMTP_USER") or None, values.get("CCSERVER_SMTP_PASSWORD") or None
    if (user is None) != (password is None):
        raise BadConfigError("CCSERVER_SMTP_USER and CCSERVER_SMTP_PASSWORD go together: set both, or neither.")
    if user is not None and tls == "none":
        raise BadConfigError("CCSERVER_SMTP_TLS=none would send CCSERVER_SMTP_PASSWORD in the clear: use starttls.")
    port = _port("CCSERVER_SMTP_PORT", values.get("CCSERVER_SMTP_PORT") or str(_PORTS[tls]))
    return Smtp(host, port, tls, sender, user, password)


def _port(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise BadConfigError(f"{name}={text!r}: a port from 1 to 65535 is needed.")
    return int(text)


def _deadman(text: str) -> str | None:
    """Return the address that is asked while all is well; never repeated, for what it holds is a secret."""
    parts = urlsplit(text)
    if text and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise BadConfigError("CCSERVER_DEADMAN_URL: an http(s) address is needed.")
    return text or None


def _metrics_listen(values: Mapping[str, str]) -> tuple[str, int] | None:
    """Return where metrics are served, None when they are turned off; no other than a loopback address unasked."""
    text = values.get("CCSERVER_METRICS_LISTEN", "127.0.0.1:8441")
    if not text:
        return None
    host, port = _listen("CCSERVER_METRICS_LISTEN", text)
    if not _is_loopback(host) and values.get("CCSERVER_METRICS_ANY_ADDRESS") != "yes":
        raise BadConfigError(
            f"CCSERVER_METRICS_LISTEN={text!r}: metrics have no sign-in and are served on a loopback address;"
            " CCSERVER_METRICS_ANY_ADDRESS=yes allows another."
        )
    return host, port


def _listen(name: str, text: str) -> tuple[str, int]:
    match = _LISTEN.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise BadConfigError(f"{name}={text!r}: an address and a port are needed, as in 127.0.0.1:8440.")
    return cast(str, match[1] or match[2]), int(match[3])


def _tls(values: Mapping[str, str]) -> tuple[Path, Path] | None:
    cert, key = values.get("CCSERVER_TLS_CERT"), values.get("CCSERVER_TLS_KEY")
    if cert and key:
        return Path(cert), Path(key)
    if cert or key:
        raise BadConfigError("CCSERVER_TLS_CERT and CCSERVER_TLS_KEY go together: name the certificate and its key.")
    return None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _server_name(text: str) -> str:
    if not re.fullmatch(r"[0-9a-z](?:[0-9a-z.-]{0,126}[0-9a-z])?", text):
        raise BadConfigError(f"CCSERVER_NAME={text!r}: a domain-like name is needed, as in cc.example.org.")
    return text


def _public_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BadConfigError(
            f"CCSERVER_PUBLIC_URL={text!r}: an http(s) address is needed, as in https://cc.example.org."
        )
    return text.rstrip("/")
