"""The check-in: once a minute, small, one round trip to the database."""

import time

from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, limiting
from ccserver.errors import DeviceUnknownError
from ccserver.http import Caller, Endpoint, read, reply
from ccserver.queries import appliances
from ccshared.messages import Checkin, CheckinAnswer

EVERY_SECONDS = 60


async def check_in(request: Request) -> Response:
    """Write that the appliance lives, and say what waits for it."""
    device, said = auth.device(request), await read(request, Checkin)
    now_ms = time.time_ns() // 1_000_000
    async with context.of(request).db.bare() as conn:
        found = await appliances.check_in(conn, device, said, limiting.address(request), said.sent_at_ms - now_ms)
    if found is None:
        raise DeviceUnknownError
    return reply(
        CheckinAnswer(
            server_at_ms=now_ms,
            head_size=found.head_size,
            policy_etag=None,
            orders_waiting=found.orders_waiting,
            next_checkin_s=EVERY_SECONDS,
            backup_window_days=context.of(request).config.backup_window_days,
        )
    )


ENDPOINTS = [Endpoint("POST", "/agent/v1/checkin", check_in, Caller.DEVICE, Checkin, {200: CheckinAnswer})]
