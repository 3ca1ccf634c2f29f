-- What was done about an incident is sealed by its appliance after it began: these entries are few among the check runs.
CREATE INDEX IF NOT EXISTS idx_evidence_bundles_about_incidents ON evidence_bundles (site_id, appliance_id, received_at)
    WHERE bundle_type IN ('remediation', 'escalation');
