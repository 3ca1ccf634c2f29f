"""The floor of what arrives: rows that are ready, a hundred a transaction, unnested into a copy of the same table."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import asyncpg

from ccshared import canonical, merkle
from tests.bench.measure import Block

A_TRANSACTION = 100
TABLE = "CREATE TABLE floor_bundles (LIKE evidence_bundles INCLUDING ALL) WITH (toast_tuple_target = 8160)"
INSERT = """
    INSERT INTO floor_bundles (site_id, partner_id, appliance_id, log_id, seq, bundle_id, bundle_type, bundle_hash,
                               payload, host_id, check_id, hipaa_controls, clock, generated_at)
    SELECT 'acme-clinic', 'acme', 'floor', $1, line.*
    FROM unnest($2::bigint[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::text[], $8::text[], $9::jsonb[],
                $10::text[], $11::timestamptz[]) AS line
"""
Values = Sequence[Sequence[object]]


def values(payloads: Sequence[bytes]) -> Values:
    """Return the columns of a transaction's rows."""
    read = [canonical.read(payload) for payload in payloads]
    return [
        [one["seq"] for one in read],
        [one["id"] for one in read],
        [one["kind"] for one in read],
        [merkle.leaf_hash(payload) for payload in payloads],
        list(payloads),
        [one["body"].get("host") for one in read],
        [one["body"].get("check") for one in read],
        ['["164.312(b)"]' for _ in read],
        [one["clock"] for one in read],
        [datetime.fromtimestamp(one["at"] / 1000, UTC) for one in read],
    ]


class Floor:
    """So many connections that each insert their share of the transactions; each transaction is of a log of its own."""

    def __init__(self, conns: Sequence[asyncpg.Connection], transactions: Sequence[Values]) -> None:
        self._conns = conns
        self._transactions = transactions
        self._log = len(conns) * 10_000_000

    def block(self) -> Block:
        """Return what inserts all transactions once."""

        async def block() -> None:
            logs = range(self._log, self._log + len(self._transactions))
            self._log += len(self._transactions)
            each = list(zip(logs, self._transactions, strict=True))
            share = len(self._conns)
            await asyncio.gather(*(_insert(conn, each[at::share]) for at, conn in enumerate(self._conns)))

        return block


async def _insert(conn: asyncpg.Connection, transactions: Sequence[tuple[int, Values]]) -> None:
    for log, columns in transactions:
        await conn.execute(INSERT, log, *columns)


async def connect(url: str, count: int) -> list[asyncpg.Connection]:
    """Open connections as the superuser, who pays for no row security."""
    return [await asyncpg.connect(url) for _ in range(count)]
