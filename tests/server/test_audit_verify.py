"""The audit log's chains: whatever is done to an entry past the database's own guard is found and named."""

import asyncpg
import pytest

from ccserver import audit_chain
from ccserver.audit_chain import Progress
from ccserver.localpg import Urls
from ccserver.queries import audit_log
from ccserver.queries.audit_log import Act
from ccserver.scope import Database


@pytest.fixture
async def chain(db: Database) -> Database:
    """A partner's chain of six entries, and nothing on the platform's."""
    async with db.platform() as scope:
        await scope.conn.execute("INSERT INTO partners (id, name) VALUES ('zenith', 'Zenith')")
    for number in range(6):
        async with db.partner("zenith") as own:
            await audit_log.append(own, Act("user:zoe", "site.create", f"site:{number}", {"number": number}))
    return db


async def verdict(db: Database, partner_id: str = "zenith") -> tuple[int | None, str | None]:
    async with db.platform() as scope:
        (head,) = await audit_log.heads(scope, partner_id)
        links = await audit_log.links(scope, head, 0, 1000)
    done = audit_chain.conclude(audit_chain.follow(Progress(), links), head)
    return done.first_bad_seq, done.reason


async def tamper(database: str, *statements: str) -> None:
    """Change the database as a superuser who has switched its triggers off."""
    conn = await asyncpg.connect(database)
    await conn.execute("SET session_replication_role = replica")
    for statement in statements:
        await conn.execute(statement)
    await conn.close()


async def test_an_untouched_chain_is_good(chain: Database) -> None:
    assert await verdict(chain) == (None, None)
    assert await verdict(chain, "platform") == (None, None)


async def test_the_database_itself_refuses_a_change(chain: Database) -> None:
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        async with chain.platform() as scope:
            await scope.conn.execute("UPDATE audit_log SET actor = 'x'")


CASES = {
    "entry edited": (3, ["UPDATE audit_log SET entry = entry || ' ' WHERE seq = 3"]),
    "column edited": (3, ["UPDATE audit_log SET actor = 'user:eve' WHERE seq = 3"]),
    "time edited": (3, ["UPDATE audit_log SET at = at - interval '1 h' WHERE seq = 3"]),
    "hash edited": (3, ["UPDATE audit_log SET hash = sha256('x') WHERE seq = 3"]),
    "deleted": (3, ["DELETE FROM audit_log WHERE seq = 3"]),
    "first deleted": (0, ["DELETE FROM audit_log WHERE seq = 0"]),
    "last deleted": (5, ["DELETE FROM audit_log WHERE seq = 5"]),
    "all deleted": (0, ["DELETE FROM audit_log"]),
    "reordered": (
        2,
        [
            "UPDATE audit_log SET seq = 100 WHERE seq = 2",
            "UPDATE audit_log SET seq = 2 WHERE seq = 3",
            "UPDATE audit_log SET seq = 3 WHERE seq = 100",
        ],
    ),
    "head moved back": (4, ["UPDATE audit_heads SET size = 4"]),
    "head deleted": (0, ["DELETE FROM audit_heads"]),
    "head's hash edited": (5, ["UPDATE audit_heads SET hash = sha256('x')"]),
    "one added": (
        6,
        [
            "INSERT INTO audit_log SELECT partner_id, 6, at, actor, action, target, entry, hash FROM audit_log LIMIT 1",
        ],
    ),
}


@pytest.mark.parametrize("case", sorted(CASES))
async def test_what_was_done_to_the_chain_is_found_at_its_place(chain: Database, database: Urls, case: str) -> None:
    first_bad, statements = CASES[case]
    await tamper(database.admin, *statements)
    assert (await verdict(chain))[0] == first_bad
