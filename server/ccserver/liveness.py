"""Whether an appliance is there, derived from its last check-in whenever somebody looks; nothing stored says so."""

from datetime import datetime, timedelta
from enum import StrEnum

# Check-ins come once a minute: three missed ones are late, fifteen are an outage.
ONLINE_FOR = timedelta(minutes=3)
OVERDUE_FOR = timedelta(minutes=15)


class Liveness(StrEnum):
    """How an appliance stands by its last check-in, best first."""

    ONLINE = "online"
    OVERDUE = "overdue"
    OFFLINE = "offline"
    NEVER = "never"


def of(last_checkin: datetime | None, now: datetime) -> Liveness:
    """Return how an appliance that checked in then stands now."""
    if last_checkin is None:
        return Liveness.NEVER
    silent = now - last_checkin
    if silent < ONLINE_FOR:
        return Liveness.ONLINE
    return Liveness.OVERDUE if silent < OVERDUE_FOR else Liveness.OFFLINE


def oldest_age(oldest_at: datetime, last_checkin: datetime, clock_offset_ms: int) -> timedelta | None:
    """Return how old the oldest waiting entry was at that check-in; None when its clock moved since and cannot say.

    `oldest_at` is by the appliance's own clock, which then stood `clock_offset_ms` ahead of ours.
    """
    age = last_checkin - oldest_at + timedelta(milliseconds=clock_offset_ms)
    return age if age >= timedelta() else None
