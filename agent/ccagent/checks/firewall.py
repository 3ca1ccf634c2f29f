"""Is there a packet filter, and is it the one that was approved?"""

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ccagent.checks.parts import Part, add_up, bad, good, unclear
from ccagent.config import FirewallSettings
from ccagent.finding import Finding, one_line
from ccagent.host import Host, Output, ProgramMissingError
from ccshared.vocabulary import Severity

# What changes while the same rules stand: numbers that the kernel hands out, and what it counts.
_VOLATILE_KEYS = frozenset({"handle", "index", "expires"})
_COUNTED = frozenset({"counter", "quota", "last"})
_COUNTS = frozenset({"packets", "bytes", "used", "used_unit"})
_RUNTIME_FLAGS = frozenset({"dynamic", "timeout"})
_INBOUND_HOOKS = frozenset({"input", "prerouting", "ingress"})
_IPTABLES_COUNTS = re.compile(r" \[\d+:\d+\]$|^\[\d+:\d+\] ")

NFT = ("nft", "-j", "list", "ruleset")
IPTABLES = ("iptables-save",)
IP6TABLES = ("ip6tables-save",)

Rules = list[dict[str, Any]]


class NotARulesetError(ValueError):
    """The text is not what `nft -j list ruleset` writes."""


@dataclass(frozen=True)
class Ruleset:
    """What a tool showed: the hash of its normal form, whether it filters what comes in, the policies of its hooks.

    `as_root`: whether it was shown to root, from whom nothing is hidden.
    """

    tool: str
    sha256: str
    filters: bool
    policies: tuple[str, ...]
    as_root: bool


async def check(host: Host, settings: FirewallSettings, now: datetime) -> Finding:
    """Fail critical when nothing filters what comes in, high when the rules differ from the approved ones."""
    del now  # the answer does not depend on it
    seen, problems = await _rulesets(host, settings)
    ruleset = next((ruleset for ruleset in seen if ruleset.filters), seen[0] if seen else None)
    if ruleset is None or (not ruleset.filters and (problems or not ruleset.as_root)):
        # An empty answer given to who may not look, or beside a tool that failed, does not show that there is nothing.
        why = "; ".join(problems) or "the ruleset looks empty, but only root may see it: run the helper"
        return add_up("firewall", host, [unclear(why)], {})
    facts = {
        "tool": ruleset.tool,
        "ruleset_sha256": ruleset.sha256,
        "policies": [one_line(policy, 128) for policy in ruleset.policies[:40]],
    }
    return add_up("firewall", host, [_judge(ruleset, settings)], facts)


def normalised(text: str, ignore_tables: Collection[str] = ()) -> Rules:
    """Return the rules of `nft -j list ruleset` without handles, counts and contents that change by themselves.

    Tables, chains and sets are put in order; rules keep theirs within a chain, because there order is meaning.
    `ignore_tables` are `family name` pairs such as `inet f2b-table`. NotARulesetError for other text.
    """
    kept = []
    for item in _items(text):
        kind, body = next(iter(item.items()))
        if kind != "metainfo" and _table_of(kind, body) not in ignore_tables:
            kept.append({kind: _plain(_without_elements(kind, body))})
    return sorted(kept, key=_place)


def iptables_normalised(text: str) -> str:
    """Return the output of `iptables-save` without comments and counters, its tables in order."""
    lines = [_IPTABLES_COUNTS.sub("", line.rstrip()) for line in text.splitlines() if line and line[0] != "#"]
    tables = "\n".join(lines).split("COMMIT")
    return "".join(f"{table.strip()}\nCOMMIT\n" for table in sorted(tables, key=str.strip) if table.strip())


def filters(rules: Rules) -> bool:
    """Return whether a filter chain stands where packets come in, and drops by policy or holds a rule."""
    filled = {_chain_key(item["rule"], "chain") for item in rules if "rule" in item}
    inbound = [chain for chain in _hooked(rules) if chain.get("hook") in _INBOUND_HOOKS]
    return any(
        chain.get("type") == "filter" and (chain.get("policy") == "drop" or _chain_key(chain, "name") in filled)
        for chain in inbound
    )


def iptables_filters(normal: str) -> bool:
    """The same of the normal form of `iptables-save`."""
    table = next((part for part in normal.split("COMMIT\n") if part.startswith("*filter\n")), "")
    return bool(re.search(r"^(:INPUT DROP|-A INPUT )", table, re.MULTILINE))


async def _rulesets(host: Host, settings: FirewallSettings) -> tuple[list[Ruleset], list[str]]:
    """Ask nft; if it shows no filter, ask iptables too, whose older kind nft does not see."""
    seen: list[Ruleset] = []
    problems: list[str] = []
    missing = []
    for look in (_nft, _iptables):
        try:
            seen.append(await look(host, settings))
        except ProgramMissingError as error:
            missing.append(str(error))
        except NotARulesetError as error:
            problems.append(str(error))
        if seen and seen[-1].filters:
            break
    return seen, problems if seen or problems else [*missing, "install nftables"]


async def _nft(host: Host, settings: FirewallSettings) -> Ruleset:
    output = await host.run_as_root("nft", NFT, timeout_s=20)
    _demand("nft", output)
    rules = normalised(output.stdout, settings.ignore_tables)
    policies = [
        f"{chain.get('family')} {chain.get('table')} {chain.get('hook')} {chain.get('policy', 'accept')}"
        for chain in _hooked(rules)
    ]
    text = json.dumps(rules, sort_keys=True, separators=(",", ":"))
    return Ruleset("nft", _sha256(text), filters(rules), tuple(policies), output.as_root)


async def _iptables(host: Host, settings: FirewallSettings) -> Ruleset:
    del settings  # tables of iptables have fixed names: none is to be left out
    output = await host.run_as_root("iptables", IPTABLES, timeout_s=20)
    _demand("iptables-save", output)
    normal = iptables_normalised(output.stdout)
    text = normal + await _ip6tables(host)
    policies = re.findall(r"^:([A-Z]+ (?:ACCEPT|DROP))$", normal, re.MULTILINE)
    return Ruleset("iptables", _sha256(text), iptables_filters(normal), tuple(policies), output.as_root)


async def _ip6tables(host: Host) -> str:
    try:
        output = await host.run_as_root("ip6tables", IP6TABLES, timeout_s=20)
    except ProgramMissingError:
        return ""
    _demand("ip6tables-save", output)
    return iptables_normalised(output.stdout)


def _demand(tool: str, output: Output) -> None:
    if not output.complete:
        help_line = "" if output.as_root else ", which needs root: run the helper"
        raise NotARulesetError(f"{tool} could not show the rules ({one_line(output.complaint(), 200)}){help_line}")


def _judge(ruleset: Ruleset, settings: FirewallSettings) -> Part:
    if not ruleset.filters:
        return bad("nothing filters what comes in", Severity.CRITICAL, "firewall_absent")
    if settings.baseline_sha256 is None:
        return unclear(
            f'no approved ruleset: add baseline_sha256 = "{ruleset.sha256}" under [checks.firewall] '
            "once you approve the present one"
        )
    if ruleset.sha256 != settings.baseline_sha256:
        return bad("the rules differ from the approved ones", Severity.HIGH, "firewall_changed")
    return good("the rules are the approved ones")


def _items(text: str) -> list[dict[str, Any]]:
    try:
        items = json.loads(text)["nftables"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotARulesetError("nft gave no JSON ruleset: install a newer nftables") from error
    if not isinstance(items, list) or not all(_is_item(item) for item in items):
        raise NotARulesetError("nft gave JSON of another form")
    return items


def _is_item(item: Any) -> bool:
    return isinstance(item, dict) and len(item) == 1 and all(isinstance(body, dict) for body in item.values())


def _table_of(kind: str, body: dict[str, Any]) -> str:
    return f"{body.get('family')} {body.get('name' if kind == 'table' else 'table')}"


def _without_elements(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    """A set that packets fill is the rule that fills it; what is in it now is no configuration."""
    flags = body.get("flags") or []
    if kind in ("set", "map") and _RUNTIME_FLAGS & set([flags] if isinstance(flags, str) else flags):
        return {name: value for name, value in body.items() if name != "elem"}
    if kind in _COUNTED:
        return {name: value for name, value in body.items() if name not in _COUNTS}
    return body


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: _counted(name, item) for name, item in value.items() if name not in _VOLATILE_KEYS}


def _counted(name: str, value: Any) -> Any:
    if name in _COUNTED and isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in _COUNTS}
    return _plain(value)


def _place(item: dict[str, Any]) -> tuple[str, ...]:
    kind, body = next(iter(item.items()))
    owner = body.get("chain") if kind == "rule" else body.get("name")
    return (str(body.get("family")), _table_of(kind, body), kind, str(owner))


def _hooked(rules: Rules) -> list[dict[str, Any]]:
    return [item["chain"] for item in rules if "chain" in item and "hook" in item["chain"]]


def _chain_key(body: dict[str, Any], name: str) -> tuple[Any, Any, Any]:
    return body.get("family"), body.get("table"), body.get(name)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
