"""Evidence arrives: one batch, one transaction, and a receipt only for what is committed."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from ccserver import compliance, deriving, errors, quotas, restores, witness
from ccserver.context import Context
from ccserver.deriving import Row
from ccserver.queries import (
    appliances,
    check_states,
    compliance_snapshots,
    equivocations,
    evidence_bundles,
    evidence_logs,
)
from ccserver.scope import ApplianceScope, widen
from ccserver.tokens import Device
from ccserver.witness import ForkError, Line, Log, Step
from ccshared import canonical, entries, merkle, notes
from ccshared.batch import Batch
from ccshared.vocabulary import Kind, StubReason

_LAST = str(Kind.KEY_ROTATION)  # no entry follows it


async def append(context: Context, device: Device, epoch: str, batch: Batch) -> Log:
    """Store what is new of a batch and return the log's row as committed.

    Raises what `witness.examine` raises; a fork is recorded first, in a transaction of its own.
    """
    origin = str(notes.Origin(context.keys.server, device.appliance_id, epoch))
    try:
        async with context.db.appliance(device.site_id, device.appliance_id) as scope:
            key = witness.begun_by(batch, origin, context.keys.witnesses) or scope.public_key
            log = await _lock(context, scope, epoch, origin, key)
            stored = await _stored_leaves(scope, log, batch)
            step = witness.examine(log, batch, stored, context.keys.witnesses)
            if step is not None:
                log = await _store(scope, context, log, step)
        context.metrics.appended.inc(len(step.lines) if step else 0)
    except ForkError as fork:
        await _record(context, device, epoch, fork)
        raise
    except errors.RestoredError:
        await restores.check(context.db, context.marks)
        raise
    context.marks.given = True
    return log


async def _lock(context: Context, scope: ApplianceScope, epoch: str, origin: str, public_key: bytes) -> Log:
    """Return the log's row, locked; one that is new is by that key.

    RestoredError when the database is older than it was, QuotaError for a log too many.
    """
    log, mark = await evidence_logs.lock(scope, epoch, origin, public_key)
    if mark < context.marks.known:
        raise errors.RestoredError(None, retry_after_s=1)
    context.marks.known = mark
    if log.size == 0:
        await quotas.open_log(scope)
    return log


async def fill(context: Context, device: Device, epoch: str, seq: int, payload: bytes) -> bytes:
    """Put a payload that was withheld in its place and return its leaf; the same payload again changes nothing.

    LogUnknownError, NotFoundError for a place that the log does not reach, EntryInvalidError for what does not belong
    there.
    """
    async with context.db.appliance(device.site_id, device.appliance_id) as scope:
        log = await evidence_logs.find(scope, epoch)
        if log is None:
            raise errors.LogUnknownError
        if seq >= log.size:
            raise errors.NotFoundError(f"The log has {log.size} entries.")
        line = _read_at(log, seq, payload, await evidence_bundles.leaves(scope, log.id, max(seq - 1, 0), seq + 1))
        if await evidence_bundles.missing(scope, log.id, seq) == StubReason.WITHHELD:
            await quotas.spend(context, scope, 1, len(payload))
            (row,) = await _rows(scope, [line])
            await evidence_bundles.fill(scope, log.id, row)
            if seq == log.size - 1:  # what names a key ends its log; elsewhere it names none
                await _register_key(scope, log, [row])
            if log.held_size is None:
                await _derive(scope, [row], datetime.now(UTC))
    return line.leaf


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
    if log.public_key != scope.public_key and await evidence_bundles.kind_at(scope, log.id, log.size - 1) == _LAST:
        raise errors.EntryInvalidError("The log ended when it named a new key.", seq=log.size)
    now = datetime.now(UTC)
    await quotas.spend(
        context, scope, len(step.lines), sum(len(line.entry.payload) for line in step.lines if line.entry)
    )
    rows = await _rows(scope, step.lines)
    await evidence_bundles.insert(scope, log.id, rows)
    held = step.held is not None
    cosigned_at, name = (None, None) if held else (int(time.time()), context.keys.witness.name)
    grown = await evidence_logs.advance(scope, log.epoch, step, cosigned_at, name)
    await _register_key(scope, log, rows)
    if not held:  # what nobody receipted yet says nothing of a site
        await _derive(scope, rows, now)
    return grown


async def _rows(scope: ApplianceScope, lines: Sequence[Line]) -> list[Row]:
    """Return what the lines say, each bundle id counted once: also when it came in another log before."""
    rows = [deriving.read(line) for line in lines]
    known = await evidence_bundles.counted(scope, [row.bundle_id for row in rows if row.bundle_id])
    carried = [row.source for row in rows if row.carried_hash and row.source]
    if carried:
        known |= await evidence_bundles.at_places(scope, carried)
    return deriving.once(rows, known)


async def _derive(scope: ApplianceScope, rows: Sequence[Row], now: datetime) -> None:
    runs = compliance.check_runs([row.source for row in rows if row.source], now)
    if not runs:
        return
    changed = await check_states.upsert(scope, runs)
    flake_hash = next((run.flake_hash for run in runs if run.flake_hash), None)
    site = await widen(scope)  # a snapshot is of all the site's appliances
    if changed or flake_hash or await compliance_snapshots.is_due(site):
        await compliance_snapshots.record(site, flake_hash)


async def _register_key(scope: ApplianceScope, log: Log, rows: Sequence[Row]) -> None:
    """Take the key that the log's last entry names, where the log is by the key that is registered now."""
    last = rows[-1].source
    if last is None or last.kind != Kind.KEY_ROTATION or rows[-1].carried_hash or log.public_key != scope.public_key:
        return
    key = deriving.new_key(log.origin, last.body)
    if key is not None:
        await appliances.change_key(scope, await _newest_key(scope, log.epoch, key))


async def _newest_key(scope: ApplianceScope, epoch: str, key: bytes) -> bytes:
    """Return the key that followed in the end on one that this epoch's log named.

    After a restore the logs of later keys may be here before the one that names the first of them; what they named
    was passed over, because they were not by the registered key then, and counts now. Epochs only grow, so it ends.
    """
    while found := await evidence_bundles.succession(scope, key, epoch):
        epoch, payload = found
        said = canonical.read(payload)
        following = deriving.new_key(str(said["log"]), said["body"])
        if following is None:
            break
        key = following
    return key


def _read_at(log: Log, seq: int, payload: bytes, leaves: list[bytes]) -> Line:
    """Return the line that a payload is at a place whose leaf, and the one before it, are these."""
    if merkle.leaf_hash(payload) != leaves[-1]:
        raise errors.EntryInvalidError(f"Entry {seq} of this log is another one.", seq=seq)
    prev = leaves[0].hex() if seq else entries.GENESIS_PREV
    try:
        entry = entries.read(payload, log.origin, seq, prev)
    except entries.BadEntryError as error:
        raise errors.EntryInvalidError(f"Entry {seq} is refused: {error}.", seq=seq) from error
    return Line(seq, entry.leaf, entry, None)


async def _record(context: Context, device: Device, epoch: str, fork: ForkError) -> None:
    async with context.db.appliance(device.site_id, device.appliance_id) as scope:
        log = await evidence_logs.find(scope, epoch)
        if log is not None:
            await equivocations.insert(scope, log.id, fork)
