"""Times, spans and clocks in words. Functions of values; a page brings its own `now`."""

from datetime import UTC, datetime, timedelta

from ccshared.vocabulary import Clock

_CLOCKS = {Clock.SYNC: "synchronised", Clock.UNSYNC: "not synchronised", Clock.STEPPED: "was stepped"}
_IN_STEP_MS = 60_000


def span(length: timedelta) -> str:
    """Return a length of time in its largest sensible unit; a negative one as if it were positive."""
    seconds = abs(length).total_seconds()
    days = seconds / 86_400
    if seconds < 60:
        return f"{int(seconds)} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min"
    if days < 2:
        return f"{int(seconds // 3600)} h"
    if days < 60:
        return f"{int(days)} days"
    return f"{round(days / 30.44)} months" if days < 730 else f"{round(days / 365.25)} years"


def milliseconds(length: int) -> str:
    """Return a length of time given in milliseconds, those of less than a second as such."""
    return f"{length} ms" if length < 1000 else span(timedelta(milliseconds=length))


def ago(moment: datetime, now: datetime) -> str:
    """Return when something was; a moment that is still to come, as a wrong clock makes them, is said to be so."""
    if abs(moment - now) < timedelta(seconds=1):
        return "just now"
    return f"{span(now - moment)} ago" if moment < now else f"in {span(moment - now)}"


def utc(moment: datetime) -> str:
    """Return the exact time, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def iso(moment: datetime) -> str:
    """Return the exact time for a `datetime` attribute."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock(state: str | None, offset_ms: int | None) -> list[str]:
    """Return what is known of an appliance's clock: its state, and how wrong it is when that is over a minute."""
    said = [_CLOCKS[Clock(state)] if state else "not known"]
    if offset_ms is not None and abs(offset_ms) > _IN_STEP_MS:
        off = span(timedelta(milliseconds=offset_ms))
        said.append(f"its clock is {off} {'ahead' if offset_ms > 0 else 'behind'}")
    return said
