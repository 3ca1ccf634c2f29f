"""The server's key file: its name, its signing keys, and the master key that every other secret derives from.

It lives outside the database, mode 0600, shared by all processes of one server, and is backed up apart: a dump of the
database holds nothing that works as a credential.
"""

import contextlib
import fcntl
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ccserver.errors import BadConfigError
from ccshared import ed25519, envelope, notes, purposes
from ccshared.messages import NewServerKey, ServerKey

_USES = ("witness", "order")
SEAL_PURPOSE = "cc seal v1"
log = logging.getLogger("ccserver.keys")


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 key by its use (witness or order) and its name `<server name>/server/<label>`."""

    use: str
    name: str
    seed: bytes

    @property
    def public_key(self) -> bytes:
        """The 32-byte public key."""
        return ed25519.public_key(self.seed)


@dataclass(frozen=True)
class ServerKeys:
    """A server's keys; the newest of each use signs.

    `statements` (DSSE JSON) name each key that came after the first two, signed by the order key of before. `former`
    are master keys of before, newest first: they read what was written then (seals, backups) and prove nothing new.
    """

    server: str
    master: bytes
    signing: tuple[SigningKey, ...]
    statements: tuple[dict[str, Any], ...] = ()
    former: tuple[bytes, ...] = ()

    @property
    def order(self) -> SigningKey:
        """The key that signs envelopes."""
        return [key for key in self.signing if key.use == "order"][-1]

    @property
    def witness(self) -> SigningKey:
        """The key that cosigns checkpoints."""
        return [key for key in self.signing if key.use == "witness"][-1]

    @property
    def witnesses(self) -> dict[str, bytes]:
        """Every witness key there was, by name: what a receipt of ours may be signed by."""
        return {key.name: key.public_key for key in self.signing if key.use == "witness"}

    @property
    def public(self) -> list[ServerKey]:
        """Every key there was, as agents are told them, oldest first."""
        return [ServerKey(use=key.use, name=key.name, public_key=key.public_key.hex()) for key in self.signing]

    @property
    def order_fingerprint(self) -> str:
        """The order key's fingerprint, which an enrolment code carries."""
        return purposes.fingerprint(self.order.public_key)

    def derive(self, purpose: str) -> bytes:
        """Return the 32-byte key for one purpose (HKDF-SHA256 from the master key)."""
        return _derived(self.master, purpose)

    def derive_all(self, purpose: str) -> list[bytes]:
        """Return the key for one purpose, and those of former master keys after it, newest first."""
        return [_derived(master, purpose) for master in (self.master, *self.former)]

    def cosign(self, checkpoint: str, witness_name: str, cosigned_at: int) -> str:
        """Return the receipt for a stored checkpoint: the same bytes whenever it is asked for."""
        (key,) = (key for key in self.signing if key.use == "witness" and key.name == witness_name)
        return notes.cosign(checkpoint, key.name, key.seed, cosigned_at)

    def envelope(self, payload_type: envelope.PayloadType, value: dict[str, Any]) -> dict[str, Any]:
        """Return DSSE JSON signed by the order key."""
        return envelope.sign(payload_type, value, self.order.seed, self.order.name).to_json()


def _derived(master: bytes, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose.encode()).derive(master)


class KeyFile:
    """The key file of a running process: looked at on each use (one stat), read again when it was replaced.

    A new file that is broken, of another server, with a master key that does not follow on ours, or without a key that
    is in use is refused: the last good keys stay, which is logged once and counted in `refused`. Without a key (an old
    copy put back) its receipts could not be made again, and the next rotation would give its name to another key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _mark(path)  # before it is read: a file replaced in between is then read once more
        self._keys = load(path)
        self._derived: dict[str, list[bytes]] = {}
        self.refused = 0

    @property
    def current(self) -> ServerKeys:
        """The keys as the file holds them now."""
        mark = _mark(self._path)
        if mark != self._seen:
            self._seen = mark
            self._read()
        return self._keys

    def derived(self, purpose: str) -> list[bytes]:
        """Return the key for one purpose, and those of former master keys after it; made once while the file stays."""
        keys = self.current
        if purpose not in self._derived:
            self._derived[purpose] = keys.derive_all(purpose)
        return self._derived[purpose]

    def _read(self) -> None:
        try:
            fresh = load(self._path)
            self._require_same_server(fresh)
        except BadConfigError as error:
            self.refused += 1
            log.warning("the new key file is not taken, the last good one stays: %s", error)
        else:
            log.info("the key file was replaced: it holds %d signing keys now", len(fresh.signing))
            self._keys, self._derived = fresh, {}

    def _require_same_server(self, fresh: ServerKeys) -> None:
        if fresh.server != self._keys.server or self._keys.master not in (fresh.master, *fresh.former):
            raise BadConfigError(f"{self._path} is another server's key file.")
        lost = [key.name for key in self._keys.signing if key not in fresh.signing]
        if lost:
            raise BadConfigError(f"{self._path} lacks {', '.join(lost)}, which signed: it is an old copy.")


def _mark(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is replaced or written; empty while there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def put_back(path: Path, data: bytes) -> ServerKeys:
    """Write a key file that was kept elsewhere; BadConfigError when it is none, or one is there already."""
    try:
        _parse(json.loads(data))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BadConfigError("What was kept is no whole key file. Nothing was written.") from error
    return _write_new(path, data)


def create(path: Path, server: str) -> ServerKeys:
    """Make a new server's key file; BadConfigError when one is there already or it cannot be written."""
    label = time.strftime("%Y", time.gmtime()) + "a"
    made = {
        "server": server,
        "master": secrets.token_hex(32),
        "keys": [{"use": use, "label": label, "seed": ed25519.new_seed().hex()} for use in _USES],
    }
    return _write_new(path, json.dumps(made, indent=1).encode() + b"\n")


def _write_new(path: Path, data: bytes) -> ServerKeys:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _new_file(path) as descriptor:
            os.write(descriptor, data)
    except FileExistsError as error:
        raise BadConfigError(f"{path} is there already; a server's keys are never overwritten.") from error
    except OSError as error:
        raise BadConfigError(
            f"{path} cannot be written ({error.strerror}): name another as CCSERVER_KEY_FILE."
        ) from error
    return load(path)


def announce(keys: ServerKeys, key: SigningKey, now_ms: int) -> dict[str, Any]:
    """Return the statement (DSSE JSON) that a new key is the server's, signed by the order key of before it."""
    said = NewServerKey(
        server=keys.server, use=key.use, name=key.name, public_key=key.public_key.hex(), issued_at_ms=now_ms
    )
    return keys.envelope(envelope.PayloadType.KEYS, said.model_dump(mode="json"))


def rotate(path: Path, use: str) -> ServerKeys:
    """Add a new key for a use (witness or order) to the key file, announced by the order key of before; return all.

    The older ones stay: receipts signed by them are made again, and agents follow from the one they know. The file is
    replaced whole, and every running process of this server sees that at its next use of a key.
    BadConfigError when it cannot be read or written, or the use is no such.
    """
    if use not in _USES:
        raise BadConfigError(f"{use!r} is no use of a key: say {' or '.join(_USES)}.")
    try:
        with _locked_folder(path.parent) as folder:
            keys = load(path)
            data = json.loads(path.read_text(encoding="utf-8"))
            _add_key(data, keys, use)
            _replace(path, json.dumps(data, indent=1).encode() + b"\n")
            os.fsync(folder)
    except OSError as error:
        raise BadConfigError(
            f"{path} cannot be replaced ({error.strerror}): make room, or correct its rights."
        ) from error
    return load(path)


def rotate_all(path: Path) -> ServerKeys:
    """Put a new master key and a new signing key for each use in the key file, in one step; return all.

    The former master key stays, to read what was written by it. BadConfigError when it cannot be read or written.
    """
    try:
        with _locked_folder(path.parent) as folder:
            keys = load(path)
            data = json.loads(path.read_text(encoding="utf-8"))
            data["former"] = [data["master"], *data.get("former", [])]
            data["master"] = secrets.token_hex(32)
            for use in _USES:  # the witness before the order key, so that both are announced by the order key of before
                keys = _add_key(data, keys, use)
            _replace(path, json.dumps(data, indent=1).encode() + b"\n")
            os.fsync(folder)
    except OSError as error:
        raise BadConfigError(
            f"{path} cannot be replaced ({error.strerror}): make room, or correct its rights."
        ) from error
    return load(path)


def _add_key(data: dict[str, Any], keys: ServerKeys, use: str) -> ServerKeys:
    """Add a new key to what the file will hold, announced by the order key of before; return the keys with it."""
    key = SigningKey(use, f"{keys.server}/server/{_next_label(keys)}", ed25519.new_seed())
    statement = announce(keys, key, time.time_ns() // 1_000_000)
    data["keys"].append({"use": use, "label": key.name.rpartition("/")[2], "seed": key.seed.hex()})
    data["statements"] = [*data.get("statements", []), statement]
    return replace(keys, signing=(*keys.signing, key))


def _next_label(keys: ServerKeys) -> str:
    """Return a label that no key had: the year and a letter, then two."""
    taken = {key.name.rpartition("/")[2] for key in keys.signing}
    year = time.strftime("%Y", time.gmtime())
    letters = "abcdefghijklmnopqrstuvwxyz"
    labels = [f"{year}{one}{two}" for one in ("", *letters) for two in letters]
    return next(label for label in labels if label not in taken)


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Iterator[int]:
    """Hold the folder's lock, so that two rotations cannot both start from the same file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _replace(path: Path, data: bytes) -> None:
    """Put new content in a file's place, with its owner and mode, once it is on the disk."""
    beside = path.with_name(path.name + f".{secrets.token_hex(4)}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            before = path.stat()
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[int]:
    """Open a new file of mode 0600 under another name; it takes its own once it is whole and on the disk."""
    beside = path.with_name(path.name + f".{secrets.token_hex(4)}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        yield descriptor
        os.fsync(descriptor)
        os.link(beside, path)  # unlike a rename, it never replaces a file
    finally:
        os.close(descriptor)
        beside.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)


def load(path: Path) -> ServerKeys:
    """Read the key file; BadConfigError when it is missing, open to others, or not a key file."""
    try:
        if path.stat().st_mode & 0o077:
            raise BadConfigError(f"{path} can be read by others: chmod 600 it, and rotate the keys if others did.")
        return _parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise BadConfigError(
            f"There is no key file {path}: run `ccserver keys init`, or name it as CCSERVER_KEY_FILE."
        ) from error
    except OSError as error:
        raise BadConfigError(f"The key file {path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BadConfigError(f"{path} is not a whole key file: restore it from its backup.") from error


def _parse(data: Any) -> ServerKeys:
    server = str(data["server"])
    signing = tuple(
        SigningKey(str(key["use"]), f"{server}/server/{key['label']}", bytes.fromhex(key["seed"]))
        for key in data["keys"]
        if key["use"] in _USES
    )
    statements = tuple(dict(statement) for statement in data.get("statements", []))
    former = tuple(bytes.fromhex(master) for master in data.get("former", []))
    keys = ServerKeys(server, bytes.fromhex(data["master"]), signing, statements, former)
    if len(keys.master) != 32 or not keys.order.public_key or not keys.witness.public_key:
        raise ValueError("a key of another length")
    return keys
