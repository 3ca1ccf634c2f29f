"""Keys that follow one another: receipts are believed along the chain, and only along it.

Real agents and the real app: the server's keys are rotated while an agent is away, once or several times; device keys
are rotated, and the database is put back to before that; an appliance is installed anew by a code that names it; a
server shows a key that no statement announced.
"""

import asyncio
import json
import random
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from ccagent import alarms, enrolment, identity, queue, rotation, verify
from ccagent.places import Places
from ccagent.store import Store
from ccagent.uploader import Pace
from ccserver import enrolment as server_enrolment
from ccserver import keys, roles
from ccserver.config import Config
from ccserver.localpg import LocalPostgres, Urls
from ccshared import purposes
from ccshared.vocabulary import Clock
from tests.devices import Running
from tests.faults import central
from tests.faults.central import Appliance, Receipts
from tests.faults.rows import Row, scratch, seeded


def run(seed: int, n: int) -> Row:
    """Tell n stories of one appliance each."""
    row, chance = Row(), seeded(seed, "keys")
    with central.quiet(), scratch() as folder, central.postgres(durable=False) as running:
        made = central.settings(folder)
        for number in range(n):
            story = Story(row, chance, folder / f"agent-{number}", made, running)
            asyncio.run(story.tell())
    return row


@dataclass
class Story:
    """One appliance, and the server that it speaks to."""

    row: Row
    chance: random.Random
    folder: Path
    made: Config
    postgres: LocalPostgres

    @property
    def urls(self) -> Urls:
        return self.postgres.urls(central.LIVE)

    async def tell(self) -> None:
        self.at = self.folder
        await self._deliver(5)
        for step in (self._server_keys, self._device_key, self._server_keys, self._reinstalled, self._device_key):
            await step()
        await self._put_back_to_before_device_keys()
        await self._a_key_that_nobody_announced()
        self.row.count("stories")

    async def _deliver(self, number: int, *, device_key: bool = False) -> None:
        """Bring all to the server, and look at what stands there and what is held here."""
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(central.serving(self.made, self.urls))
            if device_key:
                async with self._appliance(server) as old:
                    await old.seal(self.chance.randint(0, 3))
                    rotation.begin(old.store, old.places, (old.now_ms, Clock.UNSYNC))
            one = await stack.enter_async_context(self._appliance(server))
            await one.seal(number)
            await one.until(10)
            self.row.expect(one.waiting() == 0, f"{one.waiting()} entries wait: {one.store.read(queue.destination)}")
            await self._compare(one)

    def _appliance(self, server: Running) -> AbstractAsyncContextManager[Appliance]:
        return central.appliance(server, self.at, Receipts(), Pace(uniform=self.chance.uniform))

    async def _compare(self, one: Appliance) -> None:
        known = identity.load(one.places)
        assert known is not None
        for log in one.store.read(verify.against_receipts, known.witnesses):
            self.row.expect(log.trouble is None, f"{log.epoch}: {log.trouble}")
            self.row.count("receipts", log.receipts)
        for trouble in await central.differences(self.urls, one):
            self.row.expect(False, trouble)

    async def _server_keys(self) -> None:
        """Rotate the server's keys at least twice while the agent is away."""
        for use in ("order", "witness", *self.chance.choices(("order", "witness"), k=self.chance.randint(2, 4))):
            keys.rotate(self.made.key_file, use)
            self.row.count("server keys")
        await self._deliver(self.chance.randint(1, 5))
        newest = keys.load(self.made.key_file).witness.name
        known = identity.load(Places(self.at))
        self.row.expect(known is not None and newest in known.witnesses, "the newest key was not followed to")

    async def _device_key(self) -> None:
        """Rotate the device's key: the old one vouches for the new one."""
        before = self._roots()
        await self._deliver(2, device_key=True)
        after = self._roots()
        self.row.count("device keys")
        self.row.expect(len(after) == len(before) + 1, "no log began by the new key")
        self.row.expect(after[-1] == before[-1], "a key that the one before named is unvouched")

    async def _put_back_to_before_device_keys(self) -> None:
        """Put the database back to before the device's key was rotated, once or several times; all comes again."""
        await self._replace_database("cc_copy", central.LIVE)
        for _ in range(self.chance.randint(1, 3)):
            await self._device_key()
        await self._replace_database(central.LIVE, "cc_copy")
        await self._deliver(self.chance.randint(1, 5))
        self.row.count("restores")

    async def _replace_database(self, name: str, template: str) -> None:
        conn = await asyncpg.connect(self.postgres.urls("postgres").admin)
        await conn.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        for statement in roles.database_statements(name, template):
            await conn.execute(statement)
        await conn.close()

    async def _reinstalled(self) -> None:
        """Install the appliance anew: nobody vouches for the key, and the id is the same."""
        before, known = self._roots(), identity.load(Places(self.at))
        assert known is not None
        self.at = self.folder.with_name(self.folder.name + "-anew")
        async with central.serving(self.made, self.urls) as server:
            async with server.db.site("acme", "acme-clinic") as scope:
                code = await server_enrolment.make_code(scope, server.keys, 24, replaces=known.appliance_id)
            await asyncio.to_thread(self.at.mkdir)
            await enrolment.enroll(Places(self.at), enrolment.Server(server.url), str(code), "box")
        await self._deliver(3)
        anew = identity.load(Places(self.at))
        assert anew is not None
        self.row.expect(anew.appliance_id == known.appliance_id, "a reinstalled appliance has another id")
        self.row.expect(self._roots()[-1] not in before, "a key that nobody named is vouched for")
        fingerprint = purposes.fingerprint(bytes.fromhex(anew.public_key))
        self.row.expect(self._roots()[-1] == fingerprint, "an unvouched key goes back to another")
        self.row.count("reinstalled")

    async def _a_key_that_nobody_announced(self) -> None:
        """Let the server sign by a key without a statement: no receipt by it is believed, and a person is told."""
        keys.rotate(self.made.key_file, "witness")
        announced = self.made.key_file.read_text()  # what signed is never left out of the file again
        told = json.loads(announced)
        told["statements"] = told["statements"][:-1]
        self.made.key_file.write_text(json.dumps(told))
        async with central.serving(self.made, self.urls) as server, self._appliance(server) as one:
            await one.seal(1)
            await one.once()
            self.row.expect(one.waiting() > 0, "a receipt by a key that nobody announced was believed")
            named = {alarm.name for alarm in one.store.read(alarms.standing, one.now_ms)}
            self.row.expect(alarms.SERVER_KEY in named, "nobody was told of a key that nobody announced")
        self.made.key_file.write_text(announced)

    def _roots(self) -> list[str]:
        """Return of each log the key that its key goes back to, oldest log first."""
        store = Store.open(Places(self.at))
        try:
            return [log.key_root for log in store.read(verify.against_receipts, {})]
        finally:
            store.close()
