"""A backup's bytes: a gzipped tar that is written and read as a stream, a part at a time, and never seeks.

    begin.json                            what it is: format, release, server, moment, migrations
    tables/<table>/000001.copy …          whole rows as PostgreSQL's COPY writes them as text, some MiB a part
    receipts/000001.jsonl …               the newest receipt of each log, a line each
    manifest.json                         tables with their rows, and the SHA-256 of each part: half an archive has none
    manifest.mac                          HMAC-SHA256 over the manifest by a key that derives from the key file

`tar xzf` and psql's \\copy read it too. COPY's text and not its binary form, because that is the same in every major.
"""

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from ccserver.errors import CentralCommandError

FORMAT = "central-command-backup-v1"
BEGIN, MANIFEST, MAC = "begin.json", "manifest.json", "manifest.mac"
PART_BYTES = 4 << 20
_MOST_BYTES = 1 << 30  # of one member: a part is some MiB, and one row at the very least


class BackupBrokenError(CentralCommandError):
    """This is not a whole backup of Central Command: take another one. Nothing was changed."""


@dataclass(frozen=True)
class Begin:
    """What a backup is: the server's name, the moment (ISO 8601), and each migration as (number, name, sha256)."""

    server: str
    release: str
    at: str
    schema: list[tuple[int, str, str]]
    format: str = FORMAT

    @property
    def ledger(self) -> dict[int, tuple[str, str]]:
        """The migrations as `migrate` compares them."""
        return {number: (name, sha256) for number, name, sha256 in self.schema}


@dataclass(frozen=True)
class Table:
    """A table in the backup: its columns as COPY wrote them, and how many rows."""

    name: str
    columns: list[str]
    rows: int


@dataclass(frozen=True)
class Part:
    """A member of the archive by its name, and what it must be."""

    name: str
    lines: int
    size: int
    sha256: str


@dataclass
class Manifest:
    """What is in a backup, in the order in which it is put back."""

    begin: Begin
    tables: list[Table] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    receipts: int = 0

    @property
    def rows(self) -> int:
        """How many rows there are in all tables."""
        return sum(table.rows for table in self.tables)

    def to_bytes(self) -> bytes:
        """Return it as the JSON that the archive ends with."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()


class Writer:
    """Writes members to a stream; `done` in the end, or what was written is half an archive."""

    def __init__(self, out: IO[bytes], begin: Begin) -> None:
        self._zip = gzip.GzipFile(filename="", mode="wb", fileobj=out, compresslevel=1, mtime=0)
        self._tar = tarfile.open(mode="w|", fileobj=self._zip, format=tarfile.PAX_FORMAT)  # noqa: SIM115  until done
        self.manifest = Manifest(begin)
        self._put(BEGIN, json.dumps(asdict(begin)).encode())

    def part(self, folder: str, number: int, ending: str, data: bytes) -> None:
        """Write one part of whole lines."""
        name = f"{folder}/{number:06}.{ending}"
        self._put(name, data)
        digest = hashlib.sha256(data).hexdigest()
        self.manifest.parts.append(Part(name, data.count(b"\n"), len(data), digest))

    def done(self, mac: str, manifest: bytes) -> None:
        """Write the manifest and what proves it, and end the archive."""
        self._put(MANIFEST, manifest)
        self._put(MAC, mac.encode())
        self._tar.close()
        self._zip.close()

    def _put(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o600
        self._tar.addfile(info, io.BytesIO(data))


def members(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Read an archive's members in order; BackupBrokenError where it is none, or ends too early."""
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as unzipped:
            with tarfile.open(mode="r|", fileobj=unzipped) as tar:
                for info in tar:
                    yield info.name, _content(tar, info)
            while unzipped.read(1 << 20):  # up to the checksum at its end
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error, UnicodeError) as error:
        raise BackupBrokenError from error


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info) if info.isreg() and info.size <= _MOST_BYTES else None
    if file is None:
        raise BackupBrokenError
    return file.read()


@contextmanager
def _reading_json() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BackupBrokenError from error


def read_begin(name: str, data: bytes) -> Begin:
    """Return what the first member says; BackupBrokenError when it is another."""
    with _reading_json():
        value = json.loads(data) if name == BEGIN else {}
        begin = _begin(value)
    if begin.format != FORMAT:
        raise BackupBrokenError(
            f"The backup is of another format ({begin.format[:60]!r}): use the release that made it."
        )
    return begin


def read_manifest(data: bytes) -> Manifest:
    """Return what the manifest says; BackupBrokenError when it is none."""
    with _reading_json():
        value = json.loads(data)
        tables = [Table(str(each["name"]), list(each["columns"]), int(each["rows"])) for each in value["tables"]]
        parts = [Part(**each) for each in value["parts"]]
        return Manifest(_begin(value["begin"]), tables, parts, int(value["receipts"]))


def _begin(value: dict[str, Any]) -> Begin:
    schema = [(int(number), str(name), str(sha256)) for number, name, sha256 in value["schema"]]
    return Begin(str(value["server"]), str(value["release"]), str(value["at"]), schema, str(value["format"]))
