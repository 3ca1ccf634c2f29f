"""Rules: which runbook answers which incident. Conditions are ANDed, at least one; what is missing never matches.

Expressions run on RE2, in time linear in the text whatever they say.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import field
from functools import partial
from typing import Annotated, Any, Literal

import re2  # type: ignore[import-untyped]  # its wheel carries no types
from pydantic import Field, StringConstraints, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass

from ccshared import strict
from ccshared.runbooks import Id, Line, ParameterName
from ccshared.runbooks import Value as ParameterValue
from ccshared.vocabulary import Severity

MAX_EXPRESSION = 500
MAX_TEXT = 4096  # what an expression looks at of a field
_EXPRESSION_MEMORY = 1 << 20
_INDEXED = ("pattern_signature", "incident_type")  # the more telling first

Text = Annotated[str, StringConstraints(max_length=MAX_EXPRESSION)]
Scalar = Text | int | bool
Operator = Literal["eq", "ne", "contains", "regex", "gt", "lt", "in", "not_in", "exists"]


class BadRuleError(ValueError):
    """The rule is not one: no conditions, an unknown operator, a value that its operator does not take."""


@dataclass(frozen=True, config=strict.EXACT)
class Condition:
    """A field of the incident (dotted), an operator, and what it is compared with.

    `eq ne` take text, a number, true or false · `contains regex` text · `gt lt` a number · `in not_in` a list ·
    `exists` true.
    """

    field: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}(?:\.[a-z0-9_]{1,64}){0,8}$")]
    operator: Operator
    value: Scalar | Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _fits(self) -> "Condition":
        if not _TAKES[self.operator](self.value):
            raise ValueError(f"{self.operator} does not take such a value")
        if self.operator == "regex":
            expression(str(self.value))
        return self


@dataclass(frozen=True, config=strict.EXACT)
class Rule:
    """A rule: a lower `priority` comes first; `severities` empty is any; `cooldown_s` between two attempts."""

    id: Id
    name: Line
    priority: Annotated[int, Field(ge=0, le=10_000)]
    conditions: Annotated[tuple[Condition, ...], Field(min_length=1, max_length=20)]
    runbook: Id
    parameters: Annotated[dict[ParameterName, ParameterValue], Field(max_length=20)] = field(default_factory=dict)
    severities: Annotated[tuple[Severity, ...], Field(max_length=4)] = ()
    cooldown_s: Annotated[int, Field(ge=0, le=7 * 86_400)] = 300
    source: Literal["built-in", "learned"] = "built-in"


@dataclass(frozen=True)
class _Ready:
    """A rule with its place in the order and its conditions ready to be asked."""

    place: tuple[int, int]
    rule: Rule
    tests: tuple[tuple[tuple[str, ...], Callable[[Any], bool]], ...]


@dataclass(frozen=True)
class Compiled:
    """Rules ready to be asked, by the value of the field they are indexed on; `refused` says which are left out, why.

    `rest` are the rules that no indexed field tells apart. Each list is in order.
    """

    by_value: Mapping[tuple[str, Any], list[Any]]
    rest: list[Any]
    refused: tuple[str, ...]


_RULE = TypeAdapter(Rule)


def from_dict(value: Any) -> Rule:
    """Return the rule that an object stands for; BadRuleError says what is wrong with it."""
    try:
        return strict.read(_RULE, value)
    except ValueError as error:
        raise BadRuleError(str(error)) from error


def to_dict(rule: Rule) -> dict[str, Any]:
    """Return the rule as an object with every member, as it is signed."""
    return strict.write(_RULE, rule)


def compile(rules: Iterable[Rule], known_runbooks: Collection[str]) -> Compiled:  # noqa: A001  (as re.compile)
    """Return the rules ready to be asked; one whose runbook is not known is left out, and said in `refused`."""
    by_value: dict[tuple[str, Any], list[_Ready]] = {}
    rest: list[_Ready] = []
    refused = []
    for number, rule in enumerate(sorted(rules, key=lambda rule: rule.priority)):
        if rule.runbook not in known_runbooks:
            refused.append(f"rule {rule.id}: runbook {rule.runbook} is not in the catalogue")
            continue
        ready = _Ready((rule.priority, number), rule, tuple(_ready(each) for each in rule.conditions))
        keys = _keys(rule)
        for key in keys:
            by_value.setdefault(key, []).append(ready)
        if not keys:
            rest.append(ready)
    return Compiled(by_value, rest, tuple(refused))


def first_match(compiled: Compiled, fields: Mapping[str, Any], severity: str) -> Rule | None:
    """Return the first rule by priority that answers an incident, None where none does."""
    near = [compiled.by_value.get((name, fields.get(name)), ()) for name in _INDEXED if _hashable(fields.get(name))]
    asked = sorted((each for ready in (*near, compiled.rest) for each in ready), key=lambda ready: ready.place)
    return next((ready.rule for ready in asked if _matches(ready, fields, severity)), None)


def matches(rule: Rule, fields: Mapping[str, Any], severity: str) -> bool:
    """Return whether one rule answers an incident."""
    return first_match(compile([rule], [rule.runbook]), fields, severity) is not None


def expression(text: str) -> Any:
    """Return an expression compiled by RE2; ValueError when it is too long, too large, or none."""
    if len(text) > MAX_EXPRESSION:
        raise ValueError(f"the expression is longer than {MAX_EXPRESSION} characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _EXPRESSION_MEMORY
    try:
        return re2.compile(text, options)
    except re2.error as error:
        raise ValueError(f"no expression of RE2: {_said(error)}") from error


def _said(error: Exception) -> str:
    told = error.args[0] if error.args else ""
    return told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)


def _matches(ready: _Ready, fields: Mapping[str, Any], severity: str) -> bool:
    if ready.rule.severities and severity not in ready.rule.severities:
        return False
    return all(_holds(path, test, fields) for path, test in ready.tests)


def _holds(path: tuple[str, ...], test: Callable[[Any], bool], fields: Any) -> bool:
    found = fields
    for part in path:
        if not isinstance(found, Mapping) or found.get(part) is None:
            return False
        found = found[part]
    return test(found)


def _keys(rule: Rule) -> list[tuple[str, Any]]:
    """Return the index entries of a rule: of its first `eq` or `in` on an indexed field; none where it has no such."""
    for name in _INDEXED:
        for condition in rule.conditions:
            if condition.field == name and condition.operator in ("eq", "in"):
                values = condition.value if isinstance(condition.value, tuple) else (condition.value,)
                return [(name, value) for value in dict.fromkeys(values)]
    return []


def _ready(condition: Condition) -> tuple[tuple[str, ...], Callable[[Any], bool]]:
    value = expression(str(condition.value)) if condition.operator == "regex" else condition.value
    return tuple(condition.field.split(".")), partial(_ASKS[condition.operator], value)


def _same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and bool(left == right)  # true is not 1


def _contains(wanted: str, found: Any) -> bool:
    if isinstance(found, (list, tuple)):
        return any(_same(each, wanted) for each in found)
    return isinstance(found, str) and wanted in found


def _found(pattern: Any, found: Any) -> bool:
    return isinstance(found, str) and pattern.search(found[:MAX_TEXT]) is not None


def _is_number(value: Any) -> bool:
    return type(value) is int


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, int))


def _hashable(value: Any) -> bool:
    return isinstance(value, str)


_TAKES: dict[str, Callable[[Any], bool]] = {
    "eq": _is_scalar,
    "ne": _is_scalar,
    "contains": lambda value: isinstance(value, str),
    "regex": lambda value: isinstance(value, str),
    "gt": _is_number,
    "lt": _is_number,
    "in": lambda value: isinstance(value, tuple),
    "not_in": lambda value: isinstance(value, tuple),
    "exists": lambda value: value is True,
}
_ASKS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda value, found: _same(found, value),
    "ne": lambda value, found: _is_scalar(found) and not _same(found, value),
    "contains": _contains,
    "regex": _found,
    "gt": lambda value, found: _is_number(found) and found > value,
    "lt": lambda value, found: _is_number(found) and found < value,
    "in": lambda value, found: any(_same(found, each) for each in value),
    "not_in": lambda value, found: _is_scalar(found) and not any(_same(found, each) for each in value),
    "exists": lambda _value, _found: True,
}


def _built_in(name: str, drift: str, runbook: str, **parameters: ParameterValue) -> Rule:
    service = parameters.get("unit")
    about = [Condition("incident_type", "eq", drift)]
    if service is not None:
        about.append(Condition("service_name", "eq", service))
    return Rule(f"built-in-{name}", name.replace("-", " "), 100, tuple(about), runbook, parameters)


_ANTIVIRUS_UNITS = (
    "clamav-daemon.service",
    "clamd@scan.service",
    "falcon-sensor.service",
    "mdatp.service",
    "sophos-spl.service",
)
_LOGGING_UNITS = ("systemd-journald.service", "rsyslog.service", "auditd.service")

BUILT_IN: tuple[Rule, ...] = (
    _built_in("updates-pending", "updates_pending", "apply-security-updates"),
    _built_in("updates-stale", "updates_stale", "apply-all-updates"),
    *(
        _built_in(f"antivirus-inactive-{number}", "antivirus_inactive", "start-antivirus", unit=unit)
        for number, unit in enumerate(_ANTIVIRUS_UNITS, 1)
    ),
    _built_in("signatures-stale", "signatures_stale", "refresh-antivirus-signatures"),
    _built_in("backup-missing", "backup_missing", "run-backup"),
    _built_in("backup-stale", "backup_stale", "run-backup"),
    _built_in("backup-without-checksum", "backup_without_checksum", "run-backup"),
    *(
        _built_in(f"logging-inactive-{number}", "logging_inactive", "start-logging", unit=unit)
        for number, unit in enumerate(_LOGGING_UNITS, 1)
    ),
    _built_in("log-volume-full", "log_volume_full", "rotate-logs"),
    _built_in("firewall-absent", "firewall_absent", "load-firewall-baseline"),
    _built_in("firewall-changed", "firewall_changed", "load-firewall-baseline"),
)
