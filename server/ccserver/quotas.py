"""Bounds on what one appliance may store, so that none fills the disk that all share. Who meets one waits.

No honest appliance meets them in practice: the first allowance is what its own store may hold at most, and a new log
follows a reinstallation, a damaged disk or a clone, not every hour. Waiting is the whole remedy: nothing is dropped.
"""

from ccserver.context import Context
from ccserver.errors import QuotaError
from ccserver.queries import appliance_quotas, evidence_logs
from ccserver.scope import ApplianceScope

LOGS_A_DAY = 64
LOGS = 10_000
_LINE_BYTES = 200  # what a row takes beside its payload
_MIB = 1024 * 1024
_DAY_S = 24 * 3600
_MAX_WAIT_S = 3600


async def spend(context: Context, scope: ApplianceScope, lines: int, size: int) -> None:
    """Count what is about to be stored, `size` bytes in so many lines; QuotaError when it is too much for now."""
    allowed = context.config.appliance_quota_mib * _MIB
    per_second = allowed / 8 / _DAY_S
    spent = await appliance_quotas.spend(scope, size + lines * _LINE_BYTES, per_second)
    if spent > allowed:
        wait = min(int((spent - allowed) / per_second) + 1, _MAX_WAIT_S)
        raise QuotaError(
            f"This appliance stored {context.config.appliance_quota_mib} MiB lately: wait.", retry_after_s=wait
        )


async def open_log(scope: ApplianceScope) -> None:
    """Let one more log begin; QuotaError when the appliance began too many."""
    today, ever = await evidence_logs.opened(scope)
    if today > LOGS_A_DAY:
        raise QuotaError(f"This appliance began {LOGS_A_DAY} logs within a day: wait.", retry_after_s=_MAX_WAIT_S)
    if ever > LOGS:
        raise QuotaError(
            f"This appliance has {LOGS} logs: enrol it anew with a code that names no other.", retry_after_s=_MAX_WAIT_S
        )
