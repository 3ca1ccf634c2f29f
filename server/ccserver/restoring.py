"""A backup put back: read whole and proved first, then into an empty database in one transaction, then verified.

Either all of it is there in the end or the database is as empty as it was. Then a new generation begins (restores):
each appliance shows the newest receipt that it holds before its log is cosigned further, so that no two roots are
signed for one size.
"""

import asyncio
import hashlib
import hmac
import io
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ccserver import age, archive, audit_following, backup, marks, migrate, restores, self_verification
from ccserver.age import Identity
from ccserver.archive import BEGIN, MAC, MANIFEST, BackupBrokenError, Begin, Manifest, Part
from ccserver.errors import BadConfigError, CentralCommandError
from ccserver.keys import ServerKeys
from ccserver.queries import audit_log, backups, log_verifications, witness_marks
from ccserver.queries.log_verifications import Pass
from ccserver.scope import PlatformScope, platform_on
from ccshared import merkle, notes

if TYPE_CHECKING:
    from ccserver.scope import Connection

_ROWS = 5000
_TABLE = re.compile(r"tables/([a-z_][a-z0-9_]{0,62})/[0-9]{6,}\.copy")
Tell = Callable[[str], None]


class NotEmptyError(CentralCommandError):
    """A backup is put back into an empty database, and this one holds tables: make another. Nothing was changed."""


class OtherKeysError(CentralCommandError):
    """The key file is not the one that the backup was made with: put back that file first. Nothing was changed."""


@dataclass(frozen=True)
class Source:
    """A backup's file, what opens it, and the keys of the server that it must be of."""

    path: Path
    identities: Sequence[Identity]
    keys: ServerKeys


@dataclass
class Found:
    """What was verified in a restored database; `faults` names each thing that is wrong."""

    logs: int = 0
    entries: int = 0
    chains: int = 0
    faults: list[str] = field(default_factory=list)


def examine(source: Source) -> Manifest:
    """Read a backup to its end and return its manifest, once each byte of it is proved; nothing is changed.

    BackupBrokenError, NewerSchemaError, MigrationError, OtherKeysError or BadConfigError say what is wrong with it.
    """
    seen: list[Part] = []
    ends: dict[str, bytes] = {}
    with _opened(source) as found:
        begin = archive.read_begin(*next(found, ("", b"")))
        _require_fit(begin, source.keys)
        for name, data in found:
            if name in (MANIFEST, MAC):
                ends[name] = data
            else:
                seen.append(_part(name, data))
    if set(ends) != {MANIFEST, MAC}:
        raise BackupBrokenError
    _require_proof(source.keys, ends[MANIFEST], ends[MAC])
    manifest = archive.read_manifest(ends[MANIFEST])
    if manifest.begin != begin or manifest.parts != seen or _rows(seen) != _promised(manifest):
        raise BackupBrokenError
    return manifest


async def fill(conn: "Connection", source: Source, manifest: Manifest, receipts: IO[bytes], tell: Tell) -> None:
    """Put a backup that was examined into an empty database and bring its schema up to date, all or nothing.

    `receipts` takes the logs' receipts, for `verify`. NotEmptyError when there is anything in the database.
    """
    async with conn.transaction():
        if not await backups.is_empty(conn):
            raise NotEmptyError
        await migrate.fill_schema(conn, len(manifest.begin.schema), tell)
        await backups.make_plain(conn)
        await backups.open_tables(conn)
        await _copy(conn, source, manifest, receipts)
        await backups.forget_sessions(conn)
        await backups.close_tables(conn)
        await migrate.fill_schema(conn, len(migrate.files()), tell)
        await begin_generation(conn, 0)
    await backups.analyse(conn)


async def begin_generation(conn: "Connection", known: int) -> None:
    """Begin a new generation of the witness, beyond the mark that is stored and one that is known."""
    stored = await witness_marks.mark(conn)
    await witness_marks.begin_generation(conn, max(stored, known) + 1, restores.LEAP)


async def keep_mark(conn: "Connection", key_file: Path) -> None:
    """Carry the generation past the mark beside the key file, and write that mark anew."""
    known = marks.load(key_file)
    if known.known > await witness_marks.mark(conn):
        await begin_generation(conn, known.known)
    known.known = await witness_marks.mark(conn)
    await asyncio.to_thread(marks.save, known)


async def verify(conn: "Connection", keys: ServerKeys, receipts: IO[bytes], tell: Tell) -> Found:
    """Hold every log against its newest receipt and every chain of the audit log against its head."""
    found = Found()
    receipts.seek(0)
    async with platform_on(conn) as scope:
        for line in receipts:
            await _verify_log(scope, keys, json.loads(line), found)
        tell(f"{found.logs:,} logs with {found.entries:,} entries held against their receipts")
        for head in await audit_log.heads(scope, None):
            progress = await audit_following.follow(lambda: nullcontext(scope), head)
            found.chains += 1
            if not progress.is_good:
                where = f"entry {progress.first_bad_seq}: {progress.reason}"
                found.faults.append(f"the audit chain of {head.partner_id} is bad at {where}")
    return found


@contextmanager
def spool() -> Iterator[IO[bytes]]:
    """Give a nameless file for the receipts, however many there are."""
    with tempfile.TemporaryFile() as file:
        yield file


@contextmanager
def _opened(source: Source) -> Iterator[Iterator[tuple[str, bytes]]]:
    try:
        with source.path.open("rb") as file, age.decrypted(file, source.identities) as plain:
            yield archive.members(plain)
    except OSError as error:
        raise BadConfigError(f"{source.path} cannot be read: {error.strerror}.") from error


def _require_fit(begin: Begin, keys: ServerKeys) -> None:
    """Refuse another server's backup, and a schema that our migrations do not lead to."""
    if begin.server != keys.server:
        raise OtherKeysError(
            f"The backup is of the server {begin.server}, and the key file is of {keys.server}: put back the key file"
            " of the backup's server. Nothing was changed."
        )
    migrate.pending(migrate.files(), begin.ledger)


def _require_proof(keys: ServerKeys, manifest: bytes, proof: bytes) -> None:
    made = [backup.mac(key, manifest).encode() for key in keys.derive_all(backup.MAC_PURPOSE)]
    if not any(hmac.compare_digest(each, proof) for each in made):
        raise OtherKeysError


def _part(name: str, data: bytes) -> Part:
    return Part(name, data.count(b"\n"), len(data), hashlib.sha256(data).hexdigest())


def _rows(parts: list[Part]) -> Counter[str]:
    """Return how many rows there are of each table, and receipts."""
    rows: Counter[str] = Counter()
    for part in parts:
        match = _TABLE.fullmatch(part.name)
        rows[match[1] if match else "/receipts"] += part.lines
    return +rows


def _promised(manifest: Manifest) -> Counter[str]:
    rows = Counter({table.name: table.rows for table in manifest.tables})
    rows["/receipts"] = manifest.receipts
    return +rows


async def _copy(conn: "Connection", source: Source, manifest: Manifest, receipts: IO[bytes]) -> None:
    expected = iter(manifest.parts)
    columns = {table.name: table.columns for table in manifest.tables}
    with _opened(source) as found:
        for name, data in found:
            if name in (BEGIN, MANIFEST, MAC):
                continue
            if _part(name, data) != next(expected, None):
                raise BackupBrokenError("The backup's file changed while it was read. Nothing was kept.")
            match = _TABLE.fullmatch(name)
            if match is None:
                receipts.write(data)
            else:
                await _put(conn, match[1], columns[match[1]], data)


async def _put(conn: "Connection", table: str, columns: list[str], data: bytes) -> None:
    done = await conn.copy_to_table(table, source=io.BytesIO(data), columns=columns, schema_name="public")
    rows = data.count(b"\n")
    if done != f"COPY {rows}":
        raise BackupBrokenError(
            f"PostgreSQL took another number of rows into {table} than there are. Nothing was kept."
        )


async def _verify_log(scope: PlatformScope, keys: ServerKeys, line: dict[str, str], found: Found) -> None:
    of = await log_verifications.find(scope, line["site_id"], int(line["log_id"]))
    fault = "it is missing" if of is None else await _log_fault(scope, of, keys, line["receipt"])
    found.logs += 1
    found.entries += of.log_size if of else 0
    if fault is not None:
        found.faults.append(f"the log {of.origin if of else line['log_id']} is not what was receipted: {fault}")


async def _log_fault(scope: PlatformScope, of: Pass, keys: ServerKeys, receipt: str) -> str | None:
    try:
        notes.read_receipt(receipt, of.public_key, keys.witnesses)
    except notes.BadNoteError as error:
        return f"its newest receipt is not good: {error}"
    if notes.checkpoint_of(receipt) != of.checkpoint:
        return "its newest receipt is over another checkpoint"
    size, compact = 0, list[bytes]()
    while size < of.log_size:
        at = self_verification.at(of, size)
        end = min(of.log_size, size + _ROWS)
        places = await log_verifications.places(scope, at, end)
        if fault := self_verification.fault_of(at, places, end):
            return fault
        size, compact = merkle.extend(size, compact, [place.leaf for place in places])
    return self_verification.root_fault(of, compact)
