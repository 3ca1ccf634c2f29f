"""People in tests: added to the database, signed in with a browser of their own, with a second factor."""

import base64
import re
import time
from dataclasses import dataclass

import httpx

from ccserver import auth, totp
from ccserver.queries import users
from ccserver.queries.users import User
from ccshared import ids
from ccshared.vocabulary import Role
from tests.devices import Running

PASSWORD = "correct horse battery staple"
HASH = auth.hash_password(PASSWORD)


@dataclass
class Person:
    """A person, their browser, and what their authenticator holds."""

    user: User
    client: httpx.AsyncClient
    secret: bytes = b""
    recovery_codes: tuple[str, ...] = ()
    ahead: int = 0
    last_code: str = ""

    def code(self) -> str:
        """The next code that was not used yet, as far as one step ahead."""
        self.ahead += 1
        self.last_code = totp.code(self.secret, totp.step_at(time.time()) + self.ahead - 1)
        return self.last_code

    async def give_password(self, password: str = PASSWORD) -> httpx.Response:
        return await self.client.post("/login", data={"login": self.user.login, "password": password})

    async def give_code(self, ticket: str, code: str) -> httpx.Response:
        return await self.client.post("/login/code", data={"ticket": ticket, "code": code})

    async def ticket(self) -> str:
        return hidden(await self.give_password())

    async def set_up(self) -> None:
        """Set up the second factor; the session is one with it from here on."""
        shown = await self.client.post("/account/second-factor", data={"password": PASSWORD})
        found = re.search(r"secret=([A-Z2-7]{32})", shown.text)
        assert found is not None, shown.text
        self.secret = base64.b32decode(found[1])
        confirmed = await self.client.post("/account/second-factor/confirm", data={"code": self.code()})
        assert confirmed.status_code == 200, confirmed.text
        self.recovery_codes = tuple(re.findall(r"<code>([a-z2-7-]{19})</code>", confirmed.text))


def hidden(answer: httpx.Response) -> str:
    """Return the ticket in a page that asks for the code."""
    found = re.search(r'name="ticket" value="([^"]+)"', answer.text)
    assert found is not None, answer.text
    return found[1]


async def add(server: Running, login: str, role: Role, partner_id: str = "acme") -> Person:
    """Add a person, who has a browser and is not signed in."""
    user = User(partner_id, ids.new_id(), login, str(role))
    async with server.db.platform() as scope:
        await users.insert(scope, user, HASH)
    return Person(
        user, httpx.AsyncClient(base_url=server.url, headers={"Sec-Fetch-Site": "same-origin"}, trust_env=False)
    )


async def signed_in(server: Running, login: str, role: Role, partner_id: str = "acme") -> Person:
    """Add a person who has signed in with a password and set up a second factor."""
    person = await add(server, login, role, partner_id)
    assert (await person.give_password()).status_code == 303
    await person.set_up()
    return person
