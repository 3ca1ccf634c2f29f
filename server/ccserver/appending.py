"""Evidence arrives: one batch, one transaction, and a receipt only for what is committed."""

import time
from datetime import UTC, datetime

from ccserver import compliance, witness
from ccserver.context import Context
from ccserver.queries import (
    check_states,
    compliance_snapshots,
    equivocations,
    evidence_bundles,
    evidence_logs,
)
from ccserver.scope import ApplianceScope, widen
from ccserver.tokens import Device
from ccserver.witness import ForkError, Log, Step
from ccshared import notes
from ccshared.batch import Batch


async def append(context: Context, device: Device, epoch: str, batch: Batch) -> Log:
    """Store what is new of a batch and return the log's row as committed.

    Raises what `witness.examine` raises; a fork is recorded first, in a transaction of its own.
    """
    origin = str(notes.Origin(context.keys.server, device.appliance_id, epoch))
    try:
        async with context.db.appliance(device.site_id, device.appliance_id) as scope:
            log = await evidence_logs.lock(scope, epoch, origin)
            stored = await _stored_leaves(scope, log, batch)
            step = witness.examine(log, batch, stored, context.keys.witnesses)
            if step is not None:
                log = await _store(scope, context, log, step)
    except ForkError as fork:
        await _record(context, device, epoch, fork)
        raise
    return log


def receipt_of(context: Context, log: Log) -> str | None:
    """Return the receipt for what the row holds: the same bytes each time, None while nothing may be cosigned."""
    if log.checkpoint is None or log.witness_name is None or log.cosigned_at is None:
        return None
    return context.keys.cosign(log.checkpoint, log.witness_name, log.cosigned_at)


async def _stored_leaves(scope: ApplianceScope, log: Log, batch: Batch) -> list[bytes]:
    if batch.first >= log.size:
        return []
    return await evidence_bundles.leaves(scope, log.id, batch.first, min(batch.end, log.size))


async def _store(scope: ApplianceScope, context: Context, log: Log, step: Step) -> Log:
    """Add the step's lines and everything derived from them; return the row as it is to be committed."""
    now = datetime.now(UTC)
    await evidence_bundles.insert(scope, log.id, step.lines)
    held = step.held is not None
    cosigned_at, name = (None, None) if held else (int(time.time()), context.keys.witness.name)
    grown = await evidence_logs.advance(scope, log.epoch, step, cosigned_at, name)
    if not held:  # what nobody receipted yet says nothing of a site
        await _derive(scope, log, step, now)
    return grown


async def _derive(scope: ApplianceScope, log: Log, step: Step, now: datetime) -> None:
    runs = compliance.check_runs([line.entry for line in step.lines if line.entry], now)
    if not runs:
        return
    epoch_number = int(log.epoch.partition("-")[0])
    changed = await check_states.upsert(scope, epoch_number, runs)
    flake_hash = next((run.flake_hash for run in runs if run.flake_hash), None)
    site = await widen(scope)  # a snapshot is of all the site's appliances
    if changed or flake_hash or await compliance_snapshots.is_due(site):
        await compliance_snapshots.record(site, flake_hash)


async def _record(context: Context, device: Device, epoch: str, fork: ForkError) -> None:
    async with context.db.appliance(device.site_id, device.appliance_id) as scope:
        log = await evidence_logs.find(scope, epoch)
        if log is not None:
            await equivocations.insert(scope, log.id, fork)
