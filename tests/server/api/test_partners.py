"""Partners over the API: for the platform's admins, and for nobody else."""

from tests.devices import Running
from tests.operators import Operator, audited, type_of, with_key


async def admin_of(server: Running) -> Operator:
    return await with_key(server, "platform_admin", "platform")


async def test_a_partner_is_made_once_and_may_then_have_sites(server: Running) -> None:
    admin, key = await admin_of(server), {"Idempotency-Key": "p1"}
    first, again = [
        await admin.call("POST", "partners", key, json={"id": "north-it", "name": "North IT"}) for _ in range(2)
    ]
    assert (first.status_code, first.json()) == (201, again.json())
    assert await audited(server, "platform") == [("partner.create", "north-it")]
    made = await admin.call("POST", "sites?partner=north-it", json={"name": "Clinic"})
    assert made.status_code == 201
    assert [action for action, _ in await audited(server, "north-it")] == ["site.create"]


async def test_a_taken_id_is_refused_and_so_is_the_platforms(server: Running) -> None:
    admin = await admin_of(server)
    for taken in ("acme", "platform"):
        answer = await admin.call("POST", "partners", json={"id": taken, "name": "x"})
        assert (answer.status_code, type_of(answer)) == (409, "already-exists")
    assert (await admin.call("GET", "partners/acme")).json()["name"] == "Acme"
    assert await audited(server, "platform") == []


async def test_a_cursor_walks_all_partners_but_the_platforms_own_row(server: Running) -> None:
    admin = await admin_of(server)
    for number in range(4):
        await admin.call("POST", "partners", json={"id": f"p{number}", "name": "x"})
    assert [partner["id"] for partner in await admin.walk("partners")] == ["p3", "p2", "p1", "p0", "acme"]
    assert (await admin.call("GET", "partners?total=true")).json()["total"] == 5
    for query in ("offset=10001", "cursor=AAAA"):
        assert (await admin.call("GET", f"partners?{query}")).status_code == 422


async def test_what_is_no_partner_is_not_there(server: Running) -> None:
    admin = await admin_of(server)
    for partner_id in ("platform", "no-such", "UPPER", "%27"):
        assert (await admin.call("GET", f"partners/{partner_id}")).status_code == 404


async def test_no_role_of_a_partner_sees_or_makes_partners(server: Running) -> None:
    for role in ("owner", "technician", "viewer"):
        who = await with_key(server, role)
        assert (await who.call("GET", "partners")).status_code == 403
        assert (await who.call("GET", "partners/acme")).status_code == 403
        assert (await who.call("POST", "partners", json={"name": "x"})).status_code == 403
    assert await audited(server, "platform") == []
