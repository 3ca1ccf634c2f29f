"""What a browser is shown when something goes wrong; programs get problem documents."""

import asyncio

import asyncpg
import httpx
import pytest

from ccserver import errors
from ccshared.vocabulary import Role
from tests import people
from tests.devices import Running

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def is_page(answer: httpx.Response, status: int) -> bool:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    return f"<code>{answer.headers['x-request-id']}</code>" in answer.text and "Go to the dashboard" in answer.text


async def test_a_page_that_is_not_there_and_a_wrong_method(server: Running) -> None:
    assert is_page(await server.client.get("/nothing", headers=HTML), 404)
    wrong = await server.client.delete("/login", headers=HTML)
    assert is_page(wrong, 405)
    assert wrong.headers["allow"]


async def test_a_form_that_is_too_large_and_one_of_another_site(server: Running) -> None:
    assert is_page(
        await server.client.post("/login", content=b"x" * 9000, headers=HTML | {"Sec-Fetch-Site": "same-origin"}), 413
    )
    foreign = HTML | {"Sec-Fetch-Site": "cross-site"}
    assert is_page(await server.client.post("/login", headers=foreign), 403)


@pytest.mark.parametrize("path", ["/agent/v1/nothing", "/api/v1/nothing"])
async def test_the_api_and_the_agents_get_problem_documents_even_so(server: Running, path: str) -> None:
    answer = await server.client.get(path, headers=HTML)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await server.client.get("/nothing")).headers["content-type"] == "application/problem+json"


async def test_a_database_that_is_away_is_a_page_with_when_to_come_back(server: Running) -> None:
    person = await people.add(server, "olga@acme.example", Role.OWNER)
    await person.give_password()
    admin = await asyncpg.connect(server.urls.admin)
    name = await admin.fetchval("SELECT current_database()")
    await admin.close()
    other = await asyncpg.connect(server.urls.admin.replace(name, "postgres"))
    await other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    await other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    await asyncio.sleep(0.2)
    answer = await person.client.get("/", headers=HTML, timeout=20)  # a pooler lets wait
    await other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    await other.close()
    await person.client.aclose()
    assert is_page(answer, 503)
    assert answer.headers["retry-after"] == "30"


async def test_what_nobody_foresaw_is_a_page_and_a_problem_with_the_logs_id(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    person = await people.add(server, "olga@acme.example", Role.OWNER)
    await person.give_password()
    admin = await asyncpg.connect(server.urls.admin)
    await admin.execute("ALTER TABLE sessions RENAME TO gone")
    await admin.close()
    assert is_page(await person.client.get("/", headers=HTML), 500)
    problem = await person.client.get("/api/v1/sites")
    await person.client.aclose()
    assert problem.json()["request_id"] == problem.headers["x-request-id"]
    ids = [record.__dict__["fields"]["request_id"] for record in caplog.records if record.exc_info]
    assert problem.headers["x-request-id"] in ids


def test_too_many_requests_has_a_page_of_its_own() -> None:
    from ccserver.http import retry_after
    from ccserver.pages import trouble

    assert retry_after(errors.TooManyRequestsError(retry_after_s=7)) == {"Retry-After": "7"}
    assert {403, 404, 405, 413, 429, 500, 503} <= set(trouble._SAID)
