"""The audit log over the API."""

import asyncpg
import pytest

from ccserver.queries import audit_log
from ccserver.queries.audit_log import Act
from tests.devices import Running
from tests.operators import type_of, with_key


async def write(server: Running, number: int, partner_id: str = "acme") -> None:
    for each in range(number):
        async with server.db.partner(partner_id) as scope:
            await audit_log.append(scope, Act(f"user:{each % 2}", "site.rename", f"site:{each}", {"number": each}))


async def test_a_cursor_walks_the_log_and_filters_narrow_it(server: Running) -> None:
    await write(server, 5)
    owner = await with_key(server, "owner")
    assert [each["seq"] for each in await owner.walk("audit")] == [4, 3, 2, 1, 0]
    assert [each["seq"] for each in await owner.walk("audit", actor="user:0")] == [4, 2, 0]
    assert [each["seq"] for each in await owner.walk("audit", target="site:3", action="site.rename")] == [3]
    moment = (await owner.call("GET", "audit/entries/3")).json()["at"]
    assert [each["seq"] for each in await owner.walk("audit", since=moment)] == [4, 3]
    assert [each["seq"] for each in await owner.walk("audit", until=moment)] == [2, 1, 0]
    assert (await owner.call("GET", "audit?total=true&actor=user:1")).json()["total"] == 2


async def test_the_chain_is_verified_and_a_bad_entry_named(server: Running) -> None:
    await write(server, 3)
    owner = await with_key(server, "owner")
    good = (await owner.call("GET", "audit/verification")).json()
    assert (good["good"], good["size"], good["verified"], good["next"]) == (True, 3, 3, None)
    conn = await asyncpg.connect(server.urls.admin)
    await conn.execute("SET session_replication_role = replica")
    await conn.execute("UPDATE audit_log SET target = 'site:other' WHERE seq = 1")
    await conn.close()
    bad = (await owner.call("GET", "audit/verification")).json()
    assert (bad["good"], bad["first_bad_seq"], bad["verified"]) == (False, 1, 1)


async def test_a_long_chain_is_verified_in_several_calls(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    await write(server, 5)
    monkeypatch.setattr("ccserver.audit_following.AT_ONCE", 2)
    monkeypatch.setattr("ccserver.audit_following._AT_ONCE", 2)
    owner = await with_key(server, "owner")
    first = (await owner.call("GET", "audit/verification")).json()
    assert (first["good"], first["verified"]) == (None, 2)
    second = (await owner.call("GET", "audit/verification", params={"cursor": first["next"]})).json()
    third = (await owner.call("GET", "audit/verification", params={"cursor": second["next"]})).json()
    assert (third["good"], third["verified"], third["next"]) == (True, 5, None)
    listed = (await owner.call("GET", "audit?limit=1")).json()["next"]
    assert type_of(await owner.call("GET", "audit/verification", params={"cursor": listed})) == "cursor-invalid"


async def test_each_reads_the_chain_of_their_own(server: Running) -> None:
    await server.add_site("zeta", "zeta-one")
    await write(server, 2)
    await write(server, 1, "zeta")
    zeta, root = await with_key(server, "owner", "zeta"), await with_key(server, "platform_admin", "platform")
    assert len(await zeta.walk("audit")) == 1
    assert (await zeta.call("GET", "audit/entries/1")).status_code == 404
    assert len(await root.walk("audit", partner="acme")) == 2
    assert await root.walk("platform/audit") == []
    assert (await root.call("GET", "platform/audit/verification")).json()["good"] is True
    for role in ("viewer", "technician"):
        assert (await (await with_key(server, role)).call("GET", "audit")).status_code == 403
