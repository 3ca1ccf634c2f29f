"""A backup: every table at one moment, by COPY from one read-only transaction, a part at a time and never the whole.

COPY over the server's own driver and not pg_dump: that must be of the database's major or newer and is on few machines.
What is put back is held against our migrations, not against a schema that a dump brings. The key file is never in it.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import IO, TYPE_CHECKING

import orjson

from ccserver import migrate
from ccserver.archive import PART_BYTES, Begin, Manifest, Table, Writer
from ccserver.errors import BadConfigError, WrongRoleError
from ccserver.keys import ServerKeys
from ccserver.queries import backups, server
from ccserver.queries.backups import Relation
from ccserver.scope import alone

if TYPE_CHECKING:
    from ccserver.scope import Connection

SETTING = "DATABASE_BACKUP_URL"
MAC_PURPOSE = "cc backup manifest v1"
_LOGS = 1000
_TELL_BYTES = 256 << 20
Tell = Callable[[str], None]


async def write(url: str, keys: ServerKeys, out: IO[bytes], tell: Tell) -> Manifest:
    """Write a backup to a stream and return its manifest.

    WrongRoleError unless the role reads past row security, NotMigratedError for a schema that is not this release's.
    """
    async with alone(url, SETTING) as conn, conn.transaction(isolation="repeatable_read", readonly=True):
        await _require_role(conn)
        ledger = await server.ledger(conn)
        migrate.check(ledger)
        schema = [(number, *named) for number, named in sorted(ledger.items())]
        writer = Writer(out, Begin(keys.server, version("ccserver"), datetime.now(UTC).isoformat(), schema))
        await backups.make_plain(conn)
        for relation in in_order(await backups.relations(conn)):
            await _copy(conn, relation, writer, tell)
        await _receipts(conn, keys, writer)
    manifest = writer.manifest.to_bytes()
    writer.done(mac(keys.derive(MAC_PURPOSE), manifest), manifest)
    return writer.manifest


def mac(key: bytes, manifest: bytes) -> str:
    """Return what proves that a manifest was written by whoever held the key file."""
    return hmac.new(key, manifest, "sha256").hexdigest()


def in_order(relations: list[Relation]) -> list[Relation]:
    """Return the tables so that each comes after those that it refers to; ValueError for a circle."""
    rest, done = list(relations), list[Relation]()
    while rest:
        names = {relation.name for relation in rest}
        ready = [relation for relation in rest if not names & set(relation.refers_to)]
        if not ready:
            raise ValueError(f"tables that refer to each other: {sorted(names)}")
        done += ready
        rest = [relation for relation in rest if relation not in ready]
    return done


async def _require_role(conn: "Connection") -> None:
    role = await server.role(conn)
    if not role.bypasses_row_security or role.is_superuser or role.owns_tables:
        raise WrongRoleError(
            f"The database role {role.name} is not one that reads past row security and does nothing else: let"
            f" {SETTING} name cc_backup, which `ccserver db roles` makes."
        )


@dataclass
class _Lines:
    """What COPY gives, cut at the ends of rows into parts."""

    writer: Writer
    table: str
    tell: Tell
    kept: bytearray = field(default_factory=bytearray)
    number: int = 0
    rows: int = 0
    size: int = 0

    async def take(self, data: bytes) -> None:
        """Take the next bytes; a whole part goes out when there is one."""
        self.kept += data
        if len(self.kept) >= PART_BYTES:
            self.let_go(self.kept.rfind(b"\n") + 1)

    def let_go(self, end: int) -> None:
        """Write the rows before `end` as a part."""
        if not end:
            return
        data = bytes(self.kept[:end])
        del self.kept[:end]
        self.number += 1
        self.writer.part(f"tables/{self.table}", self.number, "copy", data)
        self.rows += data.count(b"\n")
        told, self.size = self.size // _TELL_BYTES, self.size + end
        if self.size // _TELL_BYTES > told:
            self.tell(f"{self.table}  {self.rows:,} rows, {self.size >> 20} MiB so far")


async def _copy(conn: "Connection", relation: Relation, writer: Writer, tell: Tell) -> None:
    lines = _Lines(writer, relation.name, tell)
    await conn.copy_from_table(relation.name, columns=relation.columns, schema_name="public", output=lines.take)
    lines.let_go(len(lines.kept))
    writer.manifest.tables.append(Table(relation.name, relation.columns, lines.rows))
    tell(f"{relation.name}  {lines.rows:,} rows")


async def _receipts(conn: "Connection", keys: ServerKeys, writer: Writer) -> None:
    """Write each log's newest receipt, made again from its row: what a restored log is held against."""
    after, number = ("", 0), 0
    while found := await backups.receipted(conn, after, _LOGS):
        made = [{"site_id": row.site_id, "log_id": row.id, "receipt": _receipt(keys, row)} for row in found]
        number += 1
        writer.part("receipts", number, "jsonl", b"".join(orjson.dumps(each) + b"\n" for each in made))
        writer.manifest.receipts += len(found)
        after = (found[-1].site_id, found[-1].id)


def _receipt(keys: ServerKeys, row: backups.Stored) -> str:
    if row.witness_name not in keys.witnesses:
        raise BadConfigError(
            f"The key file lacks {row.witness_name}, which signed receipts: it is an old or another one."
        )
    return keys.cosign(row.checkpoint, row.witness_name, row.cosigned_at)
