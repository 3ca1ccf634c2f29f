"""What is shown once and then only known by its hash: API keys and enrolment codes, by the API and on pages alike."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from ccserver.auth import Principal
from ccserver.errors import ForbiddenError, NotFoundError
from ccserver.queries import api_keys, appliances, audit_log, enrollment_codes
from ccserver.queries.api_keys import ApiKey, NewKey
from ccserver.queries.audit_log import Act
from ccserver.queries.enrollment_codes import CodeDetail
from ccserver.scope import PartnerScope, SiteScope
from ccshared import ids
from ccshared.canonical import Json
from ccshared.purposes import EnrolmentCode
from ccshared.vocabulary import Role

MAX_KEY_DAYS = 366
MAX_CODE_HOURS = 30 * 24


class KeyRole(StrEnum):
    """What a partner's key may be; an auditor is a person."""

    OWNER = Role.OWNER.value
    TECHNICIAN = Role.TECHNICIAN.value
    VIEWER = Role.VIEWER.value


@dataclass(frozen=True)
class WantedKey:
    """A key to be: what it is called, what it may do, and for how long."""

    name: str
    role: str
    days: int


@dataclass(frozen=True)
class WantedCode:
    """A code to be: for how long, and the appliance in service whose place its device takes, if it does."""

    hours: int
    replaces: str | None


def check_is_person(who: Principal) -> None:
    """Raise ForbiddenError unless a person asks: a key that made keys would never expire."""
    if who.user is None:
        raise ForbiddenError("An API key makes no further keys: sign in for that, or use the command line.")


async def keep_key(scope: PartnerScope, actor: str, wanted: WantedKey, key_hash: str) -> ApiKey:
    """Keep a new key by its hash."""
    expires = datetime.now(UTC) + timedelta(days=wanted.days)
    new = NewKey(ids.new_id(), key_hash, wanted.name, wanted.role, actor, expires)
    made = await api_keys.insert(scope, scope.partner_id, new)
    detail: dict[str, Json] = {"name": wanted.name, "role": str(wanted.role), "days": wanted.days}
    await audit_log.append(scope, Act(actor, "api_key.create", f"key:{new.id}", detail))
    return made


async def keep_code(scope: SiteScope, actor: str, wanted: WantedCode, code: EnrolmentCode) -> CodeDetail:
    """Keep a new code of the scope's site by its secret's hash; NotFoundError without the appliance it replaces."""
    if wanted.replaces is not None and not await appliances.is_in_service(scope, wanted.replaces):
        raise NotFoundError(f"There is no appliance {wanted.replaces} in service at this site.")
    until = datetime.now(UTC) + timedelta(hours=wanted.hours)
    await enrollment_codes.insert(scope, code.secret_hash, until, actor, wanted.replaces)
    made = await enrollment_codes.find(scope, code.secret_hash[:32])
    assert made is not None  # noqa: S101  inserted just above
    await audit_log.append(scope, Act(actor, "code.create", made.id, {}))
    return made
