"""Second factors over the real server: set up, asked for, used once; lock-out of a login that is guessed at."""

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from ccshared.vocabulary import Role
from tests import people
from tests.devices import Running
from tests.people import PASSWORD, Person


@pytest.fixture
async def olga(server: Running) -> AsyncIterator[Person]:
    """An owner with a second factor, signed in."""
    person = await people.signed_in(server, "olga@acme.example", Role.OWNER)
    yield person
    await person.client.aclose()


async def row(server: Running, statement: str, *values: object) -> asyncpg.Record:
    """Read the database as its superuser."""
    conn = await asyncpg.connect(server.urls.admin)
    found = await conn.fetchrow(statement, *values)
    await conn.close()
    assert found is not None
    return found


async def unlock(server: Running) -> None:
    """Let the lock's time pass."""
    await row(server, "UPDATE users SET locked_until = now() - interval '1 s' RETURNING 1")


async def test_who_has_a_second_factor_is_not_signed_in_by_the_password(olga: Person) -> None:
    olga.client.cookies.clear()
    answer = await olga.give_password()
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    assert (await olga.client.get("/account")).status_code == 303
    olga.client.cookies.set("cc_session", people.hidden(answer))
    assert (await olga.client.get("/account")).status_code == 303


async def test_the_code_signs_in_with_a_second_factor_and_only_once(server: Running, olga: Person) -> None:
    ticket, code = await olga.ticket(), olga.code()
    assert (await olga.give_code(ticket, code)).status_code == 303
    assert (await row(server, "SELECT bool_and(second_factor) AS all FROM sessions"))["all"]
    again = await olga.give_code(await olga.ticket(), code)
    assert (again.status_code, "set-cookie" in again.headers) == (401, False)


async def test_the_code_that_confirmed_the_set_up_is_used_up(olga: Person) -> None:
    assert (await olga.give_code(await olga.ticket(), olga.last_code)).status_code == 401


async def test_a_recovery_code_signs_in_once(olga: Person) -> None:
    assert len(olga.recovery_codes) == 10
    assert (await olga.give_code(await olga.ticket(), olga.recovery_codes[3])).status_code == 303
    assert "9 recovery codes left" in (await olga.client.get("/account")).text
    assert (await olga.give_code(await olga.ticket(), olga.recovery_codes[3])).status_code == 401


async def test_new_recovery_codes_void_the_old_ones(olga: Person) -> None:
    answer = await olga.client.post("/account/recovery-codes", data={"password": PASSWORD})
    assert answer.status_code == 200
    assert (await olga.give_code(await olga.ticket(), olga.recovery_codes[0])).status_code == 401


async def test_the_seed_is_sealed_and_the_recovery_codes_are_hashes(server: Running, olga: Person) -> None:
    sealed = (await row(server, "SELECT totp_sealed FROM users"))["totp_sealed"]
    assert olga.secret not in sealed
    kept = (await row(server, "SELECT array_agg(code_hash) AS kept FROM recovery_codes"))["kept"]
    assert not set(olga.recovery_codes) & set(kept)


async def test_a_forged_ticket_or_one_from_before_a_new_password_is_refused(server: Running, olga: Person) -> None:
    ticket = await olga.ticket()
    assert (await olga.give_code(ticket[:-1] + ("A" if ticket[-1] != "A" else "B"), olga.code())).status_code == 401
    await row(server, "UPDATE users SET password_hash = password_hash || 'x' RETURNING 1")
    assert (await olga.give_code(ticket, olga.recovery_codes[0])).status_code == 401


async def test_setting_up_asks_for_the_password_and_replaces_no_confirmed_factor(olga: Person) -> None:
    wrong = await olga.client.post("/account/second-factor", data={"password": "wrong"})
    assert (wrong.status_code, "secret=" in wrong.text) == (422, False)
    assert (await olga.client.post("/account/second-factor", data={"password": PASSWORD})).status_code == 403


async def test_confirming_ends_every_session_that_lacked_the_second_factor(server: Running) -> None:
    person = await people.add(server, "tom@acme.example", Role.TECHNICIAN)
    await person.give_password()
    stolen = dict(person.client.cookies)
    person.client.cookies.clear()
    await person.give_password()
    await person.set_up()
    person.client.cookies.clear()
    person.client.cookies.update(stolen)
    assert (await person.client.get("/account")).status_code == 303
    await person.client.aclose()


async def test_a_new_password_ends_the_other_sessions_and_keeps_the_second_factor(olga: Person) -> None:
    before = dict(olga.client.cookies)
    data = {"password": PASSWORD, "new_password": "another long password"}
    assert (await olga.client.post("/account/password", data=data)).headers["location"] == "/account"
    assert (await olga.client.get("/account")).status_code == 200
    olga.client.cookies.clear()
    olga.client.cookies.update(before)
    assert (await olga.client.get("/account")).status_code == 303
    assert (await olga.give_password()).status_code == 401


# Lock-out


async def test_five_failures_lock_a_login_and_the_right_password_gets_the_same_answer(server: Running) -> None:
    person = await people.add(server, "vic@acme.example", Role.VIEWER)
    wrong = [await person.give_password("wrong") for _ in range(5)]
    locked = await person.give_password()
    assert {answer.status_code for answer in wrong} == {locked.status_code} == {401}
    assert locked.text == wrong[0].text
    await unlock(server)
    assert (await person.give_password()).status_code == 303
    assert (await row(server, "SELECT failed_count FROM users"))["failed_count"] == 0
    await person.client.aclose()


async def test_the_lock_doubles_from_a_minute_to_an_hour(server: Running) -> None:
    person = await people.add(server, "vic@acme.example", Role.VIEWER)
    spans = []
    for failed in range(4, 13):
        await row(server, "UPDATE users SET failed_count = $1, locked_until = NULL RETURNING 1", failed)
        await person.give_password("wrong")
        spans.append((await row(server, "SELECT locked_until - now() AS span FROM users"))["span"])
    minutes = [round(span / timedelta(minutes=1)) for span in spans]
    assert minutes == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    await person.client.aclose()


async def test_wrong_codes_lock_the_login_and_the_password_between_them_resets_nothing(
    server: Running, olga: Person
) -> None:
    for _ in range(5):
        assert (await olga.give_code(await olga.ticket(), "000000")).status_code == 401
    assert (await olga.give_password()).status_code == 401
    assert (await row(server, "SELECT locked_until > now() AS locked FROM users"))["locked"]
    await unlock(server)
    assert (await olga.give_code(await olga.ticket(), olga.code())).status_code == 303


async def test_sign_ins_and_refusals_are_audited_without_what_was_typed(server: Running, olga: Person) -> None:
    await olga.give_password("hunter2hunter2")
    await olga.client.post("/login", data={"login": "hunter2hunter2", "password": "x"})
    statement = (
        "SELECT array_agg(action) AS actions, string_agg(convert_from(entry, 'UTF8'), '') AS text FROM audit_log"
    )
    found = await row(server, statement)
    assert {"session.open", "session.refuse", "second_factor.confirm"} <= set(found["actions"])
    assert "hunter2" not in found["text"]
