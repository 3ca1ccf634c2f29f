"""One-time links by which an invited person, or one who lost a credential, chooses a password."""

import asyncio
import hashlib
import re
import secrets
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from ccserver import auth
from ccserver.context import Context
from ccserver.errors import LinkSpentError
from ccserver.queries import audit_log, invitations, user_sites, users
from ccserver.queries.audit_log import Act
from ccserver.queries.invitations import Invitation
from ccserver.queries.users import User
from ccserver.scope import PartnerScope
from ccshared.canonical import Json
from ccshared.vocabulary import Purpose, Role

LINK_HOURS = 72
_TOKEN = re.compile(r"[0-9A-Za-z_-]{43}")
Login = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x20\x7f]+$", min_length=1, max_length=200), AfterValidator(str.lower)
]


class PartnerRole(StrEnum):
    """What a person of a partner may be."""

    OWNER = Role.OWNER.value
    TECHNICIAN = Role.TECHNICIAN.value
    VIEWER = Role.VIEWER.value
    AUDITOR = Role.AUDITOR.value


async def invite(scope: PartnerScope, actor: str, user: User, site_ids: list[str], token: str | None = None) -> str:
    """Add a person without a password, an auditor with the sites to read; return the token of their one-time link.

    `token` is one to be used (43 characters of base64url that nobody guesses), else a new one is made.
    """
    await users.insert(scope, user, None)
    await user_sites.assign(scope, user.id, site_ids)
    token = await _new_link(scope, user, Purpose.INVITATION, token)
    detail: dict[str, Json] = {"login": user.login, "role": user.role, "sites": [*site_ids]}
    await audit_log.append(scope, Act(actor, "user.invite", f"user:{user.id}", detail))
    return token


async def reset(scope: PartnerScope, actor: str, user: User, *, second_factor: bool) -> str:
    """Return the token of a one-time link to choose another password; the present one works until then.

    With `second_factor` the authenticator and recovery codes are void at once, and the person's sessions end.
    """
    if second_factor:
        await users.drop_second_factor(scope, user.id)
    token = await _new_link(scope, user, Purpose.RESET)
    await audit_log.append(scope, Act(actor, "user.reset", f"user:{user.id}", {"second_factor": second_factor}))
    return token


async def find(context: Context, token: str) -> Invitation:
    """Return whose link this is; LinkSpentError when it was used, has expired or never was."""
    if not _TOKEN.fullmatch(token):
        raise LinkSpentError
    async with context.db.credential(_hash(token)) as scope:
        found = await invitations.find_by_credential(scope, _hash(token))
    if found is None:
        raise LinkSpentError
    return found


async def accept(context: Context, token: str, password: str) -> None:
    """Give the link's person this password, and end all their sessions; LinkSpentError for a link that is not good."""
    found = await find(context, token)
    async with context.passwords:
        password_hash = await asyncio.to_thread(auth.hash_password, password)
    async with context.db.partner(found.partner_id) as scope:
        user = await users.find(scope, found.user_id)
        if user is None or not await invitations.use(scope, _hash(token)):
            raise LinkSpentError
        await users.set_password(scope, user.id, password_hash)
        await audit_log.append(scope, Act(f"user:{user.login}", "password.choose", f"user:{user.id}", {}))


async def _new_link(scope: PartnerScope, user: User, purpose: Purpose, token: str | None = None) -> str:
    token = token or secrets.token_urlsafe(32)
    expires = datetime.now(UTC) + timedelta(hours=LINK_HOURS)
    await invitations.replace(scope, user.id, _hash(token), purpose, expires)
    return token


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
