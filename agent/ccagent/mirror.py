"""Showing the server incidents and pattern totals: apart from the evidence, so that neither waits for the other."""

from ccagent import incidents
from ccagent.client import Client, TransientError
from ccagent.store import Store
from ccshared.messages import IncidentKept, IncidentReport, IncidentReports, IncidentsKept

MAX_BYTES = 512 * 1024


async def mirror(store: Store, client: Client) -> int:
    """Send what the server has not confirmed, until it has; return how many reports. RequestError ends it.

    What it holds is noted after each request, so only a lost answer makes it sent again, which changes nothing.
    """
    sent = 0
    while reports := _fitting(store.read(incidents.changed_since)):
        kept = await client.put_incidents(IncidentReports(incidents=reports))
        await store.write(incidents.mark_synced, confirmed(reports, kept))
        sent += len(reports)
    while (totals := store.read(incidents.patterns_changed)) is not None:
        await client.put_patterns(totals)
        await store.write(incidents.mark_patterns_synced, totals)
        sent += len(totals.patterns)
    return sent


def confirmed(reports: list[IncidentReport], answer: IncidentsKept) -> list[IncidentKept]:
    """Return what the server holds of each incident sent; TransientError unless it has at least that of all of them."""
    held = {kept.id: kept for kept in answer.incidents}
    for report in reports:
        kept = held.get(report.id)
        if kept is None or (kept.epoch, kept.revision) < (report.epoch, report.revision):
            raise TransientError(f"the server did not confirm incident {report.id}")
    return [held[report.id] for report in reports]


def _fitting(reports: list[IncidentReport]) -> list[IncidentReport]:
    """Return as many as a body may hold, and one at least: a finding's facts can be long."""
    room = MAX_BYTES
    for count, report in enumerate(reports):
        room -= len(report.model_dump_json())
        if room < 0:
            return reports[: max(count, 1)]
    return reports
