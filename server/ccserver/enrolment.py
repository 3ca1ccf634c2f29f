"""A new device becomes an appliance: code checked, key proved, identity given, all in one transaction."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from typing import Any

from ccserver.context import Context
from ccserver.errors import CodeExpiredError, CodeUnknownError, CodeUsedError, NotFoundError, ProofInvalidError
from ccserver.keys import ServerKeys
from ccserver.queries import appliances, enrollment_codes
from ccserver.queries.enrollment_codes import Code
from ccserver.scope import SiteScope
from ccshared import ed25519, envelope, ids, purposes
from ccshared.messages import Enrolled, EnrollRequest

CODE_HOURS = 24


async def make_code(
    scope: SiteScope, keys: ServerKeys, hours: int = CODE_HOURS, replaces: str | None = None
) -> purposes.EnrolmentCode:
    """Return a new one-time code for the scope's site, good for `hours`; only its secret's hash is stored.

    `replaces` is the appliance of this site that the device becomes: same id, another key. NotFoundError when there is
    none, or it was revoked.
    """
    code = code_of(keys, purposes.new_secret())
    if replaces is not None and not await appliances.is_in_service(scope, replaces):
        raise NotFoundError(f"There is no appliance {replaces} in service at this site.")
    until = datetime.now(UTC) + timedelta(hours=hours)
    await enrollment_codes.insert(scope, code.secret_hash, until, replaces=replaces)
    return code


def code_of(keys: ServerKeys, secret: str) -> purposes.EnrolmentCode:
    """Return the code that carries a secret: with this server's name and its order key's fingerprint."""
    return purposes.EnrolmentCode(keys.server, keys.order_fingerprint, secret)


def repeatable_secret(keys: ServerKeys, place: str) -> str:
    """Return a place's secret (192 bits, base64url), the same each time: to be said again it need not be stored."""
    made = hmac.digest(keys.derive("cc enrolment code v1"), place.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(made[:24]).decode()


async def enroll(context: Context, asked: EnrollRequest) -> dict[str, Any]:
    """Return the signed answer to an enrolment; the same code with the same key again gets the same answer.

    Raises ProofInvalidError, CodeUnknownError, CodeUsedError or CodeExpiredError.
    """
    public_key = bytes.fromhex(asked.public_key)
    code_hash = purposes.secret_hash(asked.secret)
    _check_proof(context.keys.server, code_hash, public_key, bytes.fromhex(asked.proof))
    async with context.db.credential(code_hash) as credential:
        found = await enrollment_codes.find_by_credential(credential, code_hash)
    if found is None:
        raise CodeUnknownError
    async with context.db.site(found.partner_id, found.site_id) as scope:
        appliance_id = await _admit(scope, code_hash, asked, public_key)
    return _answer(context.keys, found, appliance_id, asked.public_key)


def _check_proof(server: str, code_hash: str, public_key: bytes, proof: bytes) -> None:
    try:
        ed25519.verify(public_key, purposes.enrolment(server, code_hash, public_key), proof)
    except (ed25519.BadKeyError, ed25519.BadSignatureError) as error:
        raise ProofInvalidError from error


async def _admit(scope: SiteScope, code_hash: str, asked: EnrollRequest, public_key: bytes) -> str:
    code = await enrollment_codes.lock(scope, code_hash)
    if code is None:
        raise CodeUnknownError
    if code.used_by_id is not None:
        if await appliances.public_key(scope, code.used_by_id) != public_key:
            raise CodeUsedError
        return code.used_by_id
    if code.expires_at <= datetime.now(UTC):
        raise CodeExpiredError
    appliance_id = await _become(scope, code.replaces_id, asked, public_key)
    if code.label is not None:
        await appliances.call(scope, appliance_id, code.label)
    await enrollment_codes.mark_used(scope, code_hash, appliance_id)
    return appliance_id


async def _become(scope: SiteScope, replaces: str | None, asked: EnrollRequest, public_key: bytes) -> str:
    """Return the appliance that the device is from now on: a new one, or the one that its code names."""
    if replaces is None:
        appliance_id = ids.new_id()
        await appliances.insert(scope, appliance_id, asked.hostname, public_key, asked.version)
        return appliance_id
    if not await appliances.reinstall(scope, replaces, asked.hostname, public_key, asked.version):
        raise CodeUnknownError("The appliance that this code replaces was revoked: ask for a new code.")
    return replaces


def _answer(keys: ServerKeys, code: Code, appliance_id: str, public_key: str) -> dict[str, Any]:
    answer = Enrolled(
        server=keys.server,
        site_id=code.site_id,
        appliance_id=appliance_id,
        public_key=public_key,
        keys=keys.public,
    )
    return keys.envelope(envelope.PayloadType.ENROLMENT, answer.model_dump(mode="json"))
