"""The check-in: once a minute, small, one round trip to the database."""

import time

from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, limiting, policy_making
from ccserver.errors import DeviceUnknownError
from ccserver.http import Caller, Endpoint, read, reply
from ccserver.queries import appliances
from ccserver.queries.appliances import Reporting
from ccshared.messages import Checkin, CheckinAnswer

EVERY_SECONDS = 60


async def check_in(request: Request) -> Response:
    """Write that the appliance lives, and say what waits for it."""
    device, said = auth.device(request), await read(request, Checkin)
    ctx, now_ms = context.of(request), time.time_ns() // 1_000_000
    reporting = Reporting(limiting.address(request), said.sent_at_ms - now_ms, policy_making.basis(ctx))
    async with ctx.db.bare() as conn:
        found = await appliances.check_in(conn, device, said, reporting)
    if found is None:
        raise DeviceUnknownError
    version = found.policy
    if found.policy_due:  # in a transaction of its own: what goes wrong there does not undo the check-in
        version = await policy_making.refreshed(ctx, device, found.policy)
    return reply(
        CheckinAnswer(
            server_at_ms=now_ms,
            head_size=found.head_size,
            policy_etag=None if version is None else str(version),
            orders_waiting=found.orders_waiting,
            next_checkin_s=EVERY_SECONDS,
            backup_window_days=ctx.config.backup_window_days,
        )
    )


ENDPOINTS = [Endpoint("POST", "/agent/v1/checkin", check_in, Caller.DEVICE, Checkin, {200: CheckinAnswer})]
