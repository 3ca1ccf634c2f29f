"""The server's key file: its name, its signing keys, and the master key that every other secret derives from.

It lives outside the database, mode 0600, shared by all processes of one server, and is backed up apart: a dump of the
database holds nothing that works as a credential.
"""

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ccserver.errors import BadConfigError
from ccshared import ed25519, envelope, notes, purposes

_USES = ("witness", "order")


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
    """A server's keys; the newest of each use signs."""

    server: str
    master: bytes
    signing: tuple[SigningKey, ...]

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
    def order_fingerprint(self) -> str:
        """The order key's fingerprint, which an enrolment code carries."""
        return purposes.fingerprint(self.order.public_key)

    def derive(self, purpose: str) -> bytes:
        """Return the 32-byte key for one purpose (HKDF-SHA256 from the master key)."""
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose.encode()).derive(self.master)

    def cosign(self, checkpoint: str, witness_name: str, cosigned_at: int) -> str:
        """Return the receipt for a stored checkpoint: the same bytes whenever it is asked for."""
        (key,) = (key for key in self.signing if key.use == "witness" and key.name == witness_name)
        return notes.cosign(checkpoint, key.name, key.seed, cosigned_at)

    def envelope(self, payload_type: envelope.PayloadType, value: dict[str, Any]) -> dict[str, Any]:
        """Return DSSE JSON signed by the order key."""
        return envelope.sign(payload_type, value, self.order.seed, self.order.name).to_json()


def create(path: Path, server: str) -> ServerKeys:
    """Make a new server's key file; BadConfigError when one is there already or it cannot be written."""
    label = time.strftime("%Y", time.gmtime()) + "a"
    made = {
        "server": server,
        "master": secrets.token_hex(32),
        "keys": [{"use": use, "label": label, "seed": ed25519.new_seed().hex()} for use in _USES],
    }
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _new_file(path) as descriptor:
            os.write(descriptor, json.dumps(made, indent=1).encode() + b"\n")
    except FileExistsError as error:
        raise BadConfigError(f"{path} is there already; a server's keys are never overwritten.") from error
    except OSError as error:
        raise BadConfigError(
            f"{path} cannot be written ({error.strerror}): name another as CCSERVER_KEY_FILE."
        ) from error
    return load(path)


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
    keys = ServerKeys(server, bytes.fromhex(data["master"]), signing)
    if len(keys.master) != 32 or not keys.order.public_key or not keys.witness.public_key:
        raise ValueError("a key of another length")
    return keys
