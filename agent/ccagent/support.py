"""The support bundle: what support needs to know in one archive, without personal data and without secrets."""

import io
import json
import platform
import re
import secrets
import tarfile
import time
from importlib import metadata
from typing import Any

from ccshared import phi

QUESTIONS = ("status", "queue", "incidents", "verify", "store")
# A repository's address may hold its password.
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


def pack(parts: dict[str, Any]) -> bytes:
    """Return the archive (tar.gz); what personal data there is becomes tokens that say only which values are equal.

    phi.ScrubError when personal data could not be told apart.
    """
    key = secrets.token_bytes(32)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, part in parts.items():
            clean = json.dumps(phi.scrub(key, _without_credentials(part)), indent=1, sort_keys=True).encode()
            about = tarfile.TarInfo(f"cc-agent-support/{name}")
            about.size, about.mtime, about.mode = len(clean), int(time.time()), 0o600
            archive.addfile(about, io.BytesIO(clean))
    return packed.getvalue()


def versions() -> dict[str, str]:
    """Return what runs here, and on what."""
    return {
        "cc_agent": metadata.version("cc-agent"),
        "cc_shared": metadata.version("cc-shared"),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _without_credentials(part: Any) -> Any:
    return json.loads(_CREDENTIALS.sub("***@", json.dumps(part, default=str)), parse_float=str)
