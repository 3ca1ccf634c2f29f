"""All that is a partner's, in a folder: each site's evidence as one verifiable file, the rest as JSON by line.

A site whose file is there already, over as much as is stored now, is not exported again, so what was cut off goes on
where it was. Nothing in it works as a credential: no password hash, no key, no secret.
"""

import hashlib
import zipfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from ccserver import exporting, files
from ccserver.exporting import Asked
from ccserver.keys import ServerKeys
from ccserver.listing import EVER, MAX_LIMIT, START, Page
from ccserver.queries import appliances, audit_log, evidence_bundles, evidence_logs, incidents, sites, users
from ccserver.scope import Database, PartnerScope

Fetch = Callable[[PartnerScope, Page], Awaitable[Sequence[Any]]]
Say = Callable[[str], object]


async def write(db: Database, keys: ServerKeys, partner_id: str, folder: Path, say: Say) -> dict[str, Any]:
    """Write the partner's export into a folder; return its manifest, which names each file with its SHA-256."""
    (folder / "sites").mkdir(parents=True, exist_ok=True)
    for name, (fetch, place) in _LISTS.items():
        await _write_list(db, partner_id, folder / f"{name}.ndjson", fetch, place)
    for line in (folder / "sites.ndjson").read_bytes().splitlines():
        site_id = orjson.loads(line)["id"]
        path = folder / "sites" / f"{site_id}.zip"
        there = _counted(path) == await _stored(db, Asked(partner_id, site_id))
        say(f"{path}: {'is there already' if there else 'written'}")
        if not there:
            with files.replaced(path) as file:
                await exporting.write_site(db, keys, Asked(partner_id, site_id), file.write)
    (folder / "keys.json").write_bytes(exporting.keys_of(keys))
    manifest = {"partner": partner_id, "server": keys.server, "files": _hashes(folder)}
    with files.replaced(folder / "manifest.json") as file:
        file.write(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    return manifest


def _counted(path: Path) -> tuple[int, int, int] | None:
    """Return what an export that is there counts: logs, entries and payloads; None when it is none."""
    try:
        with zipfile.ZipFile(path) as opened:
            manifest = orjson.loads(opened.read("manifest.json"))
        return manifest["logs"], manifest["entries"], manifest["payloads"]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


async def _stored(db: Database, asked: Asked) -> tuple[int, int, int]:
    async with db.site(asked.partner_id, asked.site_id) as scope:
        logs = await evidence_logs.all_of_site(scope)
        return len(logs), sum(log.size for log in logs), await evidence_bundles.count_payloads(scope)


def _hashes(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted([*folder.glob("*.ndjson"), folder / "keys.json", *folder.glob("sites/*.zip")]):
        with path.open("rb") as file:
            found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


async def _write_list(db: Database, partner_id: str, path: Path, fetch: Fetch, place: Callable[[Any], Any]) -> None:
    """Write a list, newest first, a page to a transaction."""
    page: Page | None = Page(MAX_LIMIT, 0, *START)
    with files.replaced(path) as file:
        while page is not None:
            async with db.partner(partner_id) as scope:
                rows = (await fetch(scope, page))[:MAX_LIMIT]
            file.write(b"".join(orjson.dumps(row) + b"\n" for row in rows))
            page = replace(page, before=place(rows[-1])[0], before_id=place(rows[-1])[1]) if rows else None


async def _incidents(scope: PartnerScope, page: Page) -> Sequence[Any]:
    return await incidents.newest(scope, incidents.Filter(None, None, None, *EVER), page)


async def _audit(scope: PartnerScope, page: Page) -> Sequence[Any]:
    return await audit_log.newest(scope, scope.partner_id, audit_log.Filter(*EVER), page)


_LISTS: dict[str, tuple[Fetch, Callable[[Any], Any]]] = {
    "sites": (sites.newest, lambda row: (row.created_at, row.id)),
    "appliances": (appliances.newest, lambda row: (row.enrolled_at, row.id)),
    "users": (users.newest, lambda row: (row.created_at, row.id)),
    "incidents": (_incidents, lambda row: (row.created_at, row.id)),
    "audit": (_audit, lambda row: (row.at, str(row.seq))),
}
