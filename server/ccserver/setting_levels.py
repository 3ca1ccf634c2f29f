"""Settings at their levels: which places count for which tenant, and which value wins: the nearest, or the default.

A value that prevails, as a stop does, wins from any level.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ccserver.errors import BadBodyError, ChangedMeanwhileError, SettingUnknownError
from ccserver.queries import audit_log
from ccserver.queries import settings as queries
from ccserver.queries.audit_log import Act
from ccserver.queries.settings import Change, Made, Place
from ccserver.scope import PLATFORM, PartnerScope, SiteScope
from ccshared import settings
from ccshared.settings import CATALOGUE, BadSettingError, Setting, UnknownSettingError, Value
from ccshared.vocabulary import SettingLevel

DEFAULT = "default"
OF_PLATFORM = Place(SettingLevel.PLATFORM, PLATFORM)
_LEVELS = (SettingLevel.PARTNER, SettingLevel.SITE, SettingLevel.APPLIANCE)


@dataclass(frozen=True)
class Effective:
    """A setting at a place: the value that counts and the level it comes from (`default` where nobody made it).

    `own` is what was made at this very place, None where nothing was; `setting` says what it takes.
    """

    setting: Setting
    value: Value
    origin: str
    own: Made | None

    @property
    def revision(self) -> int:
        """What If-Match names: 0 while nothing is made at this place."""
        return self.own.revision if self.own else 0


def known(name: str) -> Setting:
    """Return the setting of this name; SettingUnknownError names those that there are."""
    try:
        return settings.find(name)
    except UnknownSettingError as error:
        raise SettingUnknownError(str(error)) from error


def checked(setting: Setting, value: object) -> Value:
    """Return a value that the setting takes; BadBodyError says which it takes."""
    try:
        return setting.check(value)
    except BadSettingError as error:
        raise BadBodyError(str(error)) from error


def typed(setting: Setting, text: str) -> Value:
    """Return the value that a person typed; BadBodyError says which the setting takes."""
    try:
        return setting.typed(text)
    except BadSettingError as error:
        raise BadBodyError(str(error)) from error


def places(*tenant: str) -> tuple[Place, ...]:
    """Return the places that count, from far to near, for a partner, its site, and the site's appliance, as given."""
    return (OF_PLATFORM, *(Place(level, each) for level, each in zip(_LEVELS, tenant, strict=False)))


def target(place: Place, setting: Setting) -> str:
    """Return how the audit log names a setting at a place."""
    return f"setting:{place.level}:{place.target_id}:{setting.name}"


async def make(scope: PartnerScope | SiteScope, place: Place, change: Change) -> Made:
    """Make a setting at a place, and write down who did; ChangedMeanwhileError when it is not at that revision."""
    made = await queries.make(scope, place, change)
    if made is None:
        raise ChangedMeanwhileError
    done = Act(change.actor, "setting.make", target(place, known(change.name)), {"value": change.value})
    await audit_log.append(scope, done)
    return made


async def unmake(scope: PartnerScope | SiteScope, place: Place, setting: Setting, revision: int, actor: str) -> None:
    """Unmake a setting at a place, and write down who did; ChangedMeanwhileError as for `make`."""
    if not await queries.unmake(scope, place, setting.name, revision):
        raise ChangedMeanwhileError
    await audit_log.append(scope, Act(actor, "setting.unmake", target(place, setting), {}))


def effective(counting: Sequence[Place], made: Iterable[Made]) -> list[Effective]:
    """Return every setting of the catalogue by name, as it is at the last of the places, which go from far to near."""
    by_place = {(each.level, each.target_id, each.name): each for each in made}
    return [_one(setting, counting, by_place) for _, setting in sorted(CATALOGUE.items())]


def values(counting: Sequence[Place], made: Iterable[Made]) -> dict[str, Value]:
    """Return the value of every setting by its name, as it counts at the last of the places."""
    return {each.setting.name: each.value for each in effective(counting, made)}


def _one(setting: Setting, counting: Sequence[Place], made: dict[tuple[str, str, str], Made]) -> Effective:
    found = [made.get((str(place.level), place.target_id, setting.name)) for place in counting]
    counts = _prevailing(setting, found) or next((each for each in reversed(found) if each is not None), None)
    if counts is None:
        return Effective(setting, setting.default, DEFAULT, None)
    return Effective(setting, counts.value, counts.level, found[-1])


def _prevailing(setting: Setting, found: Sequence[Made | None]) -> Made | None:
    """Return where the value is made that no nearer level undoes, the farthest first."""
    return next((each for each in found if each and setting.prevails and each.value == setting.prevails), None)
