"""A new database out of what was salvaged: the old logs as far as the server has them, and all other tables."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ccagent import leaves, queue, salvage, succession
from ccagent.head_mark import HeadMark
from ccagent.places import Places
from ccagent.queue import Epoch, HeldReceipt
from ccagent.salvage import Found, Row, Wreck
from ccagent.store import Tx
from ccagent.succession import Ended, Ranges
from ccshared import canonical, entries, merkle, notes

_OWN = frozenset({"epochs", "receipts", "kept_leaves"})  # made anew from what proves itself
_UNKNOWN_KEY = "0" * 64

Tables = Mapping[str, Sequence[Row]]


@dataclass(frozen=True)
class OldLog:
    """What is left of a log: its rows by place, kept leaves by their first place, and how long it is known to be.

    `erased` is what is noted of payloads that two persons had erased: whatever the files still show of them stays away.
    """

    epoch: Epoch
    size: int
    rows: dict[int, Found]
    receipts: tuple[HeldReceipt, ...]
    kept: dict[int, bytes]
    erased: dict[int, Row]

    @property
    def missing(self) -> Ranges:
        """The places of which nothing is left."""
        there = set(self.rows).union(self.erased, *(range(first, first + leaves.BLOCK) for first in self.kept))
        return succession.ranges(seq for seq in range(self.size) if seq not in there)

    @property
    def ended(self) -> Ended:
        """The log as its successor tells of it."""
        return Ended(self.epoch, self.missing)


def old_logs(wreck: Wreck, tables: Tables, mark: HeadMark | None, places: Places) -> list[OldLog]:
    """Return every log that the files, their tables or the head mark tell of, oldest first."""
    told = {row["origin"]: row for row in tables.get("epochs", ())}
    origins = [origin for origin in {**wreck.logs, **told} if _is_origin(origin)]
    if mark is not None and not any(origin.endswith(f"/{mark.epoch}") for origin in origins):
        marked = succession.origin_of(places, mark.epoch, origins)
        origins += [marked] if marked is not None else []
    logs = [_old_log(wreck, origin, tables, mark, places) for origin in origins]
    return sorted(logs, key=lambda log: (log.epoch.number, log.epoch.opened_at_ms))


def rebuild(tx: Tx, wreck: Wreck, logs: Sequence[OldLog], tables: Tables, at_ms: int) -> None:
    """Put back the other tables, and of each log, closed, what the server has a receipt for."""
    for name, rows in tables.items():
        if name not in _OWN:
            for row in rows:
                _put_back(tx, name, row)
    for log in logs:
        _put_back_log(tx, wreck, log, at_ms)


def carry(tx: Tx, wreck: Wreck, logs: Sequence[OldLog], recovered: succession.Recovered) -> None:
    """Carry over, into the open log, what the server has no receipt for."""
    for log in logs:
        waiting = [log.rows[seq] for seq in sorted(log.rows) if seq >= log.epoch.watermark]
        queue.carry(tx, map(wreck.read, waiting), recovered)


def _old_log(wreck: Wreck, origin: str, tables: Tables, mark: HeadMark | None, places: Places) -> OldLog:
    name = origin.rpartition("/")[2]
    if mark is not None and mark.epoch != name:
        mark = None
    rows = salvage.chain(wreck.logs.get(origin, {}), _leaf_at(mark))
    erased = _erased(tables, name)
    rows = {seq: found for seq, found in rows.items() if seq not in erased}
    told = next((row for row in tables.get("epochs", ()) if row["origin"] == origin), {})
    key = _public_key(wreck, rows, told, places)
    receipts = _receipts(wreck, origin, key, places)
    kept = {
        row["first"]: row["leaves"]
        for row in tables.get("kept_leaves", ())
        if row["epoch"] == name and type(row["first"]) is int and len(row["leaves"] or b"") == 32 * leaves.BLOCK
    }
    newest = receipts[0] if receipts else None
    opened_at = told.get("opened_at")
    epoch = Epoch(name, origin, key, opened_at if type(opened_at) is int else 0)
    if newest is not None:
        epoch = dataclasses.replace(epoch, watermark=newest.size, receipt=newest.text)
    ends = [mark.size if mark else 0, epoch.watermark, *(seq + 1 for seq in rows), *(at + leaves.BLOCK for at in kept)]
    return OldLog(epoch, max(ends), rows, receipts, kept, erased)


def _erased(tables: Tables, name: str) -> dict[int, Row]:
    """Return by place what is noted as erased, and still tells enough to stand for its row."""
    noted = (row for row in tables.get("erasures", ()) if row["epoch"] == name)
    return {row["seq"]: row for row in noted if _is_whole(row)}


def _leaf_at(mark: HeadMark | None) -> Callable[[int], bytes | None]:
    return lambda seq: bytes.fromhex(mark.leaf) if mark is not None and seq == mark.size - 1 else None


def _public_key(wreck: Wreck, rows: Mapping[int, Found], told: Row, places: Places) -> str:
    """Return the log's key (hex): as its genesis says, else as the table says, else the appliance's present one."""
    if 0 in rows:
        body = canonical.read(wreck.read(rows[0]), entries.MAX_RECOVERED_BYTES)["body"]
        if _is_key(body.get("public_key")):
            return str(body["public_key"])
    if _is_key(told.get("public_key")):
        return str(told["public_key"])
    known = succession.known_identity(places)
    return known.public_key if known is not None else _UNKNOWN_KEY


def _receipts(wreck: Wreck, origin: str, key: str, places: Places) -> tuple[HeldReceipt, ...]:
    """Return the receipts of a log that verify, newest first: nothing counts as receipted on a damaged disk's word."""
    known = succession.known_identity(places)
    found = []
    for text in salvage.receipts(wreck, origin) if known is not None else []:
        try:
            read = notes.read_receipt(text, bytes.fromhex(key), known.witnesses if known else {})
        except notes.BadNoteError:
            continue
        found.append(HeldReceipt(read.checkpoint.size, text, read.cosigned_at, read.cosigned_at * 1000))
    return tuple(found)


def _put_back(tx: Tx, table: str, row: Row) -> None:
    names = [column[1] for column in tx.execute(f"PRAGMA table_info({table})") if column[1] in row]
    marks = ", ".join("?" * len(names))
    statement = f"INSERT OR REPLACE INTO {table} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608 - the schema's own names
    tx.execute("SAVEPOINT row")
    try:
        tx.execute(statement, [row[name] for name in names])
    except tx.connection.DatabaseError:  # a row that damage made unfit; it is no evidence
        tx.execute("ROLLBACK TO row")
    tx.execute("RELEASE row")


def _put_back_log(tx: Tx, wreck: Wreck, log: OldLog, at_ms: int) -> None:
    epoch = log.epoch
    tx.execute(
        """
        INSERT INTO epochs (epoch, number, origin, public_key, opened_at, closed_at, closed_reason, watermark,
            carried_from)
        VALUES (?, ?, ?, ?, ?, ?, 'corruption', ?, ?)
        """,
        (
            epoch.epoch,
            epoch.number,
            epoch.origin,
            epoch.public_key,
            epoch.opened_at_ms,
            at_ms,
            epoch.watermark,
            epoch.watermark,
        ),
    )
    for receipt in log.receipts:
        tx.execute(
            "INSERT INTO receipts (epoch, size, receipt, cosigned_at_s, uploaded_at) VALUES (?, ?, ?, ?, ?)",
            (epoch.epoch, receipt.size, receipt.text, receipt.cosigned_at_s, receipt.at_ms),
        )
    for first, blob in log.kept.items():
        tx.execute("INSERT INTO kept_leaves (epoch, first, leaves) VALUES (?, ?, ?)", (epoch.epoch, first, blob))
    _put_back_rows(tx, wreck, log)


def _put_back_rows(tx: Tx, wreck: Wreck, log: OldLog) -> None:
    total = reached = 0
    compact: list[bytes] = []
    for seq in range(log.epoch.watermark):
        found = log.rows.get(seq)
        gone = log.erased.get(seq)
        leaf = found.leaf if found else gone["leaf"] if gone else _kept(log, seq)
        if leaf is not None and reached == seq:
            reached, compact = merkle.extend(reached, compact, [leaf])
            if reached % leaves.BLOCK == 0:
                tx.execute(
                    "INSERT INTO ranges (epoch, size, compact) VALUES (?, ?, ?)",
                    (log.epoch.epoch, reached, b"".join(compact)),
                )
        if found is not None and _kept(log, seq) is None:
            total += _put_back_row(tx, log.epoch.epoch, seq, wreck.read(found), total)
        elif gone is not None and _kept(log, seq) is None:
            total += _put_back_erased(tx, gone, total)


def _put_back_row(tx: Tx, epoch: str, seq: int, payload: bytes, total: int) -> int:
    members = canonical.read(payload, entries.MAX_RECOVERED_BYTES)
    tx.execute(
        """
        INSERT INTO queued_evidence (epoch, seq, bundle_id, bundle_json, leaf, total_bytes, created_at)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        """,
        (
            epoch,
            seq,
            members["id"],
            payload,
            merkle.leaf_hash(payload),
            total + len(payload),
            members["at"],
        ),
    )
    return len(payload)


def _put_back_erased(tx: Tx, gone: Row, total: int) -> int:
    tx.execute(
        """
        INSERT INTO queued_evidence (epoch, seq, bundle_id, bundle_json, leaf, total_bytes, created_at)
        VALUES (?, ?, ?, x'', ?, ?, ?)
        """,
        (gone["epoch"], gone["seq"], gone["bundle_id"], gone["leaf"], total + gone["bytes"], gone["created_at"]),
    )
    return int(gone["bytes"])


def _kept(log: OldLog, seq: int) -> bytes | None:
    blob = log.kept.get(seq - seq % leaves.BLOCK)
    at = seq % leaves.BLOCK * 32
    return blob[at : at + 32] if blob is not None else None


def _is_whole(row: Row) -> bool:
    kinds = [type(row[name]) for name in ("seq", "bundle_id", "leaf", "bytes", "created_at")]
    return kinds == [int, str, bytes, int, int] and len(row["leaf"]) == 32 and len(row["bundle_id"]) == 32


def _is_key(value: object) -> bool:
    return type(value) is str and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_origin(text: object) -> bool:
    try:
        notes.parse_origin(str(text))
    except notes.BadNoteError:
        return False
    return True
