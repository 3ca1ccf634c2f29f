"""Times that other programs wrote, and how old they are; a time that cannot be true is not used."""

from datetime import UTC, datetime, timedelta

# Clocks of two programs on one machine agree; a backup target's may be a little ahead.
TOLERANCE = timedelta(minutes=5)


class NotATimeError(ValueError):
    """The value is no time that can be trusted."""


def parse(value: object) -> datetime:
    """Return the UTC time that a JSON value says: ISO 8601 with a zone, or seconds since 1970.

    NotATimeError for anything else; a time without a zone could be hours off, so it is none.
    """
    try:
        if isinstance(value, str):
            return _from_text(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise NotATimeError(f"is no time: {str(value)[:64]}") from error
    raise NotATimeError(f"is no time: {str(value)[:64]}")


def age(then: datetime, now: datetime) -> timedelta:
    """Return how long ago `then` was, never negative; NotATimeError when it lies ahead by more than five minutes."""
    if then - now > TOLERANCE:
        raise NotATimeError("lies in the future")
    return max(now - then, timedelta(0))


def epoch(then: datetime | None) -> int | None:
    """Return seconds since 1970 for the facts of a finding."""
    return None if then is None else int(then.timestamp())


def _from_text(text: str) -> datetime:
    # Tools write nanoseconds (restic does); Python reads six digits and more, and keeps six.
    moment = datetime.fromisoformat(text.strip())
    if moment.tzinfo is None:
        raise NotATimeError(f"has no time zone (write ...Z): {text[:64]}")
    return moment.astimezone(UTC)
