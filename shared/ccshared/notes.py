"""Checkpoints and receipts: C2SP signed notes, read so strictly that one receipt has one spelling.

A checkpoint is three text lines (origin, size, base64 root) and the epoch key's line; a receipt is the same note with
the witness's cosignature/v1 line added. Sources: C2SP signed-note, tlog-checkpoint, tlog-cosignature.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from ccshared import ed25519

LOG_ALGORITHM = 0x01
WITNESS_ALGORITHM = 0x04
MAX_NUMBER = 2**53

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,15}")
_NAME = re.compile(r"[!-*,-~]{1,255}")  # printable ASCII without space and plus
_ORIGIN = re.compile(r"([0-9a-z.-]{1,128})/log/([0-9a-z-]{1,64})/((?:0|[1-9][0-9]{0,9})-[0-9a-f]{8})")


class BadNoteError(ValueError):
    """The note is not a checkpoint or receipt that verifies."""


@dataclass(frozen=True)
class Checkpoint:
    """What a note says: the log's origin, its size in entries, the 32-byte root over them."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The signed text: three lines, each ended."""
        return f"{self.origin}\n{self.size}\n{_b64(self.root)}\n"


@dataclass(frozen=True)
class Receipt:
    """A verified receipt: what it covers and when the witness signed it (seconds since 1970, UTC)."""

    checkpoint: Checkpoint
    cosigned_at: int


@dataclass(frozen=True)
class Origin:
    """A log's origin in its parts."""

    server: str
    appliance: str
    epoch: str

    def __str__(self) -> str:
        return f"{self.server}/log/{self.appliance}/{self.epoch}"


def parse_origin(text: str) -> Origin:
    """Return the parts of `<server>/log/<appliance>/<number>-<8 hex>`; BadNoteError when it has another form."""
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise BadNoteError(f"not a log's origin: {text[:80]!r}")
    return Origin(*match.groups())


def key_id(name: str, algorithm: int, key: bytes) -> bytes:
    """Return the four bytes by which a signature line names its key."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([algorithm]) + key).digest()[:4]


def vkey(name: str, algorithm: int, key: bytes) -> str:
    """Return the verifier key: name+hex id+base64(algorithm byte || key)."""
    return f"{name}+{key_id(name, algorithm, key).hex()}+{_b64(bytes([algorithm]) + key)}"


def parse_vkey(text: str, algorithm: int) -> tuple[str, bytes]:
    """Return (name, 32-byte key) of a verifier key for this algorithm; BadNoteError unless it is exactly one."""
    name, plus, rest = text.partition("+")
    blob = _unb64(rest.partition("+")[2])
    key = blob[1:]
    if not plus or not _NAME.fullmatch(name) or len(key) != 32 or text != vkey(name, algorithm, key):
        raise BadNoteError("not a verifier key of this kind")
    try:
        ed25519.check_key(key)
    except ed25519.BadKeyError as error:
        raise BadNoteError("a verifier key that verifiers could disagree on") from error
    return name, key


def sign_checkpoint(checkpoint: Checkpoint, seed: bytes) -> str:
    """Return the checkpoint as a note signed by the epoch's key, whose name is the origin."""
    text = checkpoint.text
    signature = ed25519.sign(seed, text.encode())
    return text + "\n" + _line(checkpoint.origin, LOG_ALGORITHM, ed25519.public_key(seed), signature)


def read_checkpoint(note: str, key: bytes) -> Checkpoint:
    """Return what a signed checkpoint says; BadNoteError unless it verifies by `key` and is spelt exactly so."""
    checkpoint, lines = _parse(note, 1)
    _check_log_line(checkpoint, lines[0], key)
    return checkpoint


def cosign(note: str, witness: str, seed: bytes, now: int) -> str:
    """Return the receipt: the note with the witness's line, signed at `now` (seconds). The caller has verified it."""
    text, _, _ = note.partition("\n\n")
    message = _cosigned(text + "\n", now)
    blob = now.to_bytes(8, "big") + ed25519.sign(seed, message)
    return note + _line(witness, WITNESS_ALGORITHM, ed25519.public_key(seed), blob)


def read_receipt(receipt: str, key: bytes, witnesses: dict[str, bytes]) -> Receipt:
    """Return what a receipt proves; BadNoteError unless log and a known witness signed exactly these bytes.

    `witnesses` gives each trusted witness's 32-byte key by its name.
    """
    checkpoint, lines = _parse(receipt, 2)
    _check_log_line(checkpoint, lines[0], key)
    witness = lines[1][2:].partition(" ")[0]
    if witness not in witnesses:
        raise BadNoteError(f"signed by an unknown server key: {witness[:80]!r}")
    blob = _blob(lines[1], witness, WITNESS_ALGORITHM, witnesses[witness])
    if len(blob) != 72:
        raise BadNoteError("the cosignature has another length")
    now = int.from_bytes(blob[:8], "big")
    if now >= MAX_NUMBER:
        raise BadNoteError("the cosignature's time is 2^53 or more")
    _verify(witnesses[witness], _cosigned(checkpoint.text, now), blob[8:])
    return Receipt(checkpoint, now)


def checkpoint_of(receipt: str) -> str:
    """Return the agent-signed note inside a receipt: all but its last line."""
    return receipt[: receipt.rstrip("\n").rfind("\n") + 1]


def _parse(note: str, signatures: int) -> tuple[Checkpoint, list[str]]:
    text, blank, tail = note.partition("\n\n")
    lines, signed = text.split("\n"), tail.split("\n")
    if not blank or len(lines) != 3 or len(signed) != signatures + 1 or signed[-1]:
        raise BadNoteError(f"not three lines, an empty one and {signatures} signature(s)")
    parse_origin(lines[0])
    if not _DECIMAL.fullmatch(lines[1]) or int(lines[1]) >= MAX_NUMBER:
        raise BadNoteError("the size is not a plain decimal below 2^53")
    root = _unb64(lines[2])
    if len(root) != 32:
        raise BadNoteError("the root is not 32 bytes")
    return Checkpoint(lines[0], int(lines[1]), root), signed[:-1]


def _check_log_line(checkpoint: Checkpoint, line: str, key: bytes) -> None:
    signature = _blob(line, checkpoint.origin, LOG_ALGORITHM, key)
    _verify(key, checkpoint.text.encode(), signature)


def _blob(line: str, name: str, algorithm: int, key: bytes) -> bytes:
    prefix = f"— {name} "
    if not line.startswith(prefix):
        raise BadNoteError(f"no signature line by {name[:120]}")
    blob = _unb64(line[len(prefix) :])
    if blob[:4] != key_id(name, algorithm, key):
        raise BadNoteError("the signature line names another key")
    return blob[4:]


def _verify(key: bytes, message: bytes, signature: bytes) -> None:
    try:
        ed25519.verify(key, message, signature)
    except (ed25519.BadKeyError, ed25519.BadSignatureError) as error:
        raise BadNoteError("a signature does not verify") from error


def _cosigned(text: str, now: int) -> bytes:
    return f"cosignature/v1\ntime {now}\n{text}".encode()


def _line(name: str, algorithm: int, key: bytes, signature: bytes) -> str:
    return f"— {name} {_b64(key_id(name, algorithm, key) + signature)}\n"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unb64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadNoteError("not base64") from error
    if _b64(data) != text:
        raise BadNoteError("base64 in another spelling")
    return data
