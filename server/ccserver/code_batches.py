"""Many enrolment codes at once, for sites of one partner or of several: all are made, or none."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ccserver import enrolment
from ccserver.errors import BadBodyError
from ccserver.keys import ServerKeys
from ccserver.queries import audit_log, enrollment_codes, sites
from ccserver.queries.audit_log import Act
from ccserver.queries.enrollment_codes import Draft
from ccserver.scope import PartnerScope, PlatformScope
from ccshared import purposes

MAX_ROWS = 1000
MAX_CODES = 5000


@dataclass(frozen=True)
class Wanted:
    """One code that is wanted: `row` says where it was asked for, `name` what its appliance will be called."""

    row: str
    site_id: str
    name: str | None
    hours: int


@dataclass(frozen=True)
class CodeOfBatch:
    """A code that was made; `code` is what the appliance is given, and is said here only."""

    site_id: str
    name: str | None
    code: str
    expires_at: datetime


async def make(
    scope: PartnerScope | PlatformScope,
    keys: ServerKeys,
    wanted: Sequence[Wanted],
    actor: str,
    place: str | None = None,
) -> list[CodeOfBatch]:
    """Make the codes and write down how many for which site; BadBodyError names each row whose site is not there.

    The same `place` makes the same secrets; without one they are random.
    """
    if len(wanted) > MAX_CODES:
        raise BadBodyError(f"{len(wanted)} codes: at most {MAX_CODES} at once.")
    partners = await sites.partners_of(scope, sorted({each.site_id for each in wanted}))
    wrong = [f"{each.row}: there is no open site {each.site_id}" for each in wanted if each.site_id not in partners]
    if wrong:
        raise BadBodyError("; ".join(dict.fromkeys(wrong))[:4000] + ".")
    now = datetime.now(UTC)
    codes = _codes(keys, len(wanted), place)
    drafts = [
        Draft(each.site_id, partners[each.site_id], code.secret_hash, now + timedelta(hours=each.hours), each.name)
        for each, code in zip(wanted, codes, strict=True)
    ]
    await enrollment_codes.insert_many(scope, drafts, actor)
    for (partner_id, site_id), number in sorted(Counter((draft.partner_id, draft.site_id) for draft in drafts).items()):
        act = Act(actor, "code.create_many", f"site:{site_id}", {"codes": number})
        await audit_log.append(scope, act, partner_id)
    return _said(wanted, codes, [draft.expires_at for draft in drafts])


def again(keys: ServerKeys, wanted: Sequence[Wanted], until: Sequence[datetime], place: str) -> list[CodeOfBatch]:
    """Return what was made for this place before; `until` is when each code expires."""
    return _said(wanted, _codes(keys, len(wanted), place), until)


def _codes(keys: ServerKeys, number: int, place: str | None) -> list[purposes.EnrolmentCode]:
    secrets = (
        purposes.new_secret() if place is None else enrolment.repeatable_secret(keys, f"{place}\n{each}")
        for each in range(number)
    )
    return [enrolment.code_of(keys, secret) for secret in secrets]


def _said(
    wanted: Sequence[Wanted], codes: Sequence[purposes.EnrolmentCode], until: Sequence[datetime]
) -> list[CodeOfBatch]:
    return [
        CodeOfBatch(each.site_id, each.name, str(code), end)
        for each, code, end in zip(wanted, codes, until, strict=True)
    ]
