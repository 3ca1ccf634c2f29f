"""What each page of the route table asks of PostgreSQL, noted on the wire between the two."""

import re
import tempfile
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest

from ccserver import app
from ccserver.http import Endpoint
from ccserver.localpg import Urls
from ccshared.vocabulary import Role
from tests import people
from tests.architecture import rows
from tests.devices import Device, Running
from tests.people import Person
from tests.wire import Wire, tapped

AT_MOST = 3
PAGES = [
    row
    for row in app.ENDPOINTS
    if row.method == "GET" and not re.match(r"/(api/v1|agent|healthz|readyz|events)\b", row.path)
]
# Who calls, and for which partner, a mark that goes on in passing; and what only opens, sets and ends a transaction.
LOOK_UPS = ("cc_session(", "FROM partners WHERE id = $1 AND id <> 'platform'", "UPDATE witness_marks")
OF_SCOPES = ("BEGIN", "COMMIT", "SELECT set_config(")
BESIDE = ("UPDATE witness_marks",)  # by itself, when a receipt was given a moment ago
# What is there for another caller, or for nobody: it costs no more to say so.
ELSEWHERE = ("/platform/", "/welcome/")
# What a page is asked beside its address, where it reads more then; and the tables of names that are no table's.
ASKED = {"/codes": {"site": "acme-clinic"}, "/incidents": {"site": "acme-clinic"}}
TABLES = {"code": "enrollment_codes", "channel": "notification_channels", "delivery": "notifications"}
# What a page reads more of than its type says.
FILLED = {"rule": {"conditions": [{"field": "check", "operator": "eq", "value": "backup"}]}}


@dataclass(frozen=True)
class TappedUrls(Urls):
    """A database of which the server sees the wire only."""

    wire: Wire


@pytest.fixture
async def database(database: Urls) -> AsyncIterator[Urls]:
    with tempfile.TemporaryDirectory(prefix="cc-") as made:
        async with tapped(database.server, Path(made)) as wire:
            yield TappedUrls(**{**asdict(database), "server": wire.url}, wire=wire)


async def address(server: Running, device: Device, row: Endpoint) -> str:
    """Return the page's address with a row of acme-clinic for each name in it, made from the schema."""
    known = {"site": "acme-clinic", "appliance": device.appliance_id, "token": "A" * 43}
    conn = await asyncpg.connect(server.urls.admin)
    await conn.execute("SET session_replication_role = replica")
    if "{version}" in row.path:
        known["version"] = await policy_of(device)
    for name in set(re.findall(r"{(\w+)}", row.path)) - set(known):
        table, tenant = TABLES.get(name, f"{name}s"), ("acme", "acme-clinic", device.appliance_id)
        columns, names = await rows.maker(conn, table), await rows.columns_of(conn, table)
        made = rows.row_of(table, columns, names, tenant, 7) | FILLED.get(name, {})
        await rows.insert(conn, table, made)
        known[name] = str(made.get("id") or made["secret_hash"][:32])
    await conn.close()
    return re.sub(r"{(\w+)}", lambda found: known[found[1]], row.path)


async def policy_of(device: Device) -> str:
    """Return the version of the policy that the appliance gets."""
    said = {"version": "0.1.0", "hostname": "box", "sent_at_ms": 1, "clock": "sync"}
    assert (await device.call("POST", "checkin", json=said)).status_code == 200
    assert (await device.call("GET", "policy")).status_code == 200
    async with device.server.db.site("acme", "acme-clinic") as scope:
        return str(await scope.conn.fetchval("SELECT max(version) FROM policies"))


async def asked_of(server: Running, client: httpx.AsyncClient, path: str, query: dict[str, str]) -> list[str]:
    """Return what a page that was read before asks for, without what looks the caller up and opens scopes."""
    assert isinstance(server.urls, TappedUrls)
    await client.get(path, params=query)
    server.urls.wire.clear()
    answer = await client.get(path, params=query)
    assert answer.status_code in (200, 303) or path.startswith(ELSEWHERE), answer.text
    found = [each for each in server.urls.wire.statements if not each.startswith(OF_SCOPES + BESIDE)]
    return [each for each in found if not any(part in each for part in LOOK_UPS)]


@pytest.fixture(params=[Role.OWNER, Role.PLATFORM_ADMIN])
async def person(server: Running, request: pytest.FixtureRequest) -> AsyncIterator[Person]:
    partner = "platform" if request.param is Role.PLATFORM_ADMIN else "acme"
    found = await people.signed_in(server, "somebody@acme.example", request.param, partner)
    yield found
    await found.client.aclose()


@pytest.mark.parametrize("row", PAGES, ids=lambda row: row.path)
async def test_a_page_costs_at_most_three_statements(
    server: Running, device: Device, person: Person, row: Endpoint
) -> None:
    device.seal()
    device.check_run("backup", "fail")
    assert (await device.send(device.batch(0))).status_code == 200
    chosen = {"partner": "acme"} if person.user.partner_id == "platform" else {}
    path = await address(server, device, row)
    for query in (chosen, chosen | ASKED.get(row.path, {})):
        found = await asked_of(server, person.client, path, query)
        assert len(found) <= AT_MOST, found


async def test_a_statement_too_many_is_seen(server: Running) -> None:
    assert isinstance(server.urls, TappedUrls)
    server.urls.wire.clear()
    async with server.db.partner("acme") as scope:
        for _ in range(2):
            await scope.conn.fetchval("SELECT $1::int", 1)
    assert server.urls.wire.statements.count("SELECT $1::int") == 2
