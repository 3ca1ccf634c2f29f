"""Other people's checks: a command that speaks the Monitoring Plugins protocol."""

from datetime import datetime
from typing import Any

from ccagent import finding
from ccagent.config import PluginSettings
from ccagent.finding import Drift, Finding, one_line
from ccagent.host import Host, ProgramMissingError
from ccshared.vocabulary import Severity

_DRIFTS = {1: Drift(Severity.MEDIUM, "plugin_warning"), 2: Drift(Severity.CRITICAL, "plugin_critical")}


async def check(host: Host, settings: PluginSettings, now: datetime) -> Finding:
    """Run it: 0 is pass, 1 fail (medium), 2 fail (critical), anything else unknown; its first line is the reason."""
    del now  # a plugin has its own clock
    name, host_id = f"plugin_{settings.name}", settings.host_id or host.host_id
    try:
        output = await host.run(settings.argv, settings.timeout_s)
    except ProgramMissingError as error:
        return finding.unknown(name, host_id, f"{error}: correct argv under [[checks.plugin]]", {})
    if output.timed_out:
        return finding.unknown(name, host_id, f"took longer than {settings.timeout_s} s: raise timeout_s", {})
    said, facts = _first_line(output.stdout, output.code)
    if output.code == 0:
        return finding.passed(name, host_id, said, facts)
    if output.code in _DRIFTS:
        return finding.failed(name, host_id, said, facts, _DRIFTS[output.code])
    return finding.unknown(name, host_id, said, facts)


def _first_line(stdout: str, code: int) -> tuple[str, dict[str, Any]]:
    """What stands after '|' is performance data (Monitoring Plugins guidelines)."""
    first = (stdout.splitlines() or [""])[0]
    text, _, data = first.partition("|")
    facts = {"exit_code": code, "performance": one_line(data, 1000) or None}
    return one_line(text) or f"ended with {code} and said nothing", facts
