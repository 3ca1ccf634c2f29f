"""Evidence: a site's logs, their entries, an entry's bytes, and the proof that a receipt covers it."""

import asyncio
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from ccserver import appending, auth, context, exporting, listing
from ccserver.errors import BadQueryError, CentralCommandError, NotFoundError, TooManyRequestsError
from ccserver.exporting import Asked
from ccserver.http import Caller, Endpoint, read_query, reply_value
from ccserver.listing import COUNTED_TO, MAX_LIMIT, Cursor, Listing, ListQuery, Moment, Page
from ccserver.queries import evidence_bundles, evidence_logs
from ccserver.queries.evidence_bundles import BundleDetail, Flagged
from ccserver.queries.evidence_logs import LogDetail
from ccserver.routes.api import lists
from ccserver.scope import SiteScope
from ccserver.witness import Log
from ccshared import merkle, notes
from ccshared.messages import Message

_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class Proof:
    """That an entry is in the log that a receipt covers: RFC 6962's inclusion proof, hashes as 64 hex, leaf upwards."""

    origin: str
    seq: int
    leaf: str
    size: int
    root: str
    hashes: list[str]
    log_key: str
    receipt: str


class FlaggedQuery(Message):
    """A page of the list, by its cursor only."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 50
    cursor: Cursor | None = None


async def list_logs(request: Request) -> Response:
    """List a site's logs, the last opened first: one for each epoch of each appliance."""
    asked = read_query(request, ListQuery)
    async with auth.site_scope(request) as scope:
        source = lists.Source(
            name=f"logs:{scope.partner_id}:{scope.site_id}",
            kind=LogDetail,
            fetch=lambda page: evidence_logs.newest(scope, page),
            count=lambda: evidence_logs.count(scope),
            place=lambda log: (log.opened_at, str(log.id)),
        )
        return await lists.answer(request, asked, source)


async def list_evidence(request: Request) -> Response:
    """List a log's entries, newest first."""
    asked = read_query(request, ListQuery)
    async with auth.site_scope(request) as scope:
        log = await _log(request, scope)

        async def fetch(page: Page) -> list[BundleDetail]:
            # Places have no gaps, so a page is a range of them: no history is read to reach it.
            before = int(page.before_id) if page.before_id.isdecimal() else log.size
            end = before - page.offset
            return await evidence_bundles.page_of_log(scope, log.id, end - page.fetched, end)

        async def count() -> int:
            return min(log.size, COUNTED_TO)

        name = f"evidence:{scope.partner_id}:{scope.site_id}:{log.id}"
        source = lists.Source(name, BundleDetail, fetch, count, lambda row: (row.received_at, str(row.seq)))
        return await lists.answer(request, asked, source)


async def list_flagged(request: Request) -> Response:
    """List the entries of the partner's logs that are stored but not understood, and forks, newest first."""
    asked = read_query(request, FlaggedQuery)
    async with auth.partner_scope(request) as scope:
        key, name = context.of(request).cursor_key, f"flagged:{scope.partner_id}"
        page = listing.page_of(ListQuery(limit=asked.limit, cursor=asked.cursor), key, name)
        before = int(page.before_id) if page.before_id.isdecimal() else None
        rows = await evidence_bundles.list_flagged(scope, page.fetched, before)
    found = listing.listing(rows, page, lambda row: (row.received_at, str(row.id)), key, name)
    return reply_value(Listing[Flagged], found)


async def show(request: Request) -> Response:
    """Show an entry of a log."""
    seq = _number(request, "seq")
    async with auth.site_scope(request) as scope:
        log = await _log(request, scope)
        found = await evidence_bundles.page_of_log(scope, log.id, seq, seq + 1)
    if not found:
        raise NotFoundError
    return reply_value(BundleDetail, found[0])


async def show_payload(request: Request) -> Response:
    """Return an entry's bytes as they were hashed; 404 when only its leaf is kept."""
    seq = _number(request, "seq")
    async with auth.site_scope(request) as scope:
        payload = await evidence_bundles.payload(scope, (await _log(request, scope)).id, seq)
    if payload is None:
        raise NotFoundError
    headers = {
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": f'attachment; filename="entry-{seq}.json"',
    }
    return Response(payload, media_type="application/octet-stream", headers=headers)


async def prove(request: Request) -> Response:
    """Prove that an entry is in the log that the newest receipt covers; 404 while no receipt covers it."""
    seq, ctx = _number(request, "seq"), context.of(request)
    async with auth.site_scope(request) as scope:
        log = await _log(request, scope)
        receipt = _receipt(ctx, log)
        if seq >= receipt.size:
            raise NotFoundError("No receipt covers this entry yet.")
        leaves = await evidence_bundles.leaves_of_log(scope, log.id, receipt.size)
    hashes = await asyncio.to_thread(merkle.inclusion_proof, leaves, seq)
    if merkle.root_from_inclusion(leaves[seq], seq, receipt.size, hashes) != receipt.root:
        raise CentralCommandError("What is stored does not lead to the receipt: compare it with a backup.")
    proof = Proof(
        origin=log.origin,
        seq=seq,
        leaf=leaves[seq].hex(),
        size=receipt.size,
        root=receipt.root.hex(),
        hashes=[each.hex() for each in hashes],
        log_key=log.public_key.hex(),
        receipt=receipt.text,
    )
    return reply_value(Proof, proof)


class ExportQuery(Message):
    """Entries from `since` up to `until`, which is not in it, by their own times; `sample` of each log are proved."""

    since: Moment | None = None
    until: Moment | None = None
    sample: Annotated[int, Field(ge=0, le=1000)] = exporting.SAMPLE


async def export(request: Request) -> Response:
    """Return the site's evidence as one file that anybody can verify; the same evidence gives the same bytes."""
    asked, ctx = read_query(request, ExportQuery), context.of(request)
    if asked.since and asked.until and asked.since >= asked.until:
        raise BadQueryError("since: before until.")
    async with auth.site_scope(request) as scope:
        wanted = Asked(scope.partner_id, scope.site_id, asked.since, asked.until, asked.sample)
    if ctx.exports.locked():
        raise TooManyRequestsError("Other exports are being made.", retry_after_s=30)
    async with ctx.exports:  # to a file first: a slow reader must not hold the snapshot open
        file = tempfile.NamedTemporaryFile(prefix="cc-export-", suffix=".zip", delete=False)  # noqa: SIM115
        try:
            await exporting.write_site(ctx.db, ctx.keys, wanted, file.write)
            file.close()
        except BaseException:
            file.close()
            _forget(file.name)
            raise
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    name = f"evidence-{wanted.site_id}.zip"
    return _SentOnce(file.name, media_type="application/octet-stream", filename=name, headers=headers)


class _SentOnce(FileResponse):
    """A file that is gone once it was sent, whatever became of that: a Range that makes no sense, a caller who left."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, and delete it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            _forget(str(self.path))


def _forget(name: str) -> None:
    Path(name).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Receipt:
    text: str
    size: int
    root: bytes


def _receipt(ctx: context.Context, log: Log) -> _Receipt:
    """Return the log's receipt, verified as anybody would; NotFoundError while there is none."""
    if log.witness_name is not None and log.witness_name not in ctx.keys.witnesses:
        raise NotFoundError(f"This server has no key {log.witness_name}: restore its key file.")
    text = appending.receipt_of(ctx, log)
    if text is None:
        raise NotFoundError("Nothing of this log is receipted yet.")
    checkpoint = notes.read_receipt(text, log.public_key, ctx.keys.witnesses).checkpoint
    return _Receipt(text, checkpoint.size, checkpoint.root)


async def _log(request: Request, scope: SiteScope) -> Log:
    log = await evidence_logs.find_by_id(scope, _number(request, "log"))
    if log is None:
        raise NotFoundError
    return log


def _number(request: Request, name: str) -> int:
    text = str(request.path_params[name])
    if not _NUMBER.fullmatch(text):
        raise NotFoundError
    return int(text)


_LOGS = "/api/v1/sites/{site}/logs"
_ALL = _LOGS + "/{log}/evidence"
_ONE = _ALL + "/{seq}"
ENDPOINTS = [
    Endpoint("GET", "/api/v1/evidence/flagged", list_flagged, Caller.READ, None, {200: Listing[Flagged]}, FlaggedQuery),
    Endpoint("GET", _LOGS, list_logs, Caller.AUDIT, None, {200: Listing[LogDetail]}, ListQuery),
    Endpoint("GET", "/api/v1/sites/{site}/evidence-export", export, Caller.AUDIT, None, {200: bytes}, ExportQuery),
    Endpoint("GET", _ALL, list_evidence, Caller.AUDIT, None, {200: Listing[BundleDetail]}, ListQuery),
    Endpoint("GET", _ONE, show, Caller.AUDIT, None, {200: BundleDetail}),
    Endpoint("GET", _ONE + "/payload", show_payload, Caller.AUDIT, None, {200: bytes}),
    Endpoint("GET", _ONE + "/proof", prove, Caller.AUDIT, None, {200: Proof}),
]
