"""Versions of a policy: what each says, how two differ, and settings as of an old one made again."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from ccserver import setting_levels
from ccserver.errors import ChangedMeanwhileError, NotFoundError
from ccserver.queries import audit_log, policies, settings
from ccserver.queries.audit_log import Act
from ccserver.queries.settings import Change
from ccserver.scope import SiteScope
from ccserver.setting_levels import Effective
from ccshared.canonical import Json
from ccshared.settings import CATALOGUE, BadSettingError, Value

NOTHING: dict[str, Any] = {"settings": [], "rules": [], "runbooks": []}  # before the first


@dataclass(frozen=True)
class Difference:
    """A part of a policy that differs: a name, and what it says in either; None where it is not there."""

    part: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Foreseen:
    """A setting that going back to a version makes: what counts now, from which level, and what then would."""

    name: str
    now: Value
    origin: str
    revision: int
    then: Value


@dataclass(frozen=True)
class Restored:
    """A setting that was made again at the appliance's level."""

    name: str
    value: Value


async def content(scope: SiteScope, appliance_id: str, version: int) -> dict[str, Any]:
    """Return what a version says; NotFoundError when there is none."""
    envelope = await policies.envelope(scope, appliance_id, version)
    if envelope is None:
        raise NotFoundError
    return _said(envelope)


def _said(envelope: bytes) -> dict[str, Any]:
    said: dict[str, Any] = orjson.loads(base64.b64decode(orjson.loads(envelope)["payload"]))
    return said


async def compare(scope: SiteScope, appliance_id: str, version: int, against: int | None) -> list[Difference]:
    """Return what differs between a version and another, or the one before it; NotFoundError where one is not there."""
    after = await content(scope, appliance_id, version)
    other = await policies.before(scope, appliance_id, version) if against is None else against
    return differences(await content(scope, appliance_id, other) if other is not None else NOTHING, after)


@dataclass(frozen=True)
class Compared:
    """A version of an appliance's policy beside another, or beside nothing where it is the first."""

    hostname: str
    said: dict[str, Any]
    differences: list[Difference]


async def read_beside(scope: SiteScope, appliance_id: str, version: int, against: int | None) -> Compared:
    """Return a version and what differs from another, or from the one before it, in one statement; NotFoundError."""
    found = await policies.beside(scope, appliance_id, version, against)
    if found is None or (against is not None and found[2] is None):
        raise NotFoundError
    said, other = _said(found[1]), _said(found[2]) if found[2] is not None else NOTHING
    return Compared(found[0], said, differences(other, said))


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return what differs between two policies, by the names of the parts."""
    old, new = _parts(before), _parts(after)
    names = sorted(old.keys() | new.keys())
    return [Difference(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _parts(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy by its parts: each setting, rule and runbook is one."""
    parts = {name: said.get(name) for name in ("mode", "window", "canary")}
    parts |= {f"settings.{name}": value for name, value in said["settings"]}
    parts |= {f"rules.{rule['id']}": rule for rule in said["rules"]}
    return parts | {f"runbooks.{runbook['id']}": runbook for runbook in said["runbooks"]}


def settings_of(said: Mapping[str, Any]) -> dict[str, Value]:
    """Return the settings that a policy was made from, as far as they are known and taken today."""
    window = said["window"]
    found: dict[str, Value] = dict(said["settings"]) | {"healing.mode": said["mode"]}
    found["healing.window_days"] = "".join(map(str, window["days"])) if window else ""
    if window:
        found |= {"healing.window_from_minute": window["from_minute"], "healing.window_minutes": window["minutes"]}
    return {name: value for name, value in found.items() if _is_taken(name, value)}


def _is_taken(name: str, value: Any) -> bool:
    try:
        return name in CATALOGUE and CATALOGUE[name].check(value) == value
    except BadSettingError:
        return False


async def foresee(scope: SiteScope, appliance_id: str, said: Mapping[str, Any]) -> list[Foreseen]:
    """Return which settings would be made at the appliance's level, if those of what a version said were made again."""
    wanted = settings_of(said)
    places = setting_levels.places(scope.partner_id, scope.site_id, appliance_id)
    counting = setting_levels.effective(places, await settings.counting(scope, places))
    return [
        _foreseen(each, wanted[each.setting.name])
        for each in counting
        if each.setting.name in wanted and each.value != wanted[each.setting.name]
    ]


def _foreseen(now: Effective, then: Value) -> Foreseen:
    return Foreseen(now.setting.name, now.value, now.origin, now.revision, then)


def mark(foreseen: Sequence[Foreseen]) -> str:
    """Return by what a page proves that it showed this, and nothing that has changed since: 64 hex."""
    return hashlib.sha256(orjson.dumps([asdict(each) for each in foreseen])).hexdigest()


async def restore(
    scope: SiteScope, appliance_id: str, version: int, actor: str, shown: str | None = None
) -> list[Restored]:
    """Make the settings of a version again, at the appliance's level, where others count now; return which.

    What stops healing at a level above still stops it. `shown` is the mark of what somebody was shown:
    ChangedMeanwhileError where something else would be made by now.
    """
    wanted = await foresee(scope, appliance_id, await content(scope, appliance_id, version))
    if shown is not None and shown != mark(wanted):
        raise ChangedMeanwhileError
    place = setting_levels.places(scope.partner_id, scope.site_id, appliance_id)[-1]
    made = [await _make(scope, place, each, actor) for each in wanted]
    if made:
        detail: dict[str, Json] = {"version": version, "settings": [each.name for each in made]}
        await audit_log.append(scope, Act(actor, "policy.restore", appliance_id, detail))
    return made


async def _make(scope: SiteScope, place: settings.Place, wanted: Foreseen, actor: str) -> Restored:
    if await settings.make(scope, place, Change(wanted.name, wanted.then, wanted.revision, actor)) is None:
        raise ChangedMeanwhileError
    return Restored(wanted.name, wanted.then)
