"""Showing the server incidents and pattern totals: apart from the evidence, so that neither waits for the other."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from ccagent import clock, incidents
from ccagent.client import Client, PermanentError, TransientError
from ccagent.store import Store
from ccshared.messages import MAX_INCIDENTS, IncidentKept, IncidentReport, IncidentReports, IncidentsKept

log = logging.getLogger(__name__)

MAX_BYTES = 512 * 1024
AGAIN_S = 3600.0


@dataclass
class Refused:
    """Incidents that the server refuses, each until when it is not sent again (s since boot); the others go on."""

    until: dict[str, float] = field(default_factory=dict)
    boottime: Callable[[], float] = clock.boottime

    def add(self, report: IncidentReport, error: PermanentError) -> None:
        """Leave an incident out for an hour."""
        log.warning("incident %s is refused, and tried again in an hour: %s", report.id, error)
        self.until[report.id] = self.boottime() + AGAIN_S

    def without(self, reports: list[IncidentReport]) -> list[IncidentReport]:
        """Return the reports that may be sent now."""
        now = self.boottime()
        self.until = {name: until for name, until in self.until.items() if until > now}
        return [report for report in reports if report.id not in self.until]


async def mirror(store: Store, client: Client, refused: Refused | None = None) -> int:
    """Send what the server has not confirmed, until it has; return how many reports. RequestError ends it.

    What it holds is noted after each request, so only a lost answer makes it sent again, which changes nothing. One
    incident that the server refuses is found by halves, and left out for a while.
    """
    refused = refused if refused is not None else Refused()
    sent, most = 0, MAX_INCIDENTS
    while reports := _next(store, refused)[:most]:
        try:
            kept = await client.put_incidents(IncidentReports(incidents=reports))
        except PermanentError as error:
            if len(reports) == 1:
                refused.add(reports[0], error)
            most = max(len(reports) // 2, 1)
            continue
        await store.write(incidents.mark_synced, confirmed(reports, kept))
        sent += len(reports)
        most = min(most * 2, MAX_INCIDENTS)
    return sent + await _mirror_patterns(store, client)


def confirmed(reports: list[IncidentReport], answer: IncidentsKept) -> list[IncidentKept]:
    """Return what the server holds of each incident sent; TransientError unless it has at least that of all of them."""
    held = {kept.id: kept for kept in answer.incidents}
    for report in reports:
        kept = held.get(report.id)
        if kept is None or (kept.epoch, kept.revision) < (report.epoch, report.revision):
            raise TransientError(f"the server did not confirm incident {report.id}")
    return [held[report.id] for report in reports]


async def _mirror_patterns(store: Store, client: Client) -> int:
    sent = 0
    while (totals := store.read(incidents.patterns_changed)) is not None:
        await client.put_patterns(totals)
        await store.write(incidents.mark_patterns_synced, totals)
        sent += len(totals.patterns)
    return sent


def _next(store: Store, refused: Refused) -> list[IncidentReport]:
    """Return what goes next; as many more are looked at as are left out, so that these never hide the rest."""
    found = store.read(incidents.changed_since, MAX_INCIDENTS + len(refused.until))
    return _fitting(refused.without(found)[:MAX_INCIDENTS])


def _fitting(reports: list[IncidentReport]) -> list[IncidentReport]:
    """Return as many as a body may hold, and one at least: a finding's facts can be long."""
    room = MAX_BYTES
    for count, report in enumerate(reports):
        room -= len(report.model_dump_json())
        if room < 0:
            return reports[: max(count, 1)]
    return reports
