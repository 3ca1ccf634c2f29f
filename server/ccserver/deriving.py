"""What a stored line is shown by: columns and states derive from its entry, or from the old one that it carries.

An entry carried over from a log that ended counts as what it was, at the place it had, and once: the same entry may
come twice, from its old log and out of another, or from two copies of one appliance.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ccserver import compliance
from ccserver.witness import Line
from ccshared import canonical, ed25519, entries, notes, purposes
from ccshared.entries import Entry
from ccshared.vocabulary import Kind

FORK = "fork: this bundle id is known with another content"
NO_PROOF = "names a new key that did not sign for it"
NOT_CARRIED = "not an entry carried over in the known shape"


@dataclass(frozen=True)
class Row:
    """A line with the entry that it is derived from (None where nothing is), its flag, and the leaf that it carries.

    `carried_hash` is the 32-byte leaf of the old entry inside a `recovered` one.
    """

    line: Line
    source: Entry | None
    flag: str | None
    carried_hash: bytes | None = None

    @property
    def bundle_id(self) -> str | None:
        """The bundle id, None where only a leaf is kept."""
        return self.line.entry.bundle_id if self.line.entry else None

    @property
    def counted_as(self) -> bytes:
        """The leaf that tells it from another entry of the same bundle id: its own, or that of what it carries."""
        return self.carried_hash or self.line.leaf


def read(line: Line) -> Row:
    """Return what a line says by itself."""
    entry = line.entry
    if entry is None:
        return Row(line, None, None)
    if entry.kind == Kind.KEY_ROTATION:
        return Row(line, entry, None if new_key(entry.log, entry.body) else NO_PROOF)
    if entry.kind != Kind.RECOVERED:
        return Row(line, entry, compliance.flag_of(entry))
    old = carried(entry)
    if old is None:
        return Row(line, None, NOT_CARRIED)
    return Row(line, old, compliance.flag_of(old), old.leaf)


def carried(entry: Entry) -> Entry | None:
    """Return the old entry inside a `recovered` one; None unless it is this appliance's, whole, and not nested."""
    body = entry.body
    payload, leaf, log, seq = (body.get(name) for name in ("payload", "leaf", "log", "seq"))
    if type(payload) is not str or type(log) is not str or type(seq) is not int:
        return None
    try:
        data = payload.encode()
        prev = canonical.read(data).get("prev")
        notes.parse_origin(log)
        old = entries.read(data, log, seq, str(prev))
    except ValueError:  # what is wrong with it does not matter: it is stored, and says nothing
        return None
    ours = log.rpartition("/")[0] == entry.log.rpartition("/")[0]
    sound = old.leaf.hex() == leaf and old.bundle_id == entry.bundle_id and old.kind != Kind.RECOVERED
    return old if ours and sound else None


def new_key(log: str, body: Mapping[str, Any]) -> bytes | None:
    """Return the device key that a `key_rotation` of a log names, when that key itself signed for it; else None."""
    origin = notes.parse_origin(log)
    try:
        key = bytes.fromhex(str(body.get("public_key")))
        signature = bytes.fromhex(str(body.get("signature")))
        ed25519.verify(key, purposes.new_key(origin.server, origin.appliance, key), signature)
    except (ValueError, ed25519.BadKeyError, ed25519.BadSignatureError):
        return None
    return key


def once(rows: Iterable[Row], known: Mapping[str, bytes]) -> list[Row]:
    """Return rows of which only the first of each bundle id counts; another content under the same id is a fork.

    `known` gives what is stored already, by bundle id: the leaf that it counts as.
    """
    counted = dict(known)
    seen = set(known)
    found = []
    for row in rows:
        first = counted.setdefault(row.bundle_id, row.counted_as) if row.bundle_id is not None else row.counted_as
        if first != row.counted_as:
            found.append(replace(row, source=None, flag=FORK))
        elif row.bundle_id in seen:
            found.append(replace(row, source=None))
        else:
            found.append(row)
        seen.add(row.bundle_id or "")
    return found
