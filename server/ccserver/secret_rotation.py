"""Every secret of the server made anew: after a compromise, or because it is time.

The key file comes first: from then on every running process seals and signs by the new keys and still opens what the
former ones sealed, so it does not matter where a rotation is interrupted: the next one carries on.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ccserver import sealing
from ccserver.errors import SealBrokenError
from ccserver.keys import SEAL_PURPOSE, ServerKeys
from ccserver.queries import audit_log, secrets
from ccserver.queries.audit_log import Act
from ccserver.queries.secrets import Sealed, Voided
from ccserver.scope import PlatformScope
from ccserver.sealing import Place


@dataclass(frozen=True)
class Rotated:
    """What was done: seals made again, those that opened with no key (they were lost before), credentials voided."""

    resealed: int
    unopened: list[str]
    voided: Voided


@dataclass(frozen=True)
class _Column:
    """A column of sealed values."""

    table: str
    column: str
    read: Callable[[PlatformScope], Awaitable[list[Sealed]]]
    write: Callable[[PlatformScope, list[Sealed]], Awaitable[None]]


_COLUMNS = (
    _Column("users", "totp_sealed", secrets.totp_seals, secrets.reseal_totp),
    _Column("notification_channels", "target_sealed", secrets.target_seals, secrets.reseal_targets),
)


async def renew(scope: PlatformScope, keys: ServerKeys, actor: str) -> Rotated:
    """Seal what is sealed under the keys' newest, and void every credential; the caller's transaction keeps it."""
    resealed, unopened = 0, list[str]()
    for column in _COLUMNS:
        made, lost = _reseal(keys.derive_all(SEAL_PURPOSE), column, await column.read(scope))
        await column.write(scope, made)
        resealed += len(made)
        unopened += lost
    voided = await secrets.void(scope)
    detail: dict[str, int | str] = {"resealed": resealed, "unopened": len(unopened), **vars(voided)}
    await audit_log.append(scope, Act(actor, "secrets.rotate", keys.server, {**detail}))
    return Rotated(resealed, unopened, voided)


def _reseal(keys: Sequence[bytes], column: _Column, rows: list[Sealed]) -> tuple[list[Sealed], list[str]]:
    made: list[Sealed] = []
    lost: list[str] = []
    for row in rows:
        place = Place(column.table, column.column, f"{row.partner_id}/{row.id}")
        try:
            plain = sealing.unseal(keys, place, row.sealed)
        except SealBrokenError:
            lost.append(f"{column.table} {row.partner_id}/{row.id}")
        else:
            made.append(Sealed(row.partner_id, row.id, sealing.seal(keys[0], place, plain)))
    return made, lost
