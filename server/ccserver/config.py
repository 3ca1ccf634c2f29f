"""The server's configuration: environment variables, each also as NAME_FILE, read once at start."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from ccserver.errors import BadConfigError

_DATABASE = (
    "DATABASE_URL",
    "DATABASE_OWNER_URL",
    "DATABASE_DIRECT_URL",
    "DATABASE_POOL_MIN",
    "DATABASE_POOL_MAX",
)
_OWN = (
    "CCSERVER_DATA_DIR",
    "CCSERVER_KEY_FILE",
    "CCSERVER_NAME",
    "CCSERVER_LISTEN",
    "CCSERVER_PUBLIC_URL",
    "CCSERVER_BACKUP_WINDOW_DAYS",
    "CCSERVER_APPLIANCE_QUOTA_MIB",
)
_LISTEN = re.compile(r"(?:\[([0-9a-f:]+)\]|([0-9A-Za-z.-]+)):([0-9]{1,5})")


@dataclass(frozen=True)
class Config:
    """How this server runs. `database_url` is None for the embedded database under `data_dir`.

    `backup_window_days`: how old the oldest backup is that may be restored; appliances keep evidence twice as long.
    `appliance_quota_mib`: how much one appliance may store at once; an eighth of it comes back a day.
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
    backup_window_days: int = 14
    appliance_quota_mib: int = 2048

    @property
    def secure(self) -> bool:
        """Whether people reach the server over TLS: cookies then say so."""
        return self.public_url.startswith("https://")


def from_environ(environ: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration; BadConfigError names the variable at fault and what it takes."""
    values = _with_files(environ)
    unknown = [name for name in values if name.startswith("CCSERVER_") and name not in _OWN]
    if unknown:
        raise BadConfigError(
            f"{', '.join(sorted(unknown))}: no such setting; ccserver knows {', '.join(_OWN)}, each also with _FILE."
        )
    data_dir = Path(values.get("CCSERVER_DATA_DIR") or _default_data_dir(values))
    host, port = _listen(values.get("CCSERVER_LISTEN") or "127.0.0.1:8440")
    pool_min = _integer(values, "DATABASE_POOL_MIN", 2, 1)
    return Config(
        database_url=values.get("DATABASE_URL") or None,
        database_owner_url=values.get("DATABASE_OWNER_URL") or None,
        database_direct_url=values.get("DATABASE_DIRECT_URL") or values.get("DATABASE_URL") or None,
        pool_min=pool_min,
        pool_max=_integer(values, "DATABASE_POOL_MAX", max(10, pool_min), pool_min),
        data_dir=data_dir,
        key_file=Path(values.get("CCSERVER_KEY_FILE") or data_dir / "server-keys.json"),
        server_name=_server_name(values.get("CCSERVER_NAME") or "central-command.local"),
        host=host,
        port=port,
        public_url=_public_url(values.get("CCSERVER_PUBLIC_URL") or f"http://{_bracketed(host)}:{port}"),
        backup_window_days=_integer(values, "CCSERVER_BACKUP_WINDOW_DAYS", 14, 0),
        appliance_quota_mib=_integer(values, "CCSERVER_APPLIANCE_QUOTA_MIB", 2048, 16),
    )


def _with_files(environ: Mapping[str, str]) -> dict[str, str]:
    values = {name: value for name, value in environ.items() if not _is_file_form(name)}
    for name, path in environ.items():
        if _is_file_form(name):
            try:
                values[name.removesuffix("_FILE")] = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise BadConfigError(f"{name} names a file that cannot be read: {error}.") from error
    return values


def _is_file_form(name: str) -> bool:
    if name in _OWN or not name.endswith("_FILE"):
        return False
    return name.startswith("CCSERVER_") or name.removesuffix("_FILE") in _DATABASE


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


def _listen(text: str) -> tuple[str, int]:
    match = _LISTEN.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise BadConfigError(f"CCSERVER_LISTEN={text!r}: an address and a port are needed, as in 127.0.0.1:8440.")
    return cast(str, match[1] or match[2]), int(match[3])


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
