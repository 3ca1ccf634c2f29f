"""A site's evidence as one file that anybody can verify: read in one snapshot, a few hundred entries at a time."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ccserver import verify
from ccserver.keys import ServerKeys
from ccserver.packing import LogPack, Pack, Shown, Write, plain
from ccserver.queries import audit_log, equivocations, evidence_bundles, evidence_logs
from ccserver.queries.evidence_bundles import Stored
from ccserver.scope import Database, SiteScope
from ccserver.witness import Log
from ccshared import canonical
from ccshared.envelope import PayloadType

SAMPLE = 5
_AT_ONCE = 100  # entries of a query: with the longest payloads 52 MB
_BARE_AT_ONCE = 20_000  # leaves alone

README = """\
Evidence export of Central Command: site {site} of partner {partner}, server {server}

What this is. Each appliance of the site appends what it checks, repairs and reports to a log of its own, signs the
log, and has it receipted by the server. This file holds those logs, the receipts and the keys, so that you can verify
on your own computer that nothing was changed, removed or reordered, and read what is missing.

How to verify. You need Python 3.9 or newer, no network and no installation:

    python3 verify.py export.zip --trust keys.txt

keys.txt is yours: a line for each key that you compared yourself, from elsewhere than this file:

    <server key name> <fingerprint>     the server's keys, as its operator publishes them
    <appliance id> <fingerprint>        a device key, as `cc-agent status` prints it on the appliance

If you do not trust this file, take verify.py from elsewhere too; it is one file. Add --receipt newest.txt with a
receipt that `cc-agent receipt` printed on the appliance, and nothing up to that receipt can be missing.

    INTACT             exit 0    all of it verifies, and nothing is missing
    INCOMPLETE         exit 1    what is here verifies; the list says what is missing, or for what nobody vouches
    BROKEN             exit 2    something was changed, removed, reordered or made up; the first such place is named
    COULD NOT JUDGE    exit 3    no keys given, or not such a file

What is in it. manifest.json lists every member with its SHA-256, signature.json is the server's signature over it,
keys.json holds the server's keys and how each followed from the one before, audit.json the newest head of the
partner's audit log, proofs.ndjson inclusion proofs of some entries. logs/<appliance>/<epoch>.json shows a log's key,
size, newest receipt and forks; the files below logs/<appliance>/<epoch>/ hold its entries, a line each, as they were
hashed, or {{"leaf":…,"why":…}} where only the hash is here: out_of_range (you asked for a range), pruned (older than
six years), withheld, erased or lost.
"""


@dataclass(frozen=True)
class Asked:
    """Which site to export, from when up to when (None: all of it), and how many entries of a log to prove."""

    partner_id: str
    site_id: str
    since: datetime | None = None
    until: datetime | None = None
    sample: int = SAMPLE


async def write_site(db: Database, keys: ServerKeys, asked: Asked, write: Write) -> Pack:
    """Write the export of a site through `write`; the same evidence gives the same bytes. Return what was counted."""
    pack = Pack(write)
    async with db.snapshot(asked.partner_id, asked.site_id) as scope:
        names = {"site": asked.site_id, "partner": asked.partner_id, "server": keys.server}
        pack.add("README.txt", README.format(**names).encode())
        size, head = await audit_log.head_at(scope, asked.until)
        audit: dict[str, Any] = {"partner": asked.partner_id, "size": size, "hash": head.hex()}
        pack.add("audit.json", canonical.write(audit))
        pack.add("keys.json", keys_of(keys))
        proofs: list[bytes] = []
        for log in sorted(await evidence_logs.all_of_site(scope), key=lambda log: log.origin):
            proofs += await _write_log(scope, keys, asked, pack, log)
    pack.add("proofs.ndjson", b"".join(proof + b"\n" for proof in proofs))
    pack.add("verify.py", inspect.getsource(verify).encode())
    about = names | {"from": _ms(asked.since), "to": _ms(asked.until)}
    pack.finish(about, lambda value: keys.envelope(PayloadType.EXPORT, value))
    return pack


def keys_of(keys: ServerKeys) -> bytes:
    """Return the server's public keys and how each followed, as JSON in the one spelling."""
    public = [key.model_dump(mode="json") for key in keys.public]
    return plain({"keys": public, "statements": list(keys.statements)})


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


async def _write_log(scope: SiteScope, keys: ServerKeys, asked: Asked, pack: Pack, log: Log) -> list[bytes]:
    first, end = await _range(scope, asked, log)
    receipt = None
    if log.checkpoint and log.witness_name and log.cosigned_at is not None:
        receipt = keys.cosign(log.checkpoint, log.witness_name, log.cosigned_at)
    shown = Shown(log, receipt, first, end, tuple(await equivocations.of_log(scope, log.id)))
    packed = LogPack(pack, shown, asked.sample)
    async for row in _rows(scope, shown):
        if packed.line(row.leaf, row.payload, row.missing_reason):
            await asyncio.to_thread(packed.flush)
    await asyncio.to_thread(packed.flush)
    return packed.proofs()


async def _rows(scope: SiteScope, shown: Shown) -> AsyncIterator[Stored]:
    """Give a log's rows in order; payloads are read only where they are shown."""
    seq, size = 0, shown.log.size
    while seq < size:
        bare = not any(shown.shows(each) for each in (seq, seq + 1)) and seq + 1 < size
        end = _bare_end(shown, seq) if bare else min(seq + _AT_ONCE, size)
        for row in await evidence_bundles.stored(scope, shown.log.id, (seq, end), (seq, seq if bare else end)):
            yield row
        seq = end


def _bare_end(shown: Shown, seq: int) -> int:
    """Return up to where nothing but leaves is needed."""
    until = shown.first - 1 if seq < shown.first - 1 else shown.log.size - 1
    return min(seq + _BARE_AT_ONCE, until)


async def _range(scope: SiteScope, asked: Asked, log: Log) -> tuple[int, int]:
    """Return the places (first, end) that lie in the range, by the entries' own times.

    What has no time of its own (a bare leaf, a carried entry) at either end is taken in, so that the entry beside the
    range always proves by its time that it lies outside.
    """
    if asked.since is None and asked.until is None:
        return 0, log.size
    first, last = await _in_time(scope, asked, log.id, log.size)
    first = 0 if asked.since is None else log.size if first is None else first
    end = log.size if asked.until is None else 0 if last is None else last + 1
    if asked.since is not None and first:
        before = await evidence_bundles.neighbour(scope, log.id, (0, first), last=True)
        first = 0 if before is None else before + 1
    if asked.until is not None and end < log.size:
        after = await evidence_bundles.neighbour(scope, log.id, (end, log.size), last=False)
        end = log.size if after is None else after
    return min(first, end), end


async def _in_time(scope: SiteScope, asked: Asked, log_id: int, size: int) -> tuple[int | None, int | None]:
    first = last = None
    for seq in range(0, size, _BARE_AT_ONCE):
        span = (seq, min(seq + _BARE_AT_ONCE, size))
        one, other = await evidence_bundles.in_time(scope, log_id, span, asked.since, asked.until)
        first = one if first is None else first
        last = last if other is None else other
    return first, last
