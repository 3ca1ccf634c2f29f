"""Is the anti-virus engine running, is it the binary that was approved, are its signatures new?"""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ccagent.checks import times
from ccagent.checks.parts import Part, add_up, bad, good, unclear
from ccagent.checks.units import Running, Unit, look
from ccagent.config import AntivirusSettings
from ccagent.finding import Finding
from ccagent.host import Host
from ccshared.vocabulary import Severity

_HEADER_BYTES = 512


async def check(host: Host, settings: AntivirusSettings, now: datetime) -> Finding:
    """Fail critical when inactive, high when the binary differs or signatures are older than 7 days."""
    unit = await look(host, settings.unit, settings.process)
    digest = await binary_digest(host, settings) or await host.read_as_root("antivirus_binary")
    built = signatures_built(host, settings)
    facts: dict[str, Any] = {
        "unit": unit.name,
        "state": str(unit.running),
        "told_by": unit.told_by,
        "binary_sha256": digest,
        "signatures_at": times.epoch(built),
    }
    parts = [_state(unit), _binary(settings, digest)]
    if settings.signature_dir:
        parts.append(_signatures(settings, built, now))
    return add_up("antivirus", host, parts, facts)


async def binary_digest(host: Host, settings: AntivirusSettings) -> str | None:
    """Return the hex SHA-256 of the engine's binary, None when it cannot be read."""
    return await asyncio.to_thread(_digest, host.place(settings.binary))


def signatures_built(host: Host, settings: AntivirusSettings) -> datetime | None:
    """Return when the newest signatures were made (UTC), None when that is not to be seen.

    ClamAV's daily database says it in its header; of another engine's directory the newest file tells.
    """
    directory = str(settings.signature_dir)
    daily = [_header_time(host, f"{directory}/daily.{kind}") for kind in ("cld", "cvd")]
    seen = [moment for moment in daily if moment is not None]
    if seen:
        return max(seen)
    if settings.process == AntivirusSettings().process:
        return None  # a copied file is new, what is in it may be old
    return host.newest(f"{directory}/*")


def _header_time(host: Host, path: str) -> datetime | None:
    """The header's fields are parted by ':'; the ninth is the build time in seconds since 1970 (libclamav, cvd.c)."""
    try:
        with host.place(path).open("rb") as file:
            fields = file.read(_HEADER_BYTES).decode("ascii", "replace").split(":")
    except OSError:
        return None
    if fields[0] != "ClamAV-VDB":
        return None
    try:
        return datetime.fromtimestamp(int(fields[8]), UTC)
    except (IndexError, ValueError, OverflowError):
        return _written_time(fields)


def _written_time(fields: list[str]) -> datetime | None:
    try:
        return datetime.strptime(fields[1], "%d %b %Y %H-%M %z").astimezone(UTC)
    except (IndexError, ValueError):
        return None


def _digest(binary: Path) -> str | None:
    try:
        with binary.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _state(unit: Unit) -> Part:
    if unit.running is Running.YES:
        return good(f"{unit.name} runs")
    if unit.running is Running.UNTOLD:
        return unclear(f"whether {unit.name} runs is not known: {unit.why}")
    if unit.running is Running.ABSENT:
        return bad(
            f"{unit.name} is not installed: install it, or set unit under [checks.antivirus]",
            Severity.CRITICAL,
            "antivirus_inactive",
            unit.name,
        )
    return bad(f"{unit.name} does not run", Severity.CRITICAL, "antivirus_inactive", unit.name)


def _binary(settings: AntivirusSettings, digest: str | None) -> Part:
    if digest is None:
        return unclear(f"{settings.binary} cannot be read: set binary under [checks.antivirus], or run the helper")
    if settings.binary_sha256 is None:
        return unclear(
            f'no approved binary: add binary_sha256 = "{digest}" under [checks.antivirus] once you trust this one'
        )
    if digest != settings.binary_sha256:
        return bad(
            f"{settings.binary} is not the approved binary",
            Severity.HIGH,
            "antivirus_binary_changed",
        )
    return good("the binary is the approved one")


def _signatures(settings: AntivirusSettings, built: datetime | None, now: datetime) -> Part:
    if built is None:
        return unclear(
            f"no signatures are seen in {settings.signature_dir}: set signature_dir under [checks.antivirus]"
        )
    try:
        age = times.age(built, now)
    except times.NotATimeError as error:
        return unclear(f"the time of the signatures {error}: correct the clock")
    if age > timedelta(days=settings.signature_max_age_days):
        return bad(
            f"signatures are older than {settings.signature_max_age_days} days",
            Severity.HIGH,
            "signatures_stale",
            settings.unit,
        )
    return good("signatures are new")
