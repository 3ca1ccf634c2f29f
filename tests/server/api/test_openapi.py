"""The OpenAPI document and the health routes."""

import re
from typing import Any

import asyncpg

from ccserver import app
from ccserver.http import Caller
from tests.devices import Running


async def document(server: Running) -> dict[str, Any]:
    answer = await server.client.get("/api/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def test_every_route_for_programs_is_in_the_document(server: Running) -> None:
    paths = (await document(server))["paths"]
    declared = {(row.path, row.method.lower()) for row in app.ENDPOINTS if row.path.startswith(("/api/v1/", "/agent/"))}
    assert declared <= {(path, method) for path, methods in paths.items() for method in methods}


async def test_every_reference_of_the_document_leads_somewhere(server: Running) -> None:
    made = await document(server)
    names = set(re.findall(r"#/components/schemas/([^'\"]+)", str(made)))
    assert names
    assert names <= set(made["components"]["schemas"])


async def test_operation_ids_are_each_there_once(server: Running) -> None:
    paths = (await document(server))["paths"]
    found = [operation["operationId"] for methods in paths.values() for operation in methods.values()]
    assert sorted(set(found)) == sorted(found)


async def test_security_says_who_may_call(server: Running) -> None:
    paths = (await document(server))["paths"]
    for row in app.ENDPOINTS:
        if row.path in paths:
            named = {name for each in paths[row.path][row.method.lower()]["security"] for name in each}
            assert ("device" in named) is (row.caller is Caller.DEVICE)
            assert (named == set()) is (row.caller is Caller.ANYONE)


async def test_what_a_handler_declares_stands_in_the_document(server: Running) -> None:
    operation = (await document(server))["paths"]["/agent/v1/checkin"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/Checkin"}
    assert operation["responses"]["401"]["content"]["application/problem+json"]["schema"]["$ref"].endswith("/Problem")


async def test_it_is_alive_and_ready(server: Running) -> None:
    assert (await server.client.get("/healthz")).json() == {"status": "ok"}
    assert (await server.client.get("/readyz")).status_code == 200


async def test_it_is_alive_but_not_ready_on_a_schema_it_does_not_know(server: Running) -> None:
    admin = await asyncpg.connect(server.urls.admin)
    await admin.execute("DELETE FROM schema_migrations WHERE number > 3")
    await admin.close()
    answer = await server.client.get("/readyz")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:central-command:problem:database-unavailable")
    assert (await server.client.get("/healthz")).status_code == 200


async def test_a_method_that_an_address_does_not_take_is_answered_with_those_that_it_does(server: Running) -> None:
    answer = await server.client.request("DELETE", "/api/v1/sites")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert (answer.json()["type"], answer.json()["status"]) == ("urn:central-command:problem:method-not-allowed", 405)
    for methods in (await document(server))["paths"].values():
        assert all("405" in operation["responses"] for operation in methods.values())


async def test_every_create_takes_an_idempotency_key(server: Running) -> None:
    rows = [row for row in app.ENDPOINTS if row.path.startswith("/api/v1/") and 201 in row.answers]
    assert [row.path for row in rows if "Idempotency-Key" not in row.headers] == []
    assert len(rows) >= 8


async def test_the_reference_names_every_operation_and_runs_nothing(server: Running) -> None:
    answer = await server.client.get("/api/reference")
    assert answer.status_code == 200
    paths = (await document(server))["paths"]
    ids = {operation["operationId"] for methods in paths.values() for operation in methods.values()}
    assert ids == set(re.findall(r'<section class="card" id="((?!schema-)[^"]+)"', answer.text))
    assert "<script" not in answer.text
    assert "http://" not in answer.text
