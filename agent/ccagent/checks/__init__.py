"""The checks: six families that look at this machine, and other people's plugins. None changes anything."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from ccagent import finding
from ccagent.checks import antivirus, backup, encryption, firewall, logging, patching, plugin
from ccagent.config import ChecksSettings, PluginSettings
from ccagent.finding import Finding
from ccagent.host import Host
from ccshared.vocabulary import Family

Check = Callable[[Host, Any, datetime], Awaitable[Finding]]

FAMILIES: dict[str, Check] = {
    str(Family.PATCHING): patching.check,
    str(Family.ANTIVIRUS): antivirus.check,
    str(Family.BACKUP): backup.check,
    str(Family.LOGGING): logging.check,
    str(Family.FIREWALL): firewall.check,
    str(Family.ENCRYPTION): encryption.check,
}

MAX_PLUGINS_AT_ONCE = 8


async def run_all(host: Host, settings: ChecksSettings, now: datetime) -> list[Finding]:
    """Return one finding of each family, in order, then one of each plugin; all run at once, each under its limit.

    A check that raises or takes too long is unknown and says so; the others go on. `now` is UTC.
    """
    slots = asyncio.Semaphore(MAX_PLUGINS_AT_ONCE)
    families = [run_one(name, host, settings, now) for name in FAMILIES]
    plugins = [_plugin(host, wanted, now, slots) for wanted in settings.plugin]
    return await asyncio.gather(*families, *plugins)


async def run_one(name: str, host: Host, settings: ChecksSettings, now: datetime) -> Finding:
    """Return the finding of the family `name`, for instance after a repair; KeyError for a name that is none."""
    check = FAMILIES[name](host, getattr(settings, name), now)
    return await guarded(check, name, host.host_id, settings.time_limit_s)


async def run_named(name: str, host: Host, settings: ChecksSettings, now: datetime) -> Finding | None:
    """Return the finding of a family or of a plugin about this machine; None for a name that is neither's."""
    if name in FAMILIES:
        return await run_one(name, host, settings, now)
    for wanted in settings.plugin:
        if f"plugin_{wanted.name}" == name and wanted.host_id in (None, host.host_id):
            return await _plugin(host, wanted, now, asyncio.Semaphore(1))
    return None


async def guarded(check: Awaitable[Finding], name: str, host_id: str, limit_s: float) -> Finding:
    """Return what the check answers, or unknown with the exception's class when it raises or takes too long."""
    # gather hands over whatever a check raises, but not a cancellation of this very call.
    (answer,) = await asyncio.gather(asyncio.wait_for(check, limit_s), return_exceptions=True)
    if isinstance(answer, Finding):
        return answer
    what = f"took longer than {limit_s:g} s" if isinstance(answer, TimeoutError) else "broke off"
    reason = f"the check {what} ({type(answer).__name__}): report this with the agent's version"
    return finding.unknown(name, host_id, reason, {"exception": type(answer).__name__[:64]})


async def _plugin(host: Host, wanted: PluginSettings, now: datetime, slots: asyncio.Semaphore) -> Finding:
    async with slots:
        name, host_id = f"plugin_{wanted.name}", wanted.host_id or host.host_id
        return await guarded(plugin.check(host, wanted, now), name, host_id, wanted.timeout_s + 5)
