"""A dump of the database holds nothing that works as a credential: every value in it is tried as each kind of one."""

import base64
import binascii
import contextlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error

from ccserver import totp
from ccserver.config import Config
from ccserver.queries import users
from ccserver.queries.users import User
from ccshared import purposes
from ccshared.vocabulary import Role
from tests.devices import Device, Running
from tests.operators import unlimited
from tests.people import PASSWORD, Person

HASH = PasswordHasher(time_cost=1, memory_cost=64).hash(PASSWORD)  # cheap, so that hundreds of values can be tried
LOGIN = "olga@acme.example"
REPEATED = "once-and-again-0123456789"  # an Idempotency-Key


@dataclass(frozen=True)
class Held:
    """A server with one of everything that proves who somebody is; `true` has the values of these by their kind."""

    server: Running
    olga: Person
    true: dict[str, tuple[str, ...]]


@pytest.fixture
def settings(settings: Config) -> Config:
    return unlimited(settings)


@pytest.fixture
async def held(server: Running) -> AsyncIterator[Held]:
    """Enrol, sign in with a second factor, make keys, codes and links, as the product does."""
    used = await server.code("acme", "acme-clinic")
    first = Device(server, secrets.token_bytes(32))
    assert (await first.enroll(used)).status_code == 200
    device = await Device.enrolled(server, "acme", "acme-clinic")
    device.seal()
    device.check_run("backup", "fail")
    assert (await device.send(device.batch(0))).status_code == 200
    browser = httpx.AsyncClient(base_url=server.url, headers={"Sec-Fetch-Site": "same-origin"}, trust_env=False)
    async with browser:
        olga = Person(User("acme", "olga", LOGIN, str(Role.OWNER)), browser)
        async with server.db.platform() as scope:
            await users.insert(scope, olga.user, HASH)
        assert (await olga.give_password()).status_code == 303
        await olga.set_up()
        assert (await olga.give_code(await olga.ticket(), olga.code())).status_code == 303
        codes = [await made(olga, "sites/acme-clinic/codes", "code", hours=9, appliance=device.appliance_id)]
        codes += [str(await server.code("acme", "acme-clinic")), await many_codes(olga)]
        yield Held(
            server,
            olga,
            {
                "session": (browser.cookies["cc_session"],),
                "key": (await made(olga, "api-keys", "key", name="key", role="owner", days=9),),
                "token": (device.token,),
                "secret": tuple(code.rpartition("/")[2] for code in codes),
                "password": (PASSWORD,),
                "link": await links(olga),
                "totp": (totp.shown(olga.secret),),
                "recovery": olga.recovery_codes,
            },
        )


async def made(olga: Person, path: str, member: str, **body: Any) -> str:
    """Make a thing by the API, twice under one Idempotency-Key, and return the member that is shown this once."""
    headers = {"Idempotency-Key": REPEATED}
    first, again = [await olga.client.post(f"/api/v1/{path}", json=body, headers=headers) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 201), first.text
    assert first.json()[member] == again.json()[member]
    return str(first.json()[member])


async def many_codes(olga: Person) -> str:
    body = {"rows": [{"site": "acme-clinic", "count": 2}]}
    answer = await olga.client.post("/api/v1/codes", json=body, headers={"Idempotency-Key": REPEATED})
    assert answer.status_code == 201, answer.text
    return str(answer.json()[0]["code"])


async def links(olga: Person) -> tuple[str, ...]:
    """Return the tokens of an invitation's link and of another person's reset."""
    invited = await made(olga, "users", "link", login="new@acme.example", role="viewer")
    other = await olga.client.post("/api/v1/users", json={"login": "lost@acme.example", "role": "viewer"})
    reset = await olga.client.post(f"/api/v1/users/{other.json()['user_id']}/reset", json={})
    assert reset.status_code == 200, reset.text
    return tuple(link.rpartition("/")[2] for link in (invited, str(reset.json()["link"])))


async def dumped(url: str) -> set[str]:
    """Return every value of every table as text: as it stands, its hex, its parts, and what JSON in it holds."""
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
    found |= set(re.findall(r"[0-9A-Za-z_-]{16,}", text))  # a link's token, a code's secret
    with contextlib.suppress(orjson.JSONDecodeError):
        for each in leaves(orjson.loads(raw)):
            found |= {each, each.encode().hex(), *re.findall(r"[0-9A-Za-z_-]{16,}", each)}
    return found


def answered(answer: httpx.Response) -> bool:
    """Whether a request was let through; one that was put off has been no trial."""
    assert answer.status_code != 429
    return answer.status_code == 200


async def as_session(held: Held, value: str) -> bool:
    headers = {"Cookie": f"cc_session={value}"}
    return answered(await held.server.client.get("/api/v1/sessions", headers=headers))


async def as_key(held: Held, value: str) -> bool:
    bearers = {value, f"cck_{value}"}
    answers = [await held.server.client.get("/api/v1/sites", headers=bearer(each)) for each in bearers]
    return any(answered(each) for each in answers)


async def as_token(held: Held, value: str) -> bool:
    return answered(await held.server.client.get("/agent/v1/log", headers=bearer(value)))


def bearer(value: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {value}"}


async def as_secret(held: Held, value: str) -> bool:
    device = Device(held.server, secrets.token_bytes(32))
    code = purposes.EnrolmentCode(held.server.keys.server, held.server.keys.order_fingerprint, value)
    return answered(await device.enroll(code))


async def as_password(_held: Held, value: str) -> bool:
    try:
        return PasswordHasher().verify(HASH, value)
    except Argon2Error:
        return False


async def as_link(held: Held, value: str) -> bool:
    return bool(re.fullmatch("[0-9A-Za-z._-]+", value)) and answered(await held.server.client.get(f"/welcome/{value}"))


DECODERS: tuple[Callable[[str], bytes], ...] = (
    str.encode,
    bytes.fromhex,
    lambda text: base64.b32decode(text + "=" * (-len(text) % 8), casefold=True),
    lambda text: base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)),
)


async def as_totp(held: Held, value: str) -> bool:
    """Whether a value is the authenticator's secret in any spelling: it makes the same codes."""
    step = totp.step_at(time.time())
    for decode in DECODERS:
        with contextlib.suppress(ValueError, binascii.Error):
            secret = decode(value)
            if all(totp.code(secret, each) == totp.code(held.olga.secret, each) for each in (step, step + 1)):
                return True
    return False


async def as_recovery(held: Held, value: str) -> bool:
    """Whether a value is a recovery code: by its hash, as a sign-in would lock the login at the fifth."""
    good = {totp.recovery_hash(held.olga.user.id, code) for code in held.olga.recovery_codes}
    return totp.recovery_hash(held.olga.user.id, value) in good


WAYS = {
    "session": as_session,
    "key": as_key,
    "token": as_token,
    "secret": as_secret,
    "password": as_password,
    "link": as_link,
    "totp": as_totp,
    "recovery": as_recovery,
}
MOST = 6000  # values: each is tried in each way, so that the time is bounded by it


def sendable(values: set[str]) -> list[str]:
    """Return what a client would send in a header or form at all, and at a length that a server reads."""
    return sorted(each for each in values if each.isascii() and each.isprintable() and 6 <= len(each) <= 4000)


async def working(held: Held, way: str, values: set[str]) -> list[str]:
    """Return the values that work as this kind of credential."""
    tried = [each for each in sendable(values) if way != "session" or not set(each) & set('; ,"')]
    assert 100 < len(tried) < MOST
    return [value for value in tried if await WAYS[way](held, value)]


@pytest.mark.parametrize("way", WAYS)
async def test_no_value_of_the_database_works_as_a_credential(held: Held, way: str) -> None:
    values = await dumped(held.server.urls.admin)
    assert HASH in values
    assert await working(held, way, values) == []


async def test_the_true_values_work_and_stand_nowhere_in_the_database(held: Held) -> None:
    everything = "\n".join(await dumped(held.server.urls.admin))
    true = [(way, value) for way, values in held.true.items() for value in values]
    assert len(true) >= 20
    assert [way for way, value in true if value in everything] == []
    assert held.olga.secret.hex() not in everything
    assert REPEATED not in everything
    assert [way for way, value in true if not await WAYS[way](held, value)] == []


@pytest.mark.parametrize("way", WAYS)
async def test_a_secret_that_somebody_stored_as_it_is_would_be_found(held: Held, way: str) -> None:
    conn = await asyncpg.connect(held.server.urls.admin)
    await conn.execute("UPDATE partners SET name = $1 WHERE id = 'acme'", held.true[way][0])
    await conn.close()
    assert held.true[way][0] in await working(held, way, await dumped(held.server.urls.admin))
