"""What every page costs at the server: 1,000 sites of three appliances, a million incidents, a million entries.

The application is called as its web server calls it, with the sign-in of a real session; what is on the wire to the
browser is not counted. The time of the processor is said beside the wall's, ours and the database's, because whoever
else is busy here lengthens the one and not the other. `FULL=1` has ten million of each.
"""

import asyncio
import hashlib
import os
import random
import re
import secrets
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from starlette.types import ASGIApp

from ccserver import app, config, keys, listing, localpg
from ccserver.limits import Rate, Rates
from ccserver.localpg import Urls
from tests.bench import history
from tests.bench.history import Size
from tests.bench.measure import Block, Pair, Result, times
from tests.databases import Server

NUMBER = 10_000_000 if os.environ.get("FULL") else 1_000_000
SHARE = 10  # of the history in the one that it is compared with
AT_MOST_MS, AT_MOST_RATIO, OR_MS = 100, 1.3, 0.5
ASKED, ROUNDS, WARM = 100, 61, 12
BUILD = Path("build/bench")
OF_MACHINES = re.compile(r"/(api/v1|agent)/|/api/openapi\.json|/(healthz|readyz)")
# Which pages are not asked, and why.
NOT_ASKED = {
    "/login": "whoever is signed in is led on",
    "/welcome/{token}": "a link of its own for each, found by its hash",
    "/events": "a stream has no end",
}
# The tables and columns of those names in paths that are no table's.
TABLES = {
    "code": ("enrollment_codes", "id"),
    "channel": ("notification_channels", "id"),
    "delivery": ("notifications", "id"),
    "version": ("policies", "version"),
}
Pick = Callable[[random.Random, "Asker"], str]


@dataclass
class Asker:
    """Who asks the application, over one database: an owner, and for the platform's pages one of its admins.

    `rows` are of a partner's table by the name in a path that stands for it; `admin` looks at the database beside.
    """

    app: ASGIApp
    state: dict[str, Any]
    cookies: dict[str, str]
    rows: dict[tuple[str, str], list[dict[str, str]]]
    admin: "asyncpg.Connection[asyncpg.Record]"

    async def ask(self, target: str) -> float:
        """Return how long a page took, in milliseconds; it is whole, and there."""
        path, _, query = target.partition("?")
        cookie = f"cc_session={self.cookies[whose(path)]}"
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(b"host", b"localhost"), (b"accept", b"text/html"), (b"cookie", cookie.encode())],
            "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80), "state": dict(self.state),
        }  # fmt: skip
        found: list[int] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                found.append(message["status"])

        began = time.perf_counter()
        await self.app(scope, receive, send)
        took = (time.perf_counter() - began) * 1000
        assert found == [200], (target, found)
        return took

    async def database_s(self) -> float:
        """Return the processor's seconds of the sessions that the server has at the database; 0 where none can say."""
        found = await self.admin.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename = 'cc_server'"
        )
        places = [Path(f"/proc/{row['pid']}/schedstat") for row in found]
        return sum(int(each.read_text().split()[0]) for each in places if each.exists()) / 1e9

    def cursor(self, place: random.Random, name: str = "incidents:p-0:") -> str:
        """Return a cursor of the incident list from anywhere in the year."""
        moment = datetime.now(UTC) - timedelta(days=place.uniform(1, 360))
        return listing.seal(moment, "8", self.state["context"].cursor_key, name)


@dataclass(frozen=True)
class Cost:
    """What a page took: each time by the wall, and a time's processor on average, ours and the database's, in ms."""

    took: list[float]
    own: float
    database: float

    def __str__(self) -> str:
        """Say it in a line."""
        middle, high = statistics.median(self.took), self.p95
        return f"p50 {middle:.1f} ms, p95 {high:.1f} ms, processor {self.own:.1f} + {self.database:.1f} ms"

    @property
    def p95(self) -> float:
        """What 95 of 100 did not exceed."""
        return statistics.quantiles(self.took, n=20)[-1]


def whose(path: str) -> str:
    """Return whose rows a page shows: the partner's, or the platform's own."""
    return "platform" if path.startswith("/platform/") else "p-0"


def site(chance: random.Random) -> str:
    """Return any site."""
    return f"s-{chance.randrange(history.SITES)}"


def fixed(target: str) -> Pick:
    """Ask the same each time."""
    return lambda _chance, _asker: target


# What is asked beside each page of the route table as it stands.
VARIANTS: dict[str, Pick] = {
    **{f"/ sort={sort}": fixed(f"/?sort={sort}") for sort in ("name", "score", "waiting")},
    "/ search": lambda chance, _: f"/?q=clinic+{chance.randrange(10):02}",
    "/ failing": fixed("/?show=failing"),
    "/ page 20": fixed("/?page=20"),
    "/incidents cursor": lambda chance, asker: f"/incidents?cursor={asker.cursor(chance)}",
    "/incidents open": fixed("/incidents?state=open"),
    "/incidents closed": fixed("/incidents?state=closed"),
    "/incidents critical L3": fixed("/incidents?severity=critical&level=L3"),
    "/incidents of a site": lambda chance, _: f"/incidents?site={site(chance)}",
    "/incidents open of a site": lambda chance, _: f"/incidents?state=open&site={site(chance)}",
    "/incidents of a severity at a site": lambda chance, _: f"/incidents?severity=high&site={site(chance)}",
    "/orders of a site": lambda chance, _: f"/orders?site={site(chance)}",
    "/orders failed": fixed("/orders?status=failed"),
    "/sites/{site}/order of a runbook": lambda chance, _: f"/sites/{site(chance)}/order?runbook=run-backup",
    "/fleet-order of a runbook": fixed("/fleet-order?runbook=run-backup"),
    "/fleet-orders of an order, further": fixed("/fleet-orders/f-3?offset=1000"),
    "/learning active": fixed("/learning?status=active"),
    "/problems open": fixed("/problems?state=open"),
    "/codes of a site": lambda chance, _: f"/codes?site={site(chance)}",
    "/audit by actor": lambda chance, _: f"/audit?actor=user:{chance.randrange(50)}",
    "incidents by the API, offset 1,000": fixed("/api/v1/incidents?offset=1000"),
    "orders by the API": fixed("/api/v1/orders"),
}
COMPARED: dict[str, Pick] = {
    "overview": fixed("/"),
    "site page": lambda chance, _: f"/sites/{site(chance)}",
    "incidents, first page": fixed("/incidents"),
    "incidents, offset 1,000": fixed("/api/v1/incidents?offset=1000"),
    "incidents, cursor anywhere": lambda chance, asker: f"/incidents?cursor={asker.cursor(chance)}",
}


def rows() -> dict[str, Pick]:
    """Return what is asked, by name: each page as it stands, and those that are asked for more."""
    return pages() | VARIANTS


def pages() -> dict[str, Pick]:
    """Return how to ask each page of the route table that a signed-in person has, so that a new one is measured."""
    return {
        row.path: _any_of(row.path)
        for row in app.ENDPOINTS
        if row.method == "GET" and not OF_MACHINES.match(row.path) and row.path not in NOT_ASKED
    }


def _any_of(path: str) -> Pick:
    """Ask for any row of the table that the last name in the path stands for."""
    names = re.findall(r"{(\w+)}", path)

    def pick(chance: random.Random, asker: Asker) -> str:
        row = chance.choice(asker.rows[whose(path), names[-1]]) if names else {}
        known = {"site": row.get("site_id"), "appliance": row.get("appliance_id")} | dict.fromkeys(
            names[-1:], row.get("id")
        )
        return re.sub(r"{(\w+)}", lambda found: str(known[found[1]]), path)

    return pick


async def measure(server: Server, settings: config.Config) -> list[Result]:
    """Return a row of each page, and of what the history adds."""
    witness = keys.load(settings.key_file).witness.name
    large = await history.database(server, Size(NUMBER), witness, _tell)
    small = await history.database(server, Size(NUMBER // SHARE), witness, _tell)
    async with AsyncExitStack() as stack:
        much = await stack.enter_async_context(_open(large, settings))
        little = await stack.enter_async_context(_open(small, settings))
        timed = [await _timed(much, name, pick) for name, pick in rows().items()]
        return timed + [await _compared(much, little, name) for name in COMPARED]


@asynccontextmanager
async def _open(urls: Urls, settings: config.Config) -> AsyncIterator[Asker]:
    """Run the application over a database, with a session of an owner and one of an admin."""
    conn = await asyncpg.connect(urls.admin)
    cookies = {partner_id: await _sign_in(conn, partner_id) for partner_id in ("p-0", "platform")}
    # What is known for two hours only, or goes by the last check-in, is as fresh as on the day it was made.
    await conn.execute("UPDATE check_states SET seen_at = now() - random() * interval '1 hour'")
    await conn.execute("UPDATE appliances SET last_checkin = now() - random() * interval '20 minutes'")
    for table in ("check_states", "appliances"):
        await conn.execute(f"VACUUM ANALYZE {table}")
    rows = {name: await _rows(conn, *name) for name in _names()}
    made = app.make(settings, urls.server)
    async with made.router.lifespan_context(made) as state:
        yield Asker(made, dict(state), cookies, rows, conn)
    await conn.close()


async def _sign_in(conn: "asyncpg.Connection[asyncpg.Record]", partner_id: str) -> str:
    """Give the first user of the partner, or of the platform, a session; return its cookie."""
    value = secrets.token_urlsafe(32)
    await conn.execute(
        "INSERT INTO sessions (partner_id, id, token_hash, user_id, expires_at, second_factor)"
        " SELECT partner_id, $1, $1, id, now() + interval '1 day', true FROM users WHERE partner_id = $2 LIMIT 1",
        *(hashlib.sha256(value.encode()).hexdigest(), partner_id),
    )
    return value


def _names() -> set[tuple[str, str]]:
    """Return the last name in each page's path, and whose row it stands for."""
    return {(whose(path), names[-1]) for path in pages() if (names := re.findall(r"{(\w+)}", path))}


async def _rows(conn: "asyncpg.Connection[asyncpg.Record]", partner_id: str, name: str) -> list[dict[str, str]]:
    """Return two hundred rows of the table that a name in a path stands for, with what a path may name beside."""
    table, column = TABLES.get(name, (f"{name}s", "id"))
    beside = await conn.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname IN ('site_id', 'appliance_id')",
        table,
    )
    columns = ["id AS site_id"] if name == "site" else [row["attname"] for row in beside]
    asked = f"SELECT {', '.join([*columns, f'{column} AS id'])} FROM {table}"  # noqa: S608  names of the route table
    found = await conn.fetch(f"{asked} WHERE partner_id = $1 ORDER BY md5({column}::text) LIMIT 200", partner_id)
    return [dict(row) for row in found]


async def _timed(asker: Asker, name: str, pick: Pick) -> Result:
    """Return the row of a page; one that has no row to ask for is missed, as it was not looked at."""
    chance, target = random.Random(7), f"p95 at most {AT_MOST_MS} ms"
    if not all(asker.rows[whose(name), each] for each in re.findall(r"{(\w+)}", name)[-1:] if name in pages()):
        return Result("pages", name, None, None, None, target, False, "no row to ask for")
    for _ in range(WARM):
        await asker.ask(pick(chance, asker))
    before = time.process_time(), await asker.database_s()
    took = [await asker.ask(pick(chance, asker)) for _ in range(ASKED)]
    own, database = time.process_time() - before[0], await asker.database_s() - before[1]
    cost = Cost(took, own / ASKED * 1000, database / ASKED * 1000)
    _tell(f"{name}: {cost}")
    return Result("pages", name, None, None, None, target, cost.p95 <= AT_MOST_MS, str(cost))


async def _compared(much: Asker, little: Asker, name: str) -> Result:
    found = await times(Pair(_block(much, COMPARED[name]), _block(little, COMPARED[name])), ROUNDS)
    low, ratio, high = statistics.quantiles([ours / other for ours, other in found], n=4)
    ours, other = (statistics.median(each) * 1000 for each in zip(*found, strict=True))
    reached = ratio <= AT_MOST_RATIO or ours - other <= OR_MS
    said = f"{ours:.1f} ms : {other:.1f} ms"
    what = f"{name}, ÷ at a tenth of the history"
    return Result("pages", what, ratio, low, high, f"at most {AT_MOST_RATIO}, or + {OR_MS} ms", reached, said)


def _block(asker: Asker, pick: Pick) -> Block:
    chance = random.Random(7)

    async def block() -> None:
        for _ in range(2):
            await asker.ask(pick(chance, asker))

    return block


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _settings() -> config.Config:
    """Return settings under which nothing happens by itself, and nobody is asked to wait."""
    folder = (BUILD / "server").resolve()
    values = {"CCSERVER_DATA_DIR": str(folder), "CCSERVER_NAME": history.SERVER_NAME}
    made = config.from_environ(values | {"CCSERVER_SWEEP_SECONDS": "0", "CCSERVER_METRICS_LISTEN": ""})
    if not made.key_file.exists():
        keys.create(made.key_file, made.server_name)
    return replace(made, rates=Rates(**dict.fromkeys(vars(Rates()), Rate(10**6, 10**6))))


def run() -> list[Result]:
    """Measure over a PostgreSQL that stays in the clone's build folder, from the main thread, which it ends with."""
    with localpg.start((BUILD / "postgres").resolve(), durable=False, progress=_tell) as server:
        return asyncio.run(measure(server, _settings()))
