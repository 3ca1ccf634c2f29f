"""L3: a person. Always answers, and the answer is that somebody has to look."""

from ccagent.incidents import Incident, Resolution
from ccshared.vocabulary import Level, Outcome


async def resolve(incident: Incident) -> Resolution:
    """Return that a person is asked about the incident."""
    return Resolution(Level.L3, f"a person is asked: {incident.reason}", Outcome.ESCALATED)
