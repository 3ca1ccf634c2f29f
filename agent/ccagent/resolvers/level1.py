"""L1: the rules of the signed policy; the first that matches proposes its runbook."""

from typing import Any

from ccagent.incidents import Incident
from ccagent.resolvers import Proposal
from ccshared import rules
from ccshared.rules import Compiled
from ccshared.vocabulary import Level


def propose(compiled: Compiled, incident: Incident) -> Proposal | None:
    """Return what the first matching rule, by priority, says; None when none matches."""
    rule = rules.first_match(compiled, fields(incident), incident.severity)
    if rule is None:
        return None
    return Proposal(
        level=Level.L1,
        runbook=rule.runbook,
        parameters=dict(rule.parameters),
        why=f"rule {rule.id} ({rule.source}): {rule.name}",
        rule=rule.id,
        cooldown_s=rule.cooldown_s,
    )


def fields(incident: Incident) -> dict[str, Any]:
    """Return what conditions may ask about an incident; what a finding does not say is left out and never matches."""
    found = incident.raw_data
    offered = {
        "incident_type": incident.incident_type,
        "check": incident.check,
        "severity": incident.severity,
        "host_id": incident.host_id,
        "reason": incident.reason,
        "drift_type": found.get("drift_type"),
        "service_name": found.get("service_name"),
        "pattern_signature": incident.pattern_signature,
        "facts": found.get("facts") or {},
    }
    return {name: value for name, value in offered.items() if value is not None}
