"""The calendar of a site's snapshots: a cell a day, with the worst that was seen that day. Functions of values."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta

from ccserver.queries.compliance_snapshots import Day
from ccshared.vocabulary import Status

DAYS = 90


@dataclass(frozen=True)
class Cell:
    """A day, and what is said of it; `status` is None for a day without a snapshot."""

    day: date
    status: Status | None
    text: str


@dataclass(frozen=True)
class Calendar:
    """The last days, the oldest first, and how many were of which kind."""

    cells: Sequence[Cell]
    passed: int
    failed: int
    unknown: int
    missing: int


def first_day(today: date) -> date:
    """Return the first of the days that are shown on a day."""
    return today - timedelta(days=DAYS - 1)


def build(days: Sequence[Day], today: date) -> Calendar:
    """Return the calendar of the days up to today."""
    known = {each.day: each for each in days}
    cells = [_cell(day, known.get(day)) for day in (first_day(today) + timedelta(days=n) for n in range(DAYS))]
    said = [cell.status for cell in cells]
    passed, failed, unknown, missing = (said.count(each) for each in (Status.PASS, Status.FAIL, Status.UNKNOWN, None))
    return Calendar(cells, passed, failed, unknown, missing)


def _cell(day: date, seen: Day | None) -> Cell:
    if seen is None:
        return Cell(day, None, f"{day}: no snapshot")
    families = {field.name: getattr(seen, field.name) for field in fields(Day) if field.name != "day"}
    failed = [name for name, value in families.items() if value is False]
    unknown = [name for name, value in families.items() if value is None]
    if failed:
        return Cell(day, Status.FAIL, f"{day}: {', '.join(failed)} failed")
    if unknown:
        return Cell(day, Status.UNKNOWN, f"{day}: {', '.join(unknown)} not known")
    return Cell(day, Status.PASS, f"{day}: all families passed")
