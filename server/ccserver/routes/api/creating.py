"""Creates that may be sent twice, and acts that are written down: what the handlers of the API share."""

import base64
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter
from starlette.requests import Request

from ccserver.auth import Principal
from ccserver.errors import BadQueryError, IdempotencyConflictError
from ccserver.keys import ServerKeys
from ccserver.queries import audit_log, idempotency_keys
from ccserver.queries.audit_log import Act
from ccserver.scope import PLATFORM, PartnerScope, PlatformScope, SiteScope
from ccshared.canonical import Json
from ccshared.messages import Message

Made = TypeVar("Made")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
AnyScope = PartnerScope | SiteScope | PlatformScope


@dataclass(frozen=True)
class Creation:
    """A create as it was asked for: `kind` is the type of what is made, kept as JSON for the same request again.

    `action` is how the audit log names it; None when what makes the thing writes that down itself.
    """

    request: Request
    asked: Message
    kind: Any
    action: str | None

    @property
    def key(self) -> str | None:
        """The caller's Idempotency-Key; BadQueryError when it cannot be one."""
        given = self.request.headers.get("idempotency-key")
        if given is not None and not _KEY.fullmatch(given):
            raise BadQueryError("Idempotency-Key: 1 to 255 printable characters without spaces.")
        return given

    def hashes(self, partner_id: str) -> tuple[str, str]:
        """Return what the key is known by for this list and partner, and what the request is compared by."""
        place = f"{self.request.method} {self.request.url.path}:{partner_id}"
        return _hash(f"{place}\n{self.key}"), _hash(f"{place}\n{self.asked.model_dump_json()}")


async def once(scope: AnyScope, creation: Creation, make: Callable[[], Awaitable[tuple[str, Made]]]) -> Made:
    """Make a thing and write down who did; the same Idempotency-Key and request again returns what was made then.

    `make` returns the thing with its id. IdempotencyConflictError when the key was used for another request.
    """
    if creation.key is None:
        target, made = await make()
        await _note(scope, creation, target)
        return made
    partner_id = PLATFORM if isinstance(scope, PlatformScope) else scope.partner_id
    key_hash, request_hash = creation.hashes(partner_id)
    adapter: TypeAdapter[Made] = TypeAdapter(creation.kind)
    before = await idempotency_keys.claim(scope, partner_id, key_hash, request_hash)
    if before is not None:
        if before.request_hash != request_hash:
            raise IdempotencyConflictError
        return adapter.validate_json(before.answer)
    target, made = await make()
    await idempotency_keys.keep(scope, partner_id, key_hash, 201, adapter.dump_json(made))
    await _note(scope, creation, target)
    return made


async def _note(scope: AnyScope, creation: Creation, target: str) -> None:
    if creation.action is not None:
        await note(scope, creation.request, creation.action, target)


def repeatable(keys: ServerKeys, creation: Creation, partner_id: str) -> str | None:
    """Return 43 characters of base64url, the same for the same Idempotency-Key and request; None without a key.

    What is shown once can so be shown again to who repeats a create, though nothing of it is stored.
    """
    if creation.key is None:
        return None
    place = "\n".join(creation.hashes(partner_id))
    made = hmac.digest(keys.derive("cc repeatable secret v1"), place.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(made).decode().rstrip("=")


async def note(scope: AnyScope, request: Request, action: str, target: str, **detail: Json) -> None:
    """Append to the audit log who did what to what: a transaction's last statement."""
    who: Principal = request.state.principal
    await audit_log.append(scope, Act(who.actor, action, target, detail))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
