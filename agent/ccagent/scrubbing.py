"""Where personal data leaves what the checks found: once, before anything is hashed, stored or sent.

Whatever is kept or sealed takes a `Scrubbed`, and only this module makes one.
"""

import contextlib
import dataclasses
import os
import secrets
from pathlib import Path
from typing import Any, NewType, cast

from ccagent import finding as findings
from ccagent.finding import Finding
from ccshared import canonical, phi

Scrubbed = NewType("Scrubbed", Finding)

KEY_BYTES = 32
WITHHELD = "the answer was withheld, because personal data in it could not be told apart: report this"


class ScrubKeyError(Exception):
    """The scrub key cannot be used; the message says what to do."""


def load_key(path: Path) -> bytes:
    """Return the 32-byte key of the tokens that stand for personal data, made (0600) and durable when there was none.

    ScrubKeyError when it is there but cannot be used.
    """
    try:
        with contextlib.suppress(FileExistsError):
            _make_key(path)
        key = path.read_bytes()
    except OSError as error:
        raise ScrubKeyError(
            f"{path} cannot be read or written ({error.strerror}): give uid {os.geteuid()} the right to"
        ) from error
    if len(key) != KEY_BYTES:
        raise ScrubKeyError(
            f"{path} is not a key of {KEY_BYTES} bytes: put back a copy, or move it away and start again"
        )
    return key


def scrub(key: bytes, finding: Finding) -> Scrubbed:
    """Return the finding with personal data replaced by tokens; one that cannot be scrubbed is withheld as unknown."""
    try:
        clean = cast("dict[str, Any]", phi.scrub(key, _words_of(finding)))
        return Scrubbed(
            dataclasses.replace(
                finding,
                reason=findings.one_line(clean["reason"]),
                host_id=clean["host"],
                service_name=clean["service_name"],
                facts=clean["facts"],
            )
        )
    except (phi.ScrubError, canonical.NotCanonicalError):
        return Scrubbed(findings.unknown(finding.check, host(key, finding.host_id), WITHHELD, {}))


def _words_of(finding: Finding) -> dict[str, Any]:
    return {
        "reason": finding.reason,
        "host": finding.host_id,
        "service_name": finding.service_name,
        "facts": _fit(finding.facts),
    }


def _fit(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts if they can stand where evidence puts them, two containers deep."""
    try:
        canonical.write({"body": {"facts": facts}})
    except canonical.NotCanonicalError as error:
        return {"omitted": str(error)}
    return facts


def host(key: bytes, host_id: str) -> str:
    """Return a host's name as it may leave this machine: one that carries a room or a patient is a token."""
    try:
        scrubbed = phi.scrub(key, {"host_id": host_id})
    except phi.ScrubError:
        return "withheld"
    return str(scrubbed["host_id"]) if isinstance(scrubbed, dict) else "withheld"


def _make_key(path: Path) -> None:
    """Put a new key in place whole; FileExistsError when one is there."""
    if path.exists():
        raise FileExistsError(path)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(descriptor)
        os.link(temporary, path)
    finally:
        temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
