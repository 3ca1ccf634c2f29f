"""The policy of an appliance as it is signed: whether it heals, when it may disrupt, its settings, rules, runbooks."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from ccshared import orders, rules, runbooks, strict
from ccshared.envelope import PayloadType
from ccshared.messages import Id, Milliseconds
from ccshared.rules import Rule
from ccshared.runbooks import Runbook

Value = int | str
T = TypeVar("T")

MAX_BYTES = 256 * 1024  # of its canonical JSON, as of everything that is signed here
MAX_RULES = 2000
_DAY_MINUTES = 24 * 60


class BadPolicyError(ValueError):
    """The envelope holds no policy: another key, another purpose, or members of another type."""


@dataclass(frozen=True, config=strict.EXACT)
class Window:
    """When disruptive runbooks may run: from a minute of these days (0 is Monday, UTC), for so many minutes."""

    days: Annotated[tuple[Annotated[int, Field(ge=0, le=6)], ...], Field(max_length=7)]
    from_minute: Annotated[int, Field(ge=0, lt=_DAY_MINUTES)]
    minutes: Annotated[int, Field(ge=0, le=_DAY_MINUTES)]


ALWAYS = Window((0, 1, 2, 3, 4, 5, 6), 0, _DAY_MINUTES)
Setting = tuple[Annotated[str, Field(pattern=r"^[a-z0-9_.]{1,128}$")], Value]


@dataclass(frozen=True, config=strict.WIDENING)
class _Signed:
    site: Id
    appliance: Id
    version: Milliseconds
    mode: Literal["heal", "observe", "stop"]
    window: Window | None
    canary: bool
    settings: Annotated[tuple[Setting, ...], Field(max_length=500)]
    rules: Annotated[tuple[dict[str, Any], ...], Field(max_length=MAX_RULES)]
    runbooks: Annotated[tuple[dict[str, Any], ...], Field(max_length=200)]
    v: strict.One = 1


_SIGNED = TypeAdapter(_Signed)


@dataclass(frozen=True, config=strict.EXACT)
class Policy:
    """What was signed; `version` is its issue time in ms since 1970. `window` None: disruptive runbooks wait.

    `refused` says which rules and runbooks are left out because they cannot be read here: what is one release ahead
    in one of them must not keep the stop switch from being heard. It is never signed.
    """

    site: str
    appliance: str
    version: int
    mode: Literal["heal", "observe", "stop"]
    window: Window | None
    canary: bool
    settings: Mapping[str, Value]
    rules: tuple[Rule, ...]
    runbooks: tuple[Runbook, ...]
    refused: tuple[str, ...] = field(default=(), compare=False)


def make(policy: Policy) -> dict[str, Any]:
    """Return what is signed of a policy; settings are pairs, because their names hold dots."""
    return strict.write(
        _SIGNED,
        _Signed(
            site=policy.site,
            appliance=policy.appliance,
            version=policy.version,
            mode=policy.mode,
            window=policy.window,
            canary=policy.canary,
            settings=tuple(sorted(policy.settings.items())),
            rules=tuple(rules.to_dict(rule) for rule in policy.rules),
            runbooks=tuple(runbooks.to_dict(runbook) for runbook in policy.runbooks),
        ),
    )


def read(envelope_json: Any, order_keys: Iterable[bytes]) -> Policy:
    """Return the policy inside an envelope that one of the raw order keys signed; BadPolicyError otherwise."""
    value = orders.open_by_any(envelope_json, PayloadType.POLICY, order_keys, BadPolicyError)
    try:
        signed = strict.read(_SIGNED, value)
    except ValueError as error:
        raise BadPolicyError(str(error)) from error
    kept_runbooks, bad_runbooks = _each(signed.runbooks, runbooks.from_dict, "runbook")
    kept_rules, bad_rules = _each(signed.rules, rules.from_dict, "rule")
    plain = {name: getattr(signed, name) for name in ("site", "appliance", "version", "mode", "window", "canary")}
    return Policy(
        **plain,
        settings=dict(signed.settings),
        rules=kept_rules,
        runbooks=kept_runbooks,
        refused=(*bad_runbooks, *bad_rules),
    )


def window_open(policy: Policy, at_ms: int) -> bool:
    """Return whether disruptive runbooks may run at this time (ms since 1970); a window may reach past midnight."""
    window = policy.window
    if window is None:
        return False
    minutes, day = at_ms // 60_000 % _DAY_MINUTES, (at_ms // 86_400_000 + 3) % 7  # 1970 began on a Thursday
    into_today, into_yesterdays = minutes - window.from_minute, minutes + _DAY_MINUTES - window.from_minute
    today = day in window.days and 0 <= into_today < window.minutes
    return today or ((day - 1) % 7 in window.days and into_yesterdays < window.minutes)


def runbook(policy: Policy, runbook_id: str) -> Runbook | None:
    """Return the policy's runbook of this id."""
    return next((each for each in policy.runbooks if each.id == runbook_id), None)


def _each(values: Iterable[dict[str, Any]], parse: Callable[[Any], T], what: str) -> tuple[tuple[T, ...], list[str]]:
    kept, bad = [], []
    for value in values:
        try:
            kept.append(parse(value))
        except ValueError as error:
            bad.append(f"{what} {str(value.get('id'))[:64]}: {error}")
    return tuple(kept), bad
