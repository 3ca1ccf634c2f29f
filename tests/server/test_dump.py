"""A dump of the database holds nothing that works as a credential: every value in it is tried as each kind of one."""

import base64
import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error

from ccserver.queries import users
from ccserver.queries.users import User
from ccshared import purposes
from ccshared.vocabulary import Role
from tests.devices import Device, Running

PASSWORD = "correct horse battery staple"
HASH = PasswordHasher(time_cost=1, memory_cost=64).hash(PASSWORD)  # cheap, so that hundreds of values can be tried
LOGIN = "olga@acme.example"


@dataclass(frozen=True)
class Held:
    """A server with one of everything that proves who somebody is, and the true values of these."""

    server: Running
    token: str
    cookie: str
    key: str
    unused: purposes.EnrolmentCode
    used: purposes.EnrolmentCode


@pytest.fixture
async def held(server: Running) -> Held:
    """Enrol, sign in, and make a key and codes, as the product does where it can."""
    used = await server.code("acme", "acme-clinic")
    device = Device(server, secrets.token_bytes(32))
    assert (await device.enroll(used)).status_code == 200
    second = await Device.enrolled(server, "acme", "acme-clinic")
    second.seal()
    second.check_run("backup", "fail")
    assert (await second.send(second.batch(0))).status_code == 200
    key = "cck_" + secrets.token_urlsafe(32)
    async with server.db.platform() as scope:
        await users.insert(scope, User("acme", "olga", LOGIN, str(Role.OWNER)), HASH)
        await scope.conn.execute(
            "INSERT INTO api_keys (partner_id, id, key_hash, name, role, created_by, expires_at)"
            " VALUES ('acme', 'k1', $1, 'key', 'owner', 'test', $2)",
            hashlib.sha256(key.encode()).hexdigest(),
            datetime.now(UTC) + timedelta(hours=1),
        )
    headers = {"Sec-Fetch-Site": "same-origin"}
    answer = await server.client.post("/login", data={"login": LOGIN, "password": PASSWORD}, headers=headers)
    assert answer.status_code == 303, answer.text
    cookie = answer.cookies["cc_session"]
    server.client.cookies.clear()
    return Held(server, second.token, cookie, key, await server.code("acme", "acme-clinic"), used)


async def dumped(url: str) -> set[str]:
    """Return every value of every table as text: as it stands, its hex, and what JSON in it holds."""
    conn = await asyncpg.connect(url)
    tables = await conn.fetch(
        """
        SELECT oid::regclass::text AS name FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
        """
    )
    found: set[str] = set()
    for table in tables:
        for row in await conn.fetch(f"TABLE {table['name']}"):
            for value in row.values():
                found |= forms(value if isinstance(value, bytes) else str(value).encode())
    await conn.close()
    return found - {""}


def leaves(value: Any) -> Iterator[str]:
    """Walk through JSON to the values that are no containers."""
    if isinstance(value, dict):
        for each in value.values():
            yield from leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each)
    elif value is not None:
        yield str(value)


def forms(raw: bytes) -> set[str]:
    """Return a value in each form in which it might be presented."""
    text = raw.decode("utf-8", "replace")
    found = {text, raw.hex(), base64.urlsafe_b64encode(raw).decode().rstrip("=")}
    with contextlib.suppress(orjson.JSONDecodeError):
        for each in leaves(orjson.loads(raw)):
            found |= {each, each.encode().hex()}
    return found


async def as_session(held: Held, value: str) -> bool:
    headers = {"Cookie": f"cc_session={value}"}
    return (await held.server.client.get("/", headers=headers)).status_code == 200


async def as_key(held: Held, value: str) -> bool:
    headers = {"Authorization": f"Bearer {value}"}
    return (await held.server.client.get("/", headers=headers)).status_code == 200


async def as_token(held: Held, value: str) -> bool:
    headers = {"Authorization": f"Bearer {value}"}
    return (await held.server.client.get("/agent/v1/log", headers=headers)).status_code == 200


async def as_secret(held: Held, value: str) -> bool:
    device = Device(held.server, secrets.token_bytes(32))
    code = purposes.EnrolmentCode(held.server.keys.server, held.server.keys.order_fingerprint, value)
    return (await device.enroll(code)).status_code == 200


async def as_password(_held: Held, value: str) -> bool:
    try:
        return PasswordHasher().verify(HASH, value)
    except Argon2Error:
        return False


WAYS = {"session": as_session, "key": as_key, "token": as_token, "secret": as_secret, "password": as_password}


def header_safe(value: str) -> bool:
    """Whether a client would send it as a header at all, and at a length that a server reads."""
    return value.isascii() and value.isprintable() and len(value) <= 4000 and ";" not in value


@pytest.mark.parametrize("way", WAYS)
async def test_no_value_of_the_database_works_as_a_credential(held: Held, way: str) -> None:
    values = await dumped(held.server.urls.admin)
    assert HASH in values
    assert hashlib.sha256(held.cookie.encode()).hexdigest() in values
    assert held.unused.secret_hash in values
    tried = {value for value in values if header_safe(value)} | {"cck_" + value for value in values if len(value) == 43}
    assert len(tried) > 100
    assert [value for value in sorted(tried) if await WAYS[way](held, value)] == []


async def test_the_true_values_work_and_stand_nowhere_in_the_database(held: Held) -> None:
    true = {
        "session": held.cookie,
        "key": held.key,
        "token": held.token,
        "secret": held.unused.secret,
        "password": PASSWORD,
    }
    values = await dumped(held.server.urls.admin)
    everything = "\n".join(values)
    assert [way for way, value in true.items() if value in everything] == []
    assert held.used.secret not in everything
    assert [way for way, value in true.items() if not await WAYS[way](held, value)] == []


async def test_a_secret_that_somebody_stored_as_it_is_would_be_found(held: Held) -> None:
    conn = await asyncpg.connect(held.server.urls.admin)
    await conn.execute("UPDATE appliances SET version = $1", held.unused.secret)
    await conn.execute("UPDATE partners SET name = $1 WHERE id = 'acme'", held.key)
    await conn.close()
    values = await dumped(held.server.urls.admin)
    assert {held.unused.secret, held.key} <= values
