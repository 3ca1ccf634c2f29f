"""Every table by its kind. The schema is compared with this list: a table of no kind fails the build."""

# site_id first in the primary key, partner_id beside it, row security by both.
SITE_TABLES = frozenset(
    {
        "appliance_quotas",
        "appliances",
        "check_states",
        "compliance_snapshots",
        "enrollment_codes",
        "equivocations",
        "evidence_bundles",
        "evidence_logs",
        "fleet_order_members",
        "healed_days",
        "incident_comments",
        "incidents",
        "log_verifications",
        "orders",
        "pattern_runbooks",
        "pattern_stats",
        "policies",
        "queue_samples",
        "redactions",
        "rule_trials",
        "site_totals",
        "user_sites",
        "waivers",
    }
)
# partner_id first in the primary key, no site_id; the platform's own rows say `platform`.
PARTNER_TABLES = frozenset(
    {
        "api_keys",
        "audit_heads",
        "audit_log",
        "fleet_orders",
        "idempotency_keys",
        "invitations",
        "notification_attempts",
        "notification_channels",
        "notifications",
        "problems",
        "recovery_codes",
        "rules",
        "sessions",
        "settings",
        "users",
    }
)
# The tenants themselves: a partner is known by its id, a site by its id and its partner.
TENANT_TABLES = frozenset({"partners", "sites"})
# No tenant's rows, each with the reason; a tenant's scope cannot read them unless the reason says so.
PLATFORM_TABLES = {
    "runbooks": "the packaged catalogue, the same for every tenant, who all may read it",
    "sweeps": "when each sweep ran and how many rows it changed; names of sweeps, nothing of a tenant",
    "witness_marks": "how far the witness got and its generation: two numbers, read wherever a receipt is given",
    "schema_migrations": "which migrations ran: names and hashes, readable so that the server can refuse to start",
}
