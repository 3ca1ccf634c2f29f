"""Tables: each of one kind, locked by the one policy text of its kind; words compared with the code's enums."""

import re
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Any

import asyncpg
import pytest

from ccserver import tables
from ccserver.localpg import Urls
from ccshared import vocabulary

PARTNER = "( SELECT NULLIF(current_setting('cc.partner_id'::text, true), ''::text) AS \"nullif\")"
SITE = "( SELECT NULLIF(current_setting('cc.site_id'::text, true), ''::text) AS \"nullif\")"
APPLIANCE = "( SELECT NULLIF(current_setting('cc.appliance_id'::text, true), ''::text) AS \"nullif\")"
SITE_POLICY = f"((partner_id = {PARTNER}) AND (NULLIF({SITE}, site_id) IS NULL))"
PARTNER_POLICY = f"(partner_id = {PARTNER})"
APPLIANCE_POLICY = f"(NULLIF({APPLIANCE}, appliance_id) IS NULL)"
ITSELF_POLICY = f"(NULLIF({APPLIANCE}, id) IS NULL)"
HIDDEN_POLICY = f"({APPLIANCE} IS NULL)"
HIDDEN_FROM_APPLIANCES = {"enrollment_codes", "redactions", "user_sites"} | tables.PARTNER_TABLES
WORDS: dict[str, type[StrEnum]] = {
    "users_role_known": vocabulary.Role,
    "appliances_clock_known": vocabulary.Clock,
    "evidence_bundles_clock_known": vocabulary.Clock,
    "evidence_bundles_missing_reason_known": vocabulary.StubReason,
    "check_states_status_known": vocabulary.Status,
    "check_states_severity_known": vocabulary.Severity,
    "incidents_severity_known": vocabulary.Severity,
    "incidents_resolution_level_known": vocabulary.Level,
    "incidents_outcome_known": vocabulary.Outcome,
    "invitations_purpose_known": vocabulary.Purpose,
    "api_keys_role_known": vocabulary.Role,
    "settings_level_known": vocabulary.SettingLevel,
    "runbooks_risk_known": vocabulary.Risk,
    "orders_status_known": vocabulary.OrderStatus,
    "rules_status_known": vocabulary.RuleStatus,
    "fleet_orders_status_known": vocabulary.FleetStatus,
    "notification_channels_kind_known": vocabulary.ChannelKind,
    "notification_channels_min_severity_known": vocabulary.Severity,
    "problems_kind_known": vocabulary.ProblemKind,
    "problems_severity_known": vocabulary.Severity,
    "notifications_event_known": vocabulary.NotificationEvent,
}
TENANTS = sorted(tables.SITE_TABLES | tables.PARTNER_TABLES)


@pytest.fixture
async def schema(database: Urls) -> AsyncIterator["asyncpg.Connection[Any]"]:
    conn = await asyncpg.connect(database.admin)
    yield conn
    await conn.close()


async def kinds_wrong(schema: "asyncpg.Connection[Any]") -> list[str]:
    """Tables of no kind, and tenant tables whose row security is not enabled and forced."""
    rows = await schema.fetch(
        """
        SELECT relname, relrowsecurity AND relforcerowsecurity AS locked
        FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
        """
    )
    known = set(TENANTS) | tables.TENANT_TABLES | set(tables.PLATFORM_TABLES)
    unknown = [row["relname"] for row in rows if row["relname"] not in known]
    missing = sorted(known - {row["relname"] for row in rows})
    open_ = [row["relname"] for row in rows if not row["locked"] and row["relname"] not in tables.PLATFORM_TABLES]
    return unknown + missing + open_


async def test_every_table_is_of_one_kind_and_locked(schema: "asyncpg.Connection[Any]") -> None:
    assert await kinds_wrong(schema) == []


async def test_a_new_table_without_row_security_is_found(schema: "asyncpg.Connection[Any]") -> None:
    await schema.execute("CREATE TABLE forgotten (site_id text)")
    assert await kinds_wrong(schema) == ["forgotten", "forgotten"]


async def policies(schema: "asyncpg.Connection[Any]", table: str) -> dict[str, tuple[str, list[str], str, str, str]]:
    rows = await schema.fetch(
        "SELECT policyname, permissive, roles, cmd, qual, with_check FROM pg_policies WHERE tablename = $1", table
    )
    return {
        row["policyname"]: (row["permissive"], list(row["roles"]), row["cmd"], row["qual"], row["with_check"])
        for row in rows
    }


@pytest.mark.parametrize("table", TENANTS)
async def test_a_tenants_table_has_the_one_policy_text_of_its_kind(
    schema: "asyncpg.Connection[Any]", table: str
) -> None:
    found = await policies(schema, table)
    text = SITE_POLICY if table in tables.SITE_TABLES else PARTNER_POLICY
    credential = found.pop("credential", None)
    appliance = found.pop("appliance", None)
    assert found == {
        "tenant": ("PERMISSIVE", ["cc_server"], "ALL", text, text),
        "platform": ("PERMISSIVE", ["cc_platform"], "ALL", "true", "true"),
    }
    assert credential is None or credential[:3] == ("PERMISSIVE", ["cc_credential"], "SELECT")
    has_appliance = await schema.fetchval(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = $1::regclass AND attname = 'appliance_id'", table
    )
    wanted = APPLIANCE_POLICY if has_appliance else HIDDEN_POLICY if table in HIDDEN_FROM_APPLIANCES else None
    wanted = ITSELF_POLICY if table == "appliances" else wanted
    assert appliance == (("RESTRICTIVE", ["cc_server"], "ALL", wanted, wanted) if wanted else None)


@pytest.mark.parametrize("table", TENANTS)
async def test_a_tenants_key_begins_with_the_tenant(schema: "asyncpg.Connection[Any]", table: str) -> None:
    columns = await schema.fetch(
        """
        SELECT a.attname FROM pg_constraint c
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
        WHERE c.conrelid = $1::regclass AND c.contype = 'p'
        """,
        table,
    )
    wanted = "site_id" if table in tables.SITE_TABLES else "partner_id"
    assert [row["attname"] for row in columns] == [wanted]
    not_null = "SELECT attnotnull FROM pg_attribute WHERE attrelid = $1::regclass AND attname = 'partner_id'"
    assert await schema.fetchval(not_null, table)


@pytest.mark.parametrize("table", sorted(tables.SITE_TABLES))
async def test_a_site_tables_references_carry_the_tenant(schema: "asyncpg.Connection[Any]", table: str) -> None:
    rows = await schema.fetch(
        """
        SELECT c.conname, (SELECT array_agg(a.attname::text) FROM pg_attribute a
                           WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)) AS columns
        FROM pg_constraint c WHERE c.conrelid = $1::regclass AND c.contype = 'f'
        """,
        table,
    )
    assert [row["conname"] for row in rows if not {"site_id", "partner_id"} & set(row["columns"])] == []
    assert rows or table == "evidence_bundles"


async def test_words_in_checks_are_the_enums_of_the_code(schema: "asyncpg.Connection[Any]") -> None:
    rows = await schema.fetch(
        "SELECT conname, pg_get_constraintdef(oid) AS text FROM pg_constraint WHERE conname LIKE '%\\_known'"
    )
    found = {row["conname"]: set(re.findall(r"'([^']+)'::text", row["text"])) for row in rows}
    assert found == {name: {str(word) for word in words} for name, words in WORDS.items()}


async def test_times_have_a_zone_and_text_has_no_varchar(schema: "asyncpg.Connection[Any]") -> None:
    rows = await schema.fetch(
        """
        SELECT table_name, column_name, data_type FROM information_schema.columns
        WHERE table_schema = 'public'
          AND data_type IN ('timestamp without time zone', 'character varying', 'character', 'date')
        """
    )
    assert [tuple(row) for row in rows] == []
