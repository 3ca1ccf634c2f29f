"""Metrics, served on a listener of their own that no tenant's request reaches, and set from the database when asked."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from datetime import datetime

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import Scope

from ccserver.config import Config
from ccserver.context import Context
from ccserver.errors import BadConfigError, CentralCommandError
from ccserver.queries import notifications
from ccserver.queries import sweeps as queries
from ccserver.sweeps import Outcome

log = logging.getLogger("ccserver.metrics")
_PATIENCE_S = 5.0
_ASK_EVERY_S = 10.0  # the database, however often somebody scrapes


def count(scope: Scope, status: int, seconds: float) -> None:
    """Count a request; what is no route of ours counts as one, or a caller could make labels without end."""
    ctx: Context | None = scope.get("state", {}).get("context")
    if ctx is not None:
        route = scope.get("cc.route")
        ctx.metrics.answered(route or "none", scope["method"] if route else "other", status, seconds)


def tell(ctx: Context, outcome: Outcome) -> None:
    """Count how a sweep went."""
    result = "failed" if outcome.error else "busy" if outcome.busy else "done"
    ctx.metrics.sweep_runs.labels(outcome.name, result).inc()
    ctx.metrics.sweep_rows.labels(outcome.name).inc(outcome.rows)


def tell_attempt(ctx: Context, kind: str, result: str) -> None:
    """Count an attempt to tell somebody."""
    ctx.metrics.told.labels(kind, result).inc()


@contextlib.asynccontextmanager
async def serving(config: Config, ctx: Context) -> AsyncIterator[None]:
    """Serve GET /metrics until the block ends; BadConfigError when the address that was asked for is taken."""
    if config.metrics is None:
        yield
        return
    page = Page(ctx)
    try:
        server = await asyncio.start_server(page.answer, *config.metrics, limit=16384)
    except OSError as error:
        said = f"Metrics cannot be served on {config.metrics[0]}:{config.metrics[1]} ({error.strerror})"
        if config.metrics_asked:
            raise BadConfigError(f"{said}: set CCSERVER_METRICS_LISTEN to another address, or to nothing.") from error
        log.warning("%s; CCSERVER_METRICS_LISTEN names another place for this process's", said)
        yield
        return
    async with server:
        yield


class Page:
    """The one page of the listener."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._asked_at = -_ASK_EVERY_S
        self._asking = asyncio.Lock()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and hang up, also on who asks too slowly or too much."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(await self._response(head.split(b"\r\n", 1)[0]))
            async with asyncio.timeout(_PATIENCE_S):
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            log.debug("a scrape broke off")
        finally:
            writer.close()

    async def _response(self, line: bytes) -> bytes:
        words = line.split(b" ")
        if len(words) != 3 or words[0] != b"GET" or words[1].partition(b"?")[0] != b"/metrics":
            return _reply("404 Not Found", "text/plain; charset=utf-8", b"GET /metrics\n")
        async with self._asking:
            if time.monotonic() - self._asked_at >= _ASK_EVERY_S:
                await self._ask()
                self._asked_at = time.monotonic()
        _set_pool(self._ctx)
        return _reply("200 OK", CONTENT_TYPE_LATEST, generate_latest(self._ctx.metrics.registry))

    async def _ask(self) -> None:
        metrics = self._ctx.metrics
        try:
            async with self._ctx.db.platform() as scope:
                totals, ledger = await queries.totals(scope), await queries.ledger(scope)
                outbox = await notifications.queue(scope)
        except CentralCommandError as error:
            metrics.up.set(0)
            log.warning("the database did not answer a scrape: %s", error)
            return
        metrics.up.set(1)
        for state in ("online", "silent"):
            metrics.appliances.labels(state).set(getattr(totals, state))
        metrics.appliances.labels("all").set(totals.appliances)
        metrics.dead_letters.set(totals.dead_letters)
        metrics.equivocations.set(totals.equivocations)
        metrics.logs_not_whole.set(totals.logs_not_whole)
        metrics.schema.set(totals.schema_version)
        metrics.waiting_notifications.set(outbox.waiting)
        metrics.oldest_notification.set(outbox.oldest_s)
        metrics.dead_notifications.set(outbox.dead)
        for row in ledger:
            metrics.sweep_begun.labels(row.name).set(row.begun_at.timestamp())
            metrics.sweep_done.labels(row.name).set(_seconds(row.done_at))
            metrics.sweep_failures.labels(row.name).set(row.failure_count)


def _set_pool(ctx: Context) -> None:
    size, idle, most = ctx.db.sizes
    for state, value in (("used", size - idle), ("idle", idle), ("most", most)):
        ctx.metrics.pool.labels(state).set(value)
    ctx.metrics.pool_wait.set(ctx.db.use.waited_s)
    ctx.metrics.pool_acquired.set(ctx.db.use.lent)
    ctx.metrics.pool_timeouts.set(ctx.db.use.timeouts)
    ctx.metrics.key_files_refused.set(ctx.key_file.refused)


def _seconds(at: datetime | None) -> float:
    return at.timestamp() if at else 0.0


def _reply(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
