"""Second factors: set up by who is signed in, confirmed by a first code, then asked for at every sign-in."""

import time

from ccserver import sealing, totp
from ccserver.context import Context
from ccserver.queries import audit_log, recovery_codes, users
from ccserver.queries.audit_log import Act
from ccserver.queries.users import Factors, User
from ccserver.scope import PartnerScope
from ccserver.sealing import Place


async def begin(context: Context, user: User) -> bytes | None:
    """Return a new secret, kept sealed until a code confirms it; None for whoever has a confirmed one."""
    secret = totp.new_secret()
    sealed = sealing.seal(context.seal_key, _place(user), secret)
    async with context.db.partner(user.partner_id) as scope:
        return secret if await users.offer_totp(scope, user.id, sealed) else None


async def confirm(context: Context, user: User, given: str) -> list[str] | None:
    """Return ten recovery codes, shown this once, after a right first code; every session of the person ends."""
    async with context.db.partner(user.partner_id) as scope:
        factors = await users.factors(scope, user.id)
        if factors is None or factors.totp_sealed is None or factors.totp_confirmed:
            return None
        step = _matching(context, factors, factors.totp_sealed, given)
        if step is None or not await users.confirm_totp(scope, user.id, factors.totp_sealed, step):
            return None
        return await _new_recovery_codes(scope, user, "second_factor.confirm")


async def passes(context: Context, scope: PartnerScope, factors: Factors, given: str) -> bool:
    """Return whether a code is the person's, by time or for recovery.

    Either is good once, and ends a row of failures.
    """
    if factors.totp_sealed is None or not factors.totp_confirmed:
        return False
    step = _matching(context, factors, factors.totp_sealed, given)
    if step is not None:
        return await users.use_totp_step(scope, factors.user.id, step)
    code_hash = totp.recovery_hash(factors.user.id, given)
    return await recovery_codes.use(scope, factors.user.id, code_hash) and await users.forgive(scope, factors.user.id)


async def renew_recovery_codes(context: Context, user: User) -> list[str]:
    """Return ten new recovery codes, shown this once; the old ones are void."""
    async with context.db.partner(user.partner_id) as scope:
        return await _new_recovery_codes(scope, user, "second_factor.recovery_codes")


async def _new_recovery_codes(scope: PartnerScope, user: User, action: str) -> list[str]:
    codes = totp.new_recovery_codes()
    await recovery_codes.replace(scope, user.id, [totp.recovery_hash(user.id, code) for code in codes])
    await audit_log.append(scope, Act(f"user:{user.login}", action, f"user:{user.id}", {}))
    return codes


def _matching(context: Context, factors: Factors, sealed: bytes, given: str) -> int | None:
    secret = sealing.unseal(context.unseal_keys, _place(factors.user), sealed)
    return totp.matching_step(secret, given, time.time(), factors.totp_last_step)


def _place(user: User) -> Place:
    return Place("users", "totp_sealed", f"{user.partner_id}/{user.id}")
