"""An appliance's evidence log: its epochs, their heads, and appending to them."""

import contextlib
import re
from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import Response

from ccserver import appending, auth, context
from ccserver.errors import BadBodyError, EntryInvalidError, LogUnknownError, NotFoundError, TooManyRequestsError
from ccserver.http import Caller, Endpoint, read_packed, reply, unpacked
from ccserver.queries import evidence_logs
from ccserver.witness import Log
from ccshared import batch, entries
from ccshared.messages import EntryKept, Epochs, Head

_AT_ONCE = 2
_EPOCH = re.compile(r"(?:0|[1-9][0-9]{0,9})-[0-9a-f]{8}")
_SEQ = re.compile(r"0|[1-9][0-9]{0,14}")


async def list_epochs(request: Request) -> Response:
    """Return all epochs that arrived from this appliance, oldest first."""
    device, ctx = auth.device(request), context.of(request)
    async with ctx.db.appliance(device.site_id, device.appliance_id) as scope:
        logs = await evidence_logs.list_of_appliance(scope)
    return reply(Epochs(epochs=[_head(ctx, log) for log in logs]))


async def show_head(request: Request) -> Response:
    """Return what is stored of an epoch, with its receipt."""
    device, ctx = auth.device(request), context.of(request)
    async with ctx.db.appliance(device.site_id, device.appliance_id) as scope:
        log = await evidence_logs.find(scope, _epoch(request))
    if log is None:
        raise LogUnknownError
    return reply(_head(ctx, log))


async def append(request: Request) -> Response:
    """Append a batch to the log; the same batch again gets the same receipt, because agents retry."""
    device, ctx, epoch = auth.device(request), context.of(request), _epoch(request)
    with _a_place(ctx, device.appliance_id):
        packed = await read_packed(request, batch.MAX_BYTES)
        async with ctx.batches:
            log = await appending.append(ctx, device, epoch, _read_batch(unpacked(request, packed, batch.MAX_BYTES)))
    head = _head(ctx, log)
    ctx.metrics.receipts.inc(1 if head.receipt else 0)
    return reply(head, 200 if head.receipt else 202)


async def fill(request: Request) -> Response:
    """Take the payload of a place where only its leaf was sent before; the same again changes nothing."""
    device, ctx, epoch = auth.device(request), context.of(request), _epoch(request)
    seq = str(request.path_params["seq"])
    if not _SEQ.fullmatch(seq):
        raise NotFoundError
    with _a_place(ctx, device.appliance_id):
        packed = await read_packed(request, entries.MAX_RECOVERED_BYTES)
        async with ctx.batches:
            payload = unpacked(request, packed, entries.MAX_RECOVERED_BYTES)
            leaf = await appending.fill(ctx, device, epoch, int(seq), payload)
    return reply(EntryKept(epoch=epoch, seq=int(seq), leaf=leaf.hex()))


@contextlib.contextmanager
def _a_place(ctx: context.Context, appliance_id: str) -> Iterator[None]:
    """Hold one of an appliance's two places: bodies of one alone must not fill the memory."""
    if ctx.appends[appliance_id] >= _AT_ONCE:
        raise TooManyRequestsError("Two batches of this appliance are on their way already.", retry_after_s=1)
    ctx.appends[appliance_id] += 1
    try:
        yield
    finally:
        ctx.appends[appliance_id] -= 1
        if not ctx.appends[appliance_id]:
            del ctx.appends[appliance_id]


def _read_batch(body: bytes) -> batch.Batch:
    try:
        return batch.read(body)
    except batch.BadBatchError as error:
        if error.seq is not None:
            raise EntryInvalidError(f"Entry {error.seq} is refused: {error}.", seq=error.seq) from error
        raise BadBodyError(f"The body is not a batch: {error}.") from error


def _epoch(request: Request) -> str:
    epoch = str(request.path_params["epoch"])
    if not _EPOCH.fullmatch(epoch):
        raise NotFoundError
    return epoch


def _head(ctx: context.Context, log: Log) -> Head:
    return Head(epoch=log.epoch, size=log.size, receipt=appending.receipt_of(ctx, log))


ENDPOINTS = [
    Endpoint("GET", "/agent/v1/log", list_epochs, Caller.DEVICE, None, {200: Epochs}),
    Endpoint("GET", "/agent/v1/log/{epoch}", show_head, Caller.DEVICE, None, {200: Head}),
    Endpoint("POST", "/agent/v1/log/{epoch}/entries", append, Caller.DEVICE, None, {200: Head, 202: Head}),
    Endpoint("PUT", "/agent/v1/log/{epoch}/entries/{seq}", fill, Caller.DEVICE, None, {200: EntryKept}),
]
