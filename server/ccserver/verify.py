#!/usr/bin/env python3
"""Verify an evidence export of Central Command, trusting nobody but the keys that you were given yourself.

    python3 verify.py export.zip --trust keys.txt [--receipt newest.txt] [--json]

One file, Python 3.9 or newer, its standard library and nothing else: no network, no installation. It ends in
INTACT (exit 0), INCOMPLETE (1), BROKEN (2) or COULD NOT JUDGE (3), with a list of what it found. What is missing, not
known or not understood is never INTACT. docs/verify.md says what is proved and what cannot be.

The trust file has a line for each key that you compared yourself ("#" begins a comment):

    cc.example/server/2026a+1f2e3d4c+BA...      a witness key of the server, as a C2SP verifier key
    cc.example/server/2026a <64 hex>            a key of the server by its name and fingerprint (SHA-256 of the raw key)
    0198c0de-... <64 hex>                       an appliance's device key, by its id and fingerprint
"""

from __future__ import annotations

import argparse
import base64
import binascii
import functools
import hashlib
import json
import re
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

FORMAT = "central-command-export"
INTACT, INCOMPLETE, BROKEN, UNJUDGED = 0, 1, 2, 3
VERDICTS = ("INTACT", "INCOMPLETE", "BROKEN", "COULD NOT JUDGE")
MAX_PAYLOAD, MAX_RECOVERED, MAX_DEPTH = 256 * 1024, 520 * 1024, 16
PART_BYTES = 16 * 1024 * 1024  # a part of a log closes once it is as long as this
MAX_PART, MAX_SMALL, MAX_MANIFEST = PART_BYTES + MAX_RECOVERED + 1, 16 * 1024 * 1024, 256 * 1024 * 1024
MAX_MEMBERS = 1_000_000
MAX_SHOWN = 200  # of each sort of finding; the rest is counted
KEPT_MS = 6 * 365 * 86_400_000  # what evidence is kept for; older payloads may go, their leaves stay
SLACK_MS = 45 * 86_400_000
SILENT_MS = 26 * 3_600_000  # a heartbeat comes after 24 h at the latest
AHEAD_MS = 300_000
GENESIS_PREV = "0" * 64
_RECORDS = ["genesis", "check_run", "remediation", "order_result", "escalation", "recovered"]
KINDS = frozenset([*_RECORDS, "clock_step", "gap", "heartbeat", "key_rotation", "redaction", "policy"])
KEYS_TYPE, EXPORT_TYPE = "application/vnd.cc.keys.v1+json", "application/vnd.cc.export.v1+json"
LOG_ALGORITHM, WITNESS_ALGORITHM = 1, 4
FIXED_MEMBERS = ("README.txt", "audit.json", "keys.json", "proofs.ndjson", "verify.py")


class BrokenError(Exception):
    """What is shown is not what was signed, hashed or promised."""

    def __init__(self, text: str, seq: int | None = None) -> None:
        super().__init__(text)
        self.seq = seq


class UnjudgedError(Exception):
    """It cannot be judged: it is not an export, or nothing is there to judge it by."""


# --- Ed25519 (RFC 8032, without the cofactor; R compared as bytes) ------------------------------------------------

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT_M1 = pow(2, (_P - 1) // 4, _P)
_Point = tuple[int, int, int, int]
_ZERO: _Point = (0, 1, 1, 0)
_SMALL_Y = frozenset(
    [
        0,
        1,
        _P - 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    ]
)


def _add(one: _Point, two: _Point) -> _Point:
    a, b = (one[1] - one[0]) * (two[1] - two[0]) % _P, (one[1] + one[0]) * (two[1] + two[0]) % _P
    c, d = 2 * one[3] * two[3] * _D % _P, 2 * one[2] * two[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _times(point: _Point, scalar: int) -> _Point:
    total = _ZERO
    while scalar:
        if scalar & 1:
            total = _add(total, point)
        point = _add(point, point)
        scalar >>= 1
    return total


def _decode(data: bytes) -> _Point | None:
    """Return the point that 32 bytes are the one encoding of; None when there is none or it is of small order."""
    if len(data) != 32:
        return None
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & (2**255 - 1)
    if y >= _P or y in _SMALL_Y:
        return None
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P != u:
        x = x * _ROOT_M1 % _P
    if v * x * x % _P != u or (x == 0 and sign):
        return None
    x = _P - x if x & 1 != sign else x
    return (x, y, 1, x * y % _P)


def _encode(point: _Point) -> bytes:
    inverse = pow(point[2], _P - 2, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


_BASE = _decode(bytes.fromhex("58" + "66" * 31)) or _ZERO


def is_key(key: bytes) -> bool:
    """Return whether 32 bytes are a public key that no two verifiers disagree on."""
    return _decode(key) is not None


@functools.lru_cache(maxsize=4096)  # a receipt is met again in the genesis of the next log
def ed25519_verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether the signature is good: [S]B = R + [k]A, S < L, no small order, one encoding."""
    point = _decode(key)
    if point is None or len(signature) != 64 or _decode(signature[:32]) is None:
        return False
    scalar = int.from_bytes(signature[32:], "little")
    if scalar >= _L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % _L
    negative = (_P - point[0], point[1], 1, _P - point[3])
    return _encode(_add(_times(_BASE, scalar), _times(negative, k))) == signature[:32]


# --- The tree (RFC 6962) ------------------------------------------------------------------------------------------

_sha256, _hexlify = hashlib.sha256, binascii.hexlify


def leaf_hash(payload: bytes) -> bytes:
    """Return SHA-256(0x00 || payload)."""
    return _sha256(b"\x00" + payload).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 || left || right)."""
    return _sha256(b"\x01" + left + right).digest()


@dataclass
class Tree:
    """A growing tree, known by the roots of the full subtrees on its right edge."""

    size: int = 0
    roots: list[bytes] = field(default_factory=list)

    def add(self, node: bytes, height: int = 0) -> None:
        """Add a leaf, or a full subtree of 2^height leaves where the size allows for one."""
        carry = self.size >> height
        while carry & 1:
            node = node_hash(self.roots.pop(), node)
            carry >>= 1
        self.roots.append(node)
        self.size += 1 << height

    def extend(self, leaves: list[bytes]) -> None:
        """Add leaves, 256 at a time where they fill a subtree."""
        place, end = 0, len(leaves)
        while place < end:
            if self.size & 255 == 0 and end - place >= 256:
                self.add(_full(leaves[place : place + 256]), 8)
                place += 256
            else:
                self.add(leaves[place])
                place += 1

    def root(self) -> bytes:
        """Return the root over what was added."""
        if not self.roots:
            return _sha256(b"").digest()
        node = self.roots[-1]
        for left in reversed(self.roots[:-1]):
            node = node_hash(left, node)
        return node


def _full(level: list[bytes]) -> bytes:
    while len(level) > 1:
        level = [_sha256(b"\x01" + level[at] + level[at + 1]).digest() for at in range(0, len(level), 2)]
    return level[0]


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes | None:
    """Return the root that an inclusion proof leads to (RFC 9162, 2.1.3.2); None when it cannot be one."""
    if not 0 <= index < size or any(len(node) != 32 for node in (leaf, *proof)):
        return None
    node, last = leaf, size - 1
    for sibling in proof:
        if last == 0:
            return None
        if index & 1 or index == last:
            node = node_hash(sibling, node)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        index, last = index >> 1, last >> 1
    return None if last else node


# --- Canonical JSON -----------------------------------------------------------------------------------------------

_KEY = re.compile(r"[a-z0-9_]{1,64}")
_TYPES = frozenset([dict, list, str, int, bool, type(None)])
_decode_json = json.JSONDecoder().decode
_encode_json = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
).encode
_known_keys: set[str] = set()


def read_canonical(data: bytes, limit: int = MAX_PAYLOAD) -> dict[str, Any]:
    """Return the object that canonical bytes stand for; BrokenError for any other spelling."""
    if len(data) > limit:
        raise BrokenError(f"longer than {limit} bytes")
    try:
        text = data.decode("utf-8")
        value = _decode_json(text)
        _walk(value)
        same = _encode_json(value) == text
    except (ValueError, RecursionError) as error:
        raise BrokenError("not canonical JSON") from error
    if not same:
        raise BrokenError("not canonical JSON: another spelling of the same value")
    assert isinstance(value, dict)  # noqa: S101  as _walk found
    return value


def _walk(value: Any) -> None:
    """Check types, keys and depth, a level at a time; ValueError says what is wrong."""
    if type(value) is not dict:
        raise ValueError("not an object")
    objects: list[dict[str, Any]] = [value]
    lists: list[list[Any]] = []
    for _ in range(MAX_DEPTH):
        keys = set(chain.from_iterable(objects))
        if not keys <= _known_keys:
            _check_keys(keys)
        children = list(chain(*map(dict.values, objects), *lists))
        kinds = set(map(type, children))
        if not kinds <= _TYPES:
            raise ValueError("a number that is no integer")
        if int in kinds:
            _check_numbers(children)
        objects = [child for child in children if type(child) is dict] if dict in kinds else []
        lists = [child for child in children if type(child) is list] if list in kinds else []
        if not objects and not lists:
            return
    raise ValueError("more than 16 nested containers")


def _check_keys(keys: set[str]) -> None:
    if not all(map(_KEY.fullmatch, keys)):
        raise ValueError("a key that is not [a-z0-9_]{1,64}")
    if len(_known_keys) > 4096:
        _known_keys.clear()
    _known_keys.update(keys)


def _check_numbers(children: list[Any]) -> None:
    numbers = [child for child in children if type(child) is int]
    if max(numbers) >= 2**53 or min(numbers) <= -(2**53):
        raise ValueError("an integer of 2^53 or more")


def read_json(data: bytes) -> dict[str, Any]:
    """Return an object whose bytes are the compact, sorted spelling, whatever its keys; BrokenError otherwise."""
    try:
        text = data.decode("utf-8")
        value = _decode_json(text)
        if type(value) is not dict or _encode_json(value) != text:
            raise ValueError
    except (ValueError, RecursionError) as error:
        raise BrokenError("not JSON in the one spelling") from error
    return value


# --- Notes: checkpoints, receipts, envelopes ----------------------------------------------------------------------

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,15}")
_ORIGIN = re.compile(r"([0-9a-z.-]{1,128})/log/([0-9a-z-]{1,64})/((0|[1-9][0-9]{0,9})-[0-9a-f]{8})")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_HEX32 = re.compile(r"[0-9a-f]{32}")
_HEX128 = re.compile(r"[0-9a-f]{128}")
_NAME = re.compile(r"[!-*,-~]{1,255}")


class Note(NamedTuple):
    """What a note says, who else signed it (the witness's name, its raw line), and when (seconds; 0: a checkpoint)."""

    origin: str
    size: int
    root: bytes
    text: str
    signature: bytes
    witness: str = ""
    witness_id: bytes = b""
    cosignature: bytes = b""
    at: int = 0


def unb64(text: str) -> bytes:
    """Return what standard base64 stands for; BrokenError unless it is the one spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BrokenError("not base64") from error
    if base64.b64encode(data).decode("ascii") != text:
        raise BrokenError("base64 in another spelling")
    return data


def key_id(name: str, algorithm: int, key: bytes) -> bytes:
    """Return the four bytes by which a signature line names its key."""
    return _sha256(name.encode() + b"\n" + bytes([algorithm]) + key).digest()[:4]


def read_note(note: Any, key: bytes, signatures: int) -> Note:
    """Return a checkpoint (1 signature) or receipt (2) whose log's line verifies by `key`; BrokenError otherwise."""
    if type(note) is not str:
        raise BrokenError("a note that is no text")
    text, blank, tail = note.partition("\n\n")
    lines, signed = text.split("\n"), tail.split("\n")
    if not blank or len(lines) != 3 or len(signed) != signatures + 1 or signed[-1]:
        raise BrokenError(f"not a note of three lines and {signatures} signature(s)")
    if not _ORIGIN.fullmatch(lines[0]) or not _DECIMAL.fullmatch(lines[1]) or int(lines[1]) >= 2**53:
        raise BrokenError("a note without an origin and a size")
    root = unb64(lines[2])
    blob = _blob(signed[0], lines[0])
    if len(root) != 32 or blob[:4] != key_id(lines[0], LOG_ALGORITHM, key):
        raise BrokenError("a note with another root, or by another key than the log's")
    if not ed25519_verify(key, (text + "\n").encode(), blob[4:]):
        raise BrokenError("the log's signature does not verify")
    found = Note(lines[0], int(lines[1]), root, text + "\n", blob[4:])
    return found if signatures == 1 else _with_witness(found, signed[1])


def _with_witness(note: Note, line: str) -> Note:
    name = line[2:].partition(" ")[0]
    blob = _blob(line, name)
    at = int.from_bytes(blob[4:12], "big")
    if not _NAME.fullmatch(name) or len(blob) != 76 or at >= 2**53:
        raise BrokenError("a cosignature of another form")
    return note._replace(witness=name, witness_id=blob[:4], cosignature=blob[12:], at=at)


def _blob(line: str, name: str) -> bytes:
    prefix = f"\u2014 {name} "
    if not line.startswith(prefix):
        raise BrokenError("a signature line of another form")
    return unb64(line[len(prefix) :])


def is_cosigned(note: Note, key: bytes) -> bool:
    """Return whether the witness's line is by this key."""
    message = f"cosignature/v1\ntime {note.at}\n{note.text}".encode()
    named = note.witness_id == key_id(note.witness, WITNESS_ALGORITHM, key)
    return named and ed25519_verify(key, message, note.cosignature)


def open_envelope(value: Any, expected: str, keys: dict[str, bytes]) -> dict[str, Any] | None:
    """Return what a DSSE envelope for this purpose holds, when the key that it names signed it; else None."""
    try:
        (signed,) = value["signatures"]
        payload, signature = unb64(value["payload"]), unb64(signed["sig"])
        if set(value) != {"payload", "payloadType", "signatures"} or set(signed) != {"keyid", "sig"}:
            return None
        if value["payloadType"] != expected:
            return None
        message = b"DSSEv1 %d %b %d %b" % (len(expected), expected.encode(), len(payload), payload)
        if ed25519_verify(keys[signed["keyid"]], message, signature):
            return read_canonical(payload)
    except (KeyError, TypeError, ValueError, BrokenError):
        return None
    return None


# --- Trust --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trust:
    """What the auditor compared: witness keys by name, and (name or appliance id, fingerprint) pairs."""

    witnesses: frozenset[tuple[str, bytes]]
    fingerprints: frozenset[tuple[str, str]]

    def has(self, name: str, key: bytes) -> bool:
        """Return whether this key is trusted under this name."""
        return (name, _sha256(key).hexdigest()) in self.fingerprints


def read_trust(text: str) -> Trust:
    """Return what a trust file says; UnjudgedError names the line that says nothing known."""
    witnesses, fingerprints = set(), set()
    for number, raw in enumerate(text.splitlines(), 1):
        words = raw.partition("#")[0].split()
        if not words:
            continue
        if len(words) == 2 and _HEX64.fullmatch(words[1]):
            fingerprints.add((words[0], words[1]))
        elif len(words) == 1:
            witnesses.add(_vkey(words[0], number))
        else:
            raise UnjudgedError(f"line {number} of the trust file is neither a verifier key nor a name and fingerprint")
    if not witnesses and not fingerprints:
        raise UnjudgedError("the trust file names no key, so there is nothing to judge by")
    return Trust(frozenset(witnesses), frozenset(fingerprints))


def _vkey(text: str, number: int) -> tuple[str, bytes]:
    name, _, rest = text.partition("+")
    try:
        key = unb64(rest.partition("+")[2])[1:]
    except BrokenError:
        key = b""
    whole = bytes([WITNESS_ALGORITHM]) + key
    made = f"{name}+{key_id(name, WITNESS_ALGORITHM, key).hex()}+{base64.b64encode(whole).decode()}"
    if text != made or not is_key(key):
        raise UnjudgedError(f"line {number} of the trust file is no witness's verifier key")
    return name, key


@dataclass
class ServerKeys:
    """The server's keys as the export shows them, and which of them the trust file leads to."""

    server: str
    all: dict[tuple[str, str], bytes]
    vouched: set[tuple[str, str]]
    strange: int = 0

    def orders(self, only_vouched: bool) -> dict[str, bytes]:
        """Return the order keys by their names."""
        return {
            each[1]: key
            for each, key in self.all.items()
            if each[0] == "order" and (each in self.vouched or not only_vouched)
        }


def read_keys(value: dict[str, Any], server: str, trust: Trust) -> ServerKeys:
    """Return the export's keys, followed from the trusted ones by statements of their predecessors."""
    if set(value) != {"keys", "statements"} or type(value["keys"]) is not list or type(value["statements"]) is not list:
        raise BrokenError("keys.json has another shape")
    found = ServerKeys(server, {}, set())
    for key in value["keys"]:
        _take_key(found, key, trust)
    for statement in value["statements"]:
        said = open_envelope(statement, KEYS_TYPE, found.orders(only_vouched=True)) or {}
        place = (str(said.get("use")), str(said.get("name")))
        if said.get("server") != server:
            found.strange += 1
        elif place not in found.all or found.all[place].hex() != said.get("public_key"):
            raise BrokenError(f"keys.json lacks a key that its predecessor named, or shows another: {place[1][:120]}")
        else:
            found.vouched.add(place)
    return found


def _take_key(found: ServerKeys, value: Any, trust: Trust) -> None:
    if type(value) is not dict or set(value) != {"name", "public_key", "use"}:
        raise BrokenError("keys.json has another shape")
    use, name, text = value["use"], value["name"], value["public_key"]
    if use not in ("witness", "order") or type(name) is not str or type(text) is not str:
        raise BrokenError("keys.json has another shape")
    if not _HEX64.fullmatch(text) or not name.startswith(f"{found.server}/server/") or (use, name) in found.all:
        raise BrokenError(f"keys.json names a key that cannot be one, or twice: {name[:120]}")
    key = bytes.fromhex(text)
    found.all[use, name] = key
    if trust.has(name, key) or (use == "witness" and (name, key) in trust.witnesses):
        found.vouched.add((use, name))


# --- The ZIP: one spelling of it ----------------------------------------------------------------------------------

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_DATE = 33  # 1980-01-01
_U16, _U32 = 0xFFFF, 0xFFFFFFFF


class Member(NamedTuple):
    """A member of the ZIP: how it is packed (8: deflate, 0: not at all), its sizes, and where it begins."""

    name: str
    method: int
    crc: int
    packed: int
    size: int
    offset: int


def local_header(member: Member) -> bytes:
    """Return the bytes before a member's data."""
    name = member.name.encode("ascii")
    fields = (b"PK\x03\x04", 45, 0, member.method, 0, _DATE, member.crc, member.packed, member.size, len(name), 0)
    return _LOCAL.pack(*fields) + name


def central_header(member: Member) -> bytes:
    """Return a member's record in the directory."""
    name = member.name.encode("ascii")
    extra = struct.pack("<2HQ", 1, 8, member.offset) if member.offset >= _U32 else b""
    packed = (member.method, 0, _DATE, member.crc, member.packed, member.size)
    rest = (len(name), len(extra), 0, 0, 0, 0o100644 << 16, min(member.offset, _U32))
    return _CENTRAL.pack(b"PK\x01\x02", 3 << 8 | 45, 45, 0, *packed, *rest) + name + extra


def end_records(count: int, size: int, offset: int) -> bytes:
    """Return what ends the ZIP: the directory's count, size and offset."""
    text = b""
    if count >= _U16 or offset >= _U32 or size >= _U32:
        text = _END64.pack(b"PK\x06\x06", 44, 3 << 8 | 45, 45, 0, 0, count, count, size, offset)
        text += _LOCATOR.pack(b"PK\x06\x07", 0, offset + size, 1)
    least = (min(count, _U16), min(count, _U16), min(size, _U32), min(offset, _U32))
    return text + _END.pack(b"PK\x05\x06", 0, 0, *least, 0)


class Archive:
    """An export's ZIP, opened: its directory, read strictly."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.members = _directory(file)
        self.by_name = {member.name: member for member in self.members}
        if len(self.by_name) != len(self.members):
            raise BrokenError("the ZIP has two members of one name")

    def read(self, name: str, limit: int) -> tuple[bytes, bytes]:
        """Return (content, content as packed) of a member, at most `limit` bytes long."""
        member = self.by_name.get(name)
        if member is None:
            raise BrokenError(f"{name} is missing")
        if member.size > limit or member.packed > limit + limit // 100 + 1024:
            raise BrokenError(f"{name} is longer than {limit} bytes")
        self.file.seek(member.offset)
        header = local_header(member)
        begins, packed = self.file.read(len(header)), self.file.read(member.packed)
        if begins != header or len(packed) != member.packed:
            raise BrokenError(f"{name} does not stand where the directory says")
        content = _inflate(packed, member.size) if member.method else packed
        if content is None or len(content) != member.size or zlib.crc32(content) != member.crc:
            raise BrokenError(f"{name} cannot be unpacked: it was cut off or changed")
        return content, packed


def _inflate(packed: bytes, size: int) -> bytes | None:
    unpacker = zlib.decompressobj(-15)
    try:
        content = unpacker.decompress(packed, size + 1)
    except zlib.error:
        return None
    return content if unpacker.eof and not unpacker.unused_data else None


def _directory(file: BinaryIO) -> list[Member]:
    end = file.seek(0, 2)
    count, size, offset = _find_directory(file, end)
    if count > MAX_MEMBERS or size > MAX_MANIFEST or offset + size > end:
        raise BrokenError("the ZIP's directory lies outside of it")
    file.seek(offset)
    data = file.read(end - offset) if end - offset <= size + 1024 else b""
    members, place, expected = [], 0, 0
    for _ in range(count):
        member, length = _read_central(data, place)
        if member.offset != expected or central_header(member) != data[place : place + length]:
            raise BrokenError("the ZIP is not spelt as an export is: its directory was changed")
        expected += len(local_header(member)) + member.packed
        members.append(member)
        place += length
    if expected != offset or data[place:] != end_records(count, size, offset) or place != size:
        raise BrokenError("the ZIP is not spelt as an export is: something stands beside its members")
    return members


def _find_directory(file: BinaryIO, end: int) -> tuple[int, int, int]:
    tail = min(end, _END.size + _LOCATOR.size + _END64.size)
    file.seek(end - tail)
    data = file.read(tail)
    if len(data) < _END.size or not data[-_END.size :].startswith(b"PK\x05\x06"):
        raise BrokenError("it does not end as a ZIP does: it was cut off, or is none")
    *_, count, size, offset, _comment = _END.unpack(data[-_END.size :])
    if data.startswith(b"PK\x06\x06") and (_U32 in (size, offset) or count == _U16):
        *_, count, size, offset = _END64.unpack(data[: _END64.size])
    return count, size, offset


def _read_central(data: bytes, place: int) -> tuple[Member, int]:
    if len(data) - place < _CENTRAL.size or data[place : place + 4] != b"PK\x01\x02":
        raise BrokenError("the ZIP's directory is cut off")
    fields = _CENTRAL.unpack_from(data, place)
    method, (crc, packed, size, named, extra), offset = fields[4], fields[7:12], fields[16]
    start = place + _CENTRAL.size
    name = data[start : start + named]
    if extra == 12 and offset == _U32 and len(data) >= start + named + 12:
        offset = struct.unpack_from("<4xQ", data, start + named)[0]
    if method not in (0, 8) or len(name) != named or not _MEMBER.fullmatch(name):
        raise BrokenError(f"the ZIP has a member that no export has: {name[:120]!r}")
    return Member(name.decode("ascii"), method, crc, packed, size, offset), _CENTRAL.size + named + extra


# The only names there are: none leads out of a folder.
_MEMBER = re.compile(
    rb"README\.txt|audit\.json|keys\.json|proofs\.ndjson|verify\.py|manifest\.json|signature\.json"
    rb"|logs/[0-9a-z-]{1,64}/(?:0|[1-9][0-9]{0,9})-[0-9a-f]{8}(?:\.json|/[0-9]{12}\.ndjson)"
)


# --- What was found -----------------------------------------------------------------------------------------------

_SORTS = {"broken": BROKEN, "unjudged": UNJUDGED, "incomplete": INCOMPLETE, "note": INTACT}


@dataclass
class Report:
    """What was found, by sort and code; `logs` says of each log how far it was verified."""

    export: dict[str, Any] = field(default_factory=dict)
    logs: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, sort: str, code: str, text: str, log: str = "", seq: int | None = None) -> None:
        """Add a finding; of many of one code the first are shown and all are counted."""
        self.counts[code] = self.counts.get(code, 0) + 1
        if self.counts[code] <= MAX_SHOWN or sort == "broken":
            found: dict[str, Any] = {"sort": sort, "code": code, "text": text}
            found.update({"log": log} if log else {}, **({} if seq is None else {"seq": seq}))
            self.findings.append(found)

    @property
    def verdict(self) -> int:
        """The worst of all: 2 before 3 before 1 before 0."""
        sorts = {_SORTS[found["sort"]] for found in self.findings}
        return next((each for each in (BROKEN, UNJUDGED, INCOMPLETE) if each in sorts), INTACT)

    def value(self) -> dict[str, Any]:
        """Return the report for programs."""
        named = {"verdict": VERDICTS[self.verdict], "exit": self.verdict, "export": self.export}
        return {**named, "counts": self.counts, "logs": self.logs, "findings": self.findings}

    def text(self) -> str:
        """Return the report for a person."""
        lines = [f"{name}: {value}" for name, value in self.export.items() if value is not None]
        lines += [_log_line(log) for log in self.logs]
        lines += [_finding_line(found) for found in self.findings]
        hidden = sum(self.counts.values()) - len(self.findings)
        lines += [f"... and {hidden} more"] if hidden else []
        return "\n".join([*map(_printable, lines), VERDICTS[self.verdict]])


def _printable(line: str) -> str:
    """Return a line that moves no cursor, and that any terminal or pipe takes: what is shown was written by others."""
    return "".join(each if " " <= each <= "~" else ascii(each)[1:-1] for each in line)


def _log_line(log: dict[str, Any]) -> str:
    bare = ", ".join(f"{count} {why}" for why, count in sorted(log["bare"].items())) or "none"
    when = "never" if log["cosigned_at"] is None else _when(log["cosigned_at"] * 1000)
    return f"{log['origin']}: {log['verified']} of {log['size']} entries, bare leaves: {bare}, receipted {when}"


def _finding_line(found: dict[str, Any]) -> str:
    place = f"{found.get('log', '')} {found['seq']}" if "seq" in found else found.get("log", "")
    return f"{found['sort'].upper():10} {found['code']}: {place + ': ' if place else ''}{found['text']}"


def _when(ms: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(ms / 1000))
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"


# --- A log --------------------------------------------------------------------------------------------------------

_STUB = b'{"leaf":"'
_REASONS = frozenset(["withheld", "pruned", "erased", "lost", "out_of_range"])
_TEN = frozenset(["v", "log", "seq", "prev", "kind", "id", "at", "clock", "salt", "body"])
_kind = re.compile(r"[a-z_]{1,32}").fullmatch
_hex32 = _HEX32.fullmatch


@dataclass
class Log:
    """One epoch of an appliance: what its .json says, then what its entries showed."""

    name: str
    origin: str
    appliance: str
    number: int
    key: bytes
    size: int
    first: int
    end: int
    receipt: Note | None
    tree: Tree = field(default_factory=Tree)
    prev: str = GENESIS_PREV
    roots: dict[int, bytes] = field(default_factory=dict)
    bare: dict[str, int] = field(default_factory=dict)
    genesis: dict[str, Any] | None = None
    named_key: bytes | None = None
    newest: tuple[int, bool] | None = None
    at_of: dict[int, int] = field(default_factory=dict)
    pruned: bool = False
    skipped: bool = False
    broken: bool = False
    is_vouched: bool = False

    @property
    def ends(self) -> set[int]:
        """The places whose time proves where the exported range begins and ends."""
        return {self.first - 1, self.end}

    def summary(self) -> dict[str, Any]:
        """Return what the report says of this log."""
        receipt = self.receipt
        return {
            "origin": self.origin,
            "size": self.size,
            "verified": self.tree.size,
            "receipted": receipt.size if receipt else None,
            "cosigned_at": receipt.at if receipt else None,
            "bare": self.bare,
            "vouched": self.is_vouched,
        }


_META = frozenset(["v", "origin", "public_key", "size", "first", "end", "receipt", "checkpoint", "equivocations"])


def read_log(name: str, data: bytes, server: str) -> tuple[Log, dict[str, Any]]:
    """Return what a log's .json says; BrokenError when it contradicts itself."""
    value = read_canonical(data, MAX_SMALL)
    match = _ORIGIN.fullmatch(value["origin"]) if type(value.get("origin")) is str else None
    if set(value) != _META or value["v"] != 1 or match is None or match[1] != server:
        raise BrokenError(f"{name} has another shape")
    if name != f"logs/{match[2]}/{match[3]}.json":
        raise BrokenError(f"{name} is of another log: {value['origin']}")
    size, first, end = value["size"], value["first"], value["end"]
    if not all(type(each) is int for each in (size, first, end)) or not 0 <= first <= end <= size:
        raise BrokenError(f"{name} has another shape")
    if type(value["public_key"]) is not str or not _HEX64.fullmatch(value["public_key"]):
        raise BrokenError(f"{name} has another shape")
    key = bytes.fromhex(value["public_key"])
    if not is_key(key):
        raise BrokenError(f"{name} names a public key that is none")
    receipt = read_note(value["receipt"], key, 2) if value["receipt"] is not None else None
    if receipt and (receipt.origin != value["origin"] or receipt.size != size):
        raise BrokenError(f"{name} shows the receipt of another log or size")
    return Log(name, value["origin"], match[2], int(match[4]), key, size, first, end, receipt), value


def _is_stub(value: dict[str, Any], leaf: str) -> bool:
    return len(value) == 2 and _HEX64.fullmatch(leaf) is not None


class Reader:
    """Reads the entries of a log in order; what it learns goes into the log and the report."""

    def __init__(self, export: Export, log: Log, canonical: bool) -> None:
        self.export, self.log, self.report = export, log, export.report
        self.leaves_of = self._leaves if canonical else self._leaves_quickly
        self.wanted = sorted(export.wanted.get(log.origin, {}))
        self.ends = log.ends

    def take(self, lines: list[bytes]) -> None:
        """Take the next lines; BrokenError names the first that does not belong."""
        self._extend(self.leaves_of(lines, self.log.tree.size))

    def _leaves(self, lines: list[bytes], first: int) -> list[bytes]:
        leaves: list[bytes] = []
        for seq, line in enumerate(lines, first):
            leaf = self._leaf(seq, line)
            leaves.append(leaf)
            self.log.prev = leaf.hex()
        return leaves

    def _leaf(self, seq: int, line: bytes) -> bytes:
        return self._stub(seq, line) if line.startswith(_STUB) else self._read_whole(seq, line, self.log.prev)

    def _leaves_quickly(self, lines: list[bytes], first: int) -> list[bytes]:
        """Without the canonical check: of a check run only its place, by its last bytes; all else is read whole."""
        log, ends, leaves, slow = self.log, self.ends, [], False
        prev, salt = log.prev.encode(), b'","salt":"'
        kind = f'","kind":"check_run","log":"{log.origin}","prev":"'.encode()
        for seq, line in enumerate(lines, first):
            end = b'","seq":%d,"v":1}' % seq
            placed = line.endswith(end) and line.endswith(kind + prev + salt, 0, -32 - len(end))
            if placed and seq not in ends and not slow:
                hashed = _sha256(b"\x00")
                hashed.update(line)
                leaf = hashed.digest()
            else:
                log.prev = prev.decode()
                leaf = self._leaf(seq, line)
                slow = log.pruned or log.named_key is not None
            leaves.append(leaf)
            prev = _hexlify(leaf)
        log.prev = prev.decode()
        return leaves

    def _extend(self, leaves: list[bytes]) -> None:
        tree = self.log.tree
        first, done = tree.size, 0
        for size in self.wanted:
            if first < size <= first + len(leaves):
                tree.extend(leaves[done : size - first])
                done = size - first
                self.log.roots[size] = tree.root()
        tree.extend(leaves[done:])

    def _stub(self, seq: int, line: bytes) -> bytes:
        value = read_canonical(line)
        leaf, why = value.get("leaf"), value.get("why")
        if type(leaf) is not str or type(why) is not str or why not in _REASONS or not _is_stub(value, leaf):
            raise BrokenError("a bare leaf of another form", seq)
        log = self.log
        if why == "out_of_range" and log.first <= seq < log.end:
            raise BrokenError("a bare leaf that is said to be out of the range stands in it", seq)
        log.bare[why] = log.bare.get(why, 0) + 1
        log.pruned = log.pruned or why == "pruned"
        log.skipped = log.skipped or why == "out_of_range"
        if why == "erased":
            self.export.erased[leaf] = (log.origin, seq)
        if why in ("withheld", "lost", "erased"):
            self.report.add("incomplete", why, f"only the leaf is here: the payload is {why}", log.origin, seq)
        return bytes.fromhex(leaf)

    def _read_whole(self, seq: int, line: bytes, prev: str) -> bytes:
        try:
            value = read_canonical(line, MAX_RECOVERED)
        except BrokenError as error:
            raise BrokenError(str(error), seq) from None
        if (
            len(value) != 10
            or value.keys() != _TEN
            or type(value["v"]) is not int
            or value["v"] != 1
            or type(value["seq"]) is not int
            or value["seq"] != seq
            or value["log"] != self.log.origin
            or not self._fits(value)
        ):
            raise BrokenError("not the entry that belongs at this place of this log", seq)
        if value["prev"] != prev:
            raise BrokenError("does not follow the entry before: one of the two was changed", max(seq - 1, 0))
        self._note(seq, value, len(line))
        return _sha256(b"\x00" + line).digest()

    def _fits(self, value: dict[str, Any]) -> bool:
        at, kind = value["at"], value["kind"]
        return (
            type(at) is int
            and at >= 0
            and type(kind) is str
            and (kind in KINDS or _kind(kind) is not None)
            and type(value["id"]) is str
            and _hex32(value["id"]) is not None
            and type(value["salt"]) is str
            and _hex32(value["salt"]) is not None
            and value["clock"] in ("sync", "unsync", "stepped")
            and type(value["body"]) is dict
        )

    def _note(self, seq: int, value: dict[str, Any], length: int) -> None:
        log, kind, at = self.log, value["kind"], value["at"]
        if (kind == "genesis") != (seq == 0):
            raise BrokenError("a genesis stands at the start of a log and nowhere else", seq)
        if length > MAX_PAYLOAD and kind != "recovered":
            raise BrokenError(f"longer than {MAX_PAYLOAD} bytes", seq)
        if log.named_key is not None:
            raise BrokenError("something follows the entry that names a new key", seq)
        if seq in log.ends:
            log.at_of[seq] = at
        if log.pruned:
            self._after_pruned(seq, at)
        self._times(seq, at, value["clock"] == "sync")
        if kind not in ("check_run", "heartbeat"):
            self._special(seq, kind, value)

    def _after_pruned(self, seq: int, at: int) -> None:
        self.log.pruned = False
        if at > self.export.now_ms - KEPT_MS + SLACK_MS:
            text = f"payloads before it are said to be past their six years, but it is of {_when(at)}"
            self.report.add("incomplete", "pruned_early", text, self.log.origin, seq)

    def _times(self, seq: int, at: int, sync: bool) -> None:
        log = self.log
        before = log.newest
        log.newest = (at, sync)
        skipped, log.skipped = log.skipped, False
        if before is None or not sync or not before[1] or skipped:
            return
        if at < before[0] - AHEAD_MS:
            self.report.add("incomplete", "time", f"goes back to {_when(at)}, by a clock in step", log.origin, seq)
        elif at - before[0] > SILENT_MS:
            text = f"nothing was recorded between {_when(before[0])} and {_when(at)}"
            self.report.add("incomplete", "silence", text, log.origin, seq)

    def _special(self, seq: int, kind: str, value: dict[str, Any]) -> None:
        body, log = value["body"], self.log
        if kind == "genesis":
            self._genesis(body)
        elif kind == "key_rotation":
            log.named_key = self._named_key(seq, body)
        elif kind == "recovered":
            self._recovered(seq, value)
        elif kind == "gap":
            text = f"the appliance could not keep {body.get('count', '?')} entries: {str(body.get('reason'))[:200]}"
            self.report.add("incomplete", "gap", text, log.origin, seq)
        elif kind == "redaction":
            self.export.redacted.add(str(body.get("leaf")))
            self.report.add("incomplete", "redaction", f"erased entry {body.get('seq')} by order", log.origin, seq)
        elif kind not in KINDS:
            self.report.add("incomplete", "unknown_kind", f"a kind that is not known here: {kind}", log.origin, seq)

    def _genesis(self, body: dict[str, Any]) -> None:
        if body.get("public_key") != self.log.key.hex():
            raise BrokenError("the genesis names another key than the log's", 0)
        self.log.genesis = body

    def _named_key(self, seq: int, body: dict[str, Any]) -> bytes:
        text, signature = body.get("public_key"), body.get("signature")
        fits = type(text) is str and type(signature) is str and _HEX64.fullmatch(text) and _HEX128.fullmatch(signature)
        server = self.log.origin.partition("/")[0]
        message = f"cc-key-v1\n{server}\n{self.log.appliance}\n{text}\n".encode()
        if not fits or not ed25519_verify(bytes.fromhex(str(text)), message, bytes.fromhex(str(signature))):
            self.report.add("incomplete", "rotation", "names a new key that did not sign for it", self.log.origin, seq)
            return b""
        return bytes.fromhex(str(text))

    def _recovered(self, seq: int, value: dict[str, Any]) -> None:
        body = value["body"]
        payload, leaf, origin, place = (body.get(name) for name in ("payload", "leaf", "log", "seq"))
        whole = type(payload) is str and type(origin) is str and type(place) is int
        if not whole or leaf_hash(str(payload).encode()).hex() != leaf or not self._is_old(value, str(payload)):
            raise BrokenError("carries an entry that is not the one it says", seq)
        if str(origin).rpartition("/")[0] != self.log.origin.rpartition("/")[0]:
            raise BrokenError("carries an entry of another appliance", seq)
        self.export.carried.setdefault(str(origin), {})[int(str(place))] = (str(leaf), self.log.origin, seq)

    def _is_old(self, value: dict[str, Any], payload: str) -> bool:
        body = value["body"]
        try:
            old = read_canonical(payload.encode())
        except (BrokenError, ValueError):
            return False
        same = (old.get("log"), old.get("seq"), old.get("id")) == (body["log"], body["seq"], value["id"])
        return same and old.keys() == _TEN and type(old["seq"]) is int and self._fits(old)


# --- The export ---------------------------------------------------------------------------------------------------


class Progress:
    """Says on standard error, every two seconds, how far it is."""

    def __init__(self, total: int, quiet: bool) -> None:
        self.total, self.done, self.said, self.quiet = total, 0, time.monotonic(), quiet

    def add(self, count: int) -> None:
        """Count entries that were verified."""
        self.done += count
        if not self.quiet and time.monotonic() - self.said > 2:
            self.said = time.monotonic()
            print(f"{self.done} of {self.total} entries", file=sys.stderr)


_MANIFEST = frozenset(
    ["v", "format", "server", "partner", "site", "from", "to", "logs", "entries", "payloads", "members"]
)
_MEMBER_KEYS = {"name", "packed", "packed_sha256", "sha256", "size"}


class Export:
    """An export whose members are read against its manifest, and what is known across its logs."""

    def __init__(self, file: BinaryIO, trust: Trust, report: Report, now_ms: int) -> None:
        self.report, self.trust, self.now_ms = report, trust, now_ms
        self.archive = Archive(file)
        self.manifest = self._read_manifest()
        self.keys = read_keys(read_json(self.content("keys.json", MAX_SMALL)), self.manifest["server"], trust)
        self.wanted: dict[str, dict[int, list[tuple[str, Note]]]] = {}
        self.carried: dict[str, dict[int, tuple[str, str, int]]] = {}
        self.erased: dict[str, tuple[str, int]] = {}
        self.redacted: set[str] = set()

    def content(self, name: str, limit: int, quickly: bool = False) -> bytes:
        """Return a member's content, if it is the one that the manifest counts; quickly: by its packed bytes alone."""
        content, packed = self.archive.read(name, limit)
        said = self.said[name]
        same = said["packed_sha256"] == _sha256(packed).hexdigest()
        if not same or not (quickly or said["sha256"] == _sha256(content).hexdigest()):
            raise BrokenError(f"{name} is not the one that the manifest names")
        return content

    def _read_manifest(self) -> dict[str, Any]:
        self.raw_manifest, _ = self.archive.read("manifest.json", MAX_MANIFEST)
        value = read_canonical(self.raw_manifest, MAX_MANIFEST)
        if set(value) != _MANIFEST or value["format"] != FORMAT or value["v"] != 1:
            raise UnjudgedError("an export of another form: this verifier knows version 1 only")
        if not all(type(value[name]) is str for name in ("server", "partner", "site")):
            raise BrokenError("the manifest has another shape")
        if not all(type(value[name]) is int for name in ("logs", "entries", "payloads")):
            raise BrokenError("the manifest has another shape")
        if not all(value[name] is None or type(value[name]) is int for name in ("from", "to")):
            raise BrokenError("the manifest has another shape")
        self.said = self._read_members(value["members"])
        return value

    def _read_members(self, members: Any) -> dict[str, dict[str, Any]]:
        if type(members) is not list or not all(type(one) is dict and set(one) == _MEMBER_KEYS for one in members):
            raise BrokenError("the manifest has another shape")
        names = [one["name"] for one in members]
        shown = [member.name for member in self.archive.members]
        if shown != [*names, "manifest.json", "signature.json"] or names != sorted(names):
            raise BrokenError("the members are not those that the manifest counts")
        for one, member in zip(members, self.archive.members):
            if (one["size"], one["packed"]) != (member.size, member.packed):
                raise BrokenError(f"{member.name} is not the one that the manifest names")
        missing = [name for name in FIXED_MEMBERS if name not in names]
        if missing:
            raise BrokenError(f"{missing[0]} is missing")
        return dict(zip(names, members))

    def check_keys(self) -> None:
        """List every key of the server, and every statement, to which no path leads from the trust file."""
        for use, name in sorted(set(self.keys.all) - self.keys.vouched):
            fingerprint = _sha256(self.keys.all[use, name]).hexdigest()
            text = f"nobody vouches for the {use} key {name}: compare its fingerprint {fingerprint}"
            self.report.add("incomplete", "unvouched_server_key", text)
        if self.keys.strange:
            text = f"{self.keys.strange} statement(s) of keys.json are by no key that you vouch for"
            self.report.add("incomplete", "unvouched_server_key", text)

    def check_signature(self) -> None:
        """Check that the server signed for the manifest, by a key that the trust file leads to."""
        value = read_json(self.archive.read("signature.json", 65536)[0])
        said = {"manifest": _sha256(self.raw_manifest).hexdigest(), "server": self.manifest["server"]}
        if open_envelope(value, EXPORT_TYPE, self.keys.orders(only_vouched=True)) == said:
            return
        if open_envelope(value, EXPORT_TYPE, self.keys.orders(only_vouched=False)) != said:
            raise BrokenError("the manifest is not signed by a key of the server")
        text = "the manifest (site, range, which logs there are) is signed by an order key that you do not vouch for"
        self.report.add("incomplete", "unvouched_server_key", text)

    def check_receipt(self, note: Note, log: str) -> None:
        """Check a receipt's cosignature, and whether the trust file leads to its key; BrokenError when it is bad."""
        place = ("witness", note.witness)
        key = self.keys.all.get(place)
        if key is None or not is_cosigned(note, key):
            raise BrokenError(f"the receipt is not by the key that it names: {note.witness[:120]}")
        if place not in self.keys.vouched:
            text = f"receipted by a server key that you do not vouch for: {note.witness}, {_sha256(key).hexdigest()}"
            self.report.add("incomplete", "unvouched_server_key", text, log)

    def want(self, note: Note, why: str) -> None:
        """Have the root of a log at a note's size compared with the note's."""
        self.wanted.setdefault(note.origin, {}).setdefault(note.size, []).append((why, note))


def verify(file: BinaryIO, trust: Trust, receipts: list[str], options: Options) -> Report:
    """Verify an export that can be sought in; whatever it holds, the answer is a report."""
    report = Report()
    try:
        export = Export(file, trust, report, options.now_ms)
        _verify(export, receipts, options)
    except BrokenError as error:
        report.add("broken", "export", str(error))
    except UnjudgedError as error:
        report.add("unjudged", "export", str(error))
    except (OSError, EOFError, MemoryError, OverflowError, struct.error) as error:
        report.add("broken", "export", f"it cannot be read ({type(error).__name__})")
    return report


class Options(NamedTuple):
    """How to verify: with the canonical check or without; the time (ms) that retention is judged by."""

    canonical: bool = True
    quiet: bool = True
    now_ms: int = 0


def _verify(export: Export, receipts: list[str], options: Options) -> None:
    manifest, report = export.manifest, export.report
    report.export = {name: manifest[name] for name in ("server", "partner", "site", "from", "to")}
    export.check_signature()
    export.check_keys()
    for name in ("README.txt", "verify.py"):
        export.content(name, MAX_SMALL)
    _check_audit(export)
    if not options.canonical:
        report.add("incomplete", "not_canonical", "the canonical form of check runs was not checked, as you asked")
    logs = _read_logs(export)
    _take_receipts(export, logs, receipts)
    progress = Progress(manifest["entries"], options.quiet)
    for log in logs:
        _verify_log(export, log, options.canonical, progress)
    _across(export, logs)
    report.logs = [log.summary() for log in logs]
    if not logs:
        report.add("incomplete", "empty", "there is no log in it")


def _check_audit(export: Export) -> None:
    """Check that the audit head is one, and of the partner; nothing in an export leads to its hash."""
    value = read_canonical(export.content("audit.json", MAX_SMALL))
    size, head = value.get("size"), value.get("hash")
    fits = type(size) is int and size >= 0 and type(head) is str and _HEX64.fullmatch(head)
    if set(value) != {"partner", "size", "hash"} or not fits or value["partner"] != export.manifest["partner"]:
        raise BrokenError("audit.json has another shape, or is of another partner")


def _read_logs(export: Export) -> list[Log]:
    names = [name for name in export.said if name.startswith("logs/") and name.endswith(".json")]
    stray = {name.rpartition("/")[0] for name in export.said if name.endswith(".ndjson") and name != "proofs.ndjson"}
    if stray - {name[:-5] for name in names}:
        raise BrokenError("entries of a log that is not shown")
    logs = []
    for name in names:
        log, value = read_log(name, export.content(name, MAX_SMALL), export.manifest["server"])
        logs.append(log)
        _take_range(export, log)
        _take_head(export, log, value)
    manifest = export.manifest
    if (len(logs), sum(log.size for log in logs)) != (manifest["logs"], manifest["entries"]):
        raise BrokenError("the manifest counts other logs or entries than there are")
    return logs


def _take_range(export: Export, log: Log) -> None:
    since, until = export.manifest["from"], export.manifest["to"]
    if (since is None and log.first) or (until is None and log.end != log.size):
        raise BrokenError(f"{log.origin} is cut, though the whole of it was to be exported")


def _take_head(export: Export, log: Log, value: dict[str, Any]) -> None:
    """Check a log's receipt and equivocations, apart from its entries."""
    if log.receipt is not None:
        export.check_receipt(log.receipt, log.origin)
        export.want(log.receipt, "its receipt")
    else:
        text = "no receipt covers this log"
        export.report.add("incomplete", "no_receipt", text, log.origin)
    if log.receipt is not None and value["checkpoint"] is not None:
        raise BrokenError(f"{log.name} has another shape")
    if value["checkpoint"] is not None:
        export.want(_of_log(read_note(value["checkpoint"], log.key, 1), log), "its checkpoint")
    if type(value["equivocations"]) is not list:
        raise BrokenError(f"{log.name} has another shape")
    for fork in value["equivocations"]:
        _take_fork(export, log, fork)


def _of_log(note: Note, log: Log) -> Note:
    if note.origin != log.origin or note.size > log.size:
        raise BrokenError(f"a checkpoint of another log, or beyond it, stands in {log.name}")
    return note


def _take_fork(export: Export, log: Log, fork: Any) -> None:
    if type(fork) is not dict or set(fork) != {"seq", "leaf", "checkpoint", "payload"} or type(fork["seq"]) is not int:
        raise BrokenError(f"{log.name} has another shape")
    note = read_note(fork["checkpoint"], log.key, 1)
    payload = fork["payload"]
    if note.origin != log.origin or (payload is not None and leaf_hash(str(payload).encode()).hex() != fork["leaf"]):
        raise BrokenError(f"{log.name} shows a fork that is none")
    text = "the appliance signed for another entry here too: it was rolled back or copied"
    export.report.add("incomplete", "fork", text, log.origin, fork["seq"])


def _take_receipts(export: Export, logs: list[Log], receipts: list[str]) -> None:
    """Hold the export against receipts that the auditor kept."""
    by_origin = {log.origin: log for log in logs}
    for text in receipts:
        origin = text.partition("\n")[0]
        log = by_origin.get(origin)
        if log is None:
            known = any(one.appliance == origin.split("/")[2:3][0] for one in logs) if origin.count("/") > 2 else False
            said = "your receipt is of a log that this export does not show"
            export.report.add("broken" if known else "unjudged", "receipt", said, origin[:300])
            continue
        note = read_note(text, log.key, 2)
        export.check_receipt(note, origin)
        if note.size > log.size:
            raise BrokenError(f"your receipt covers {note.size} entries of {origin}, of which {log.size} are here")
        export.want(note, "your receipt")


def _verify_log(export: Export, log: Log, canonical: bool, progress: Progress) -> None:
    log.broken = True
    try:
        reader = Reader(export, log, canonical)
        for lines in _parts(export, log, quickly=not canonical):
            reader.take(lines)
            progress.add(len(lines))
        if log.tree.size != log.size:
            raise BrokenError(f"{log.size - log.tree.size} entries are missing", log.tree.size)
        log.roots[log.size] = log.tree.root()
        log.broken = False
        _check_end(export, log)
    except BrokenError as error:
        seq = error.seq if error.seq is not None else log.tree.size
        export.report.add("broken", "entry", str(error), log.origin, seq)


def _parts(export: Export, log: Log, quickly: bool = False) -> Iterator[list[bytes]]:
    prefix, expected = log.name[:-5] + "/", 0
    for name in [name for name in export.said if name.startswith(prefix)]:
        if name != f"{prefix}{expected:012d}.ndjson":
            raise BrokenError("a part of the log is missing, or stands elsewhere", expected)
        data = export.content(name, MAX_PART, quickly)
        if not data.endswith(b"\n"):
            raise BrokenError("the last line of a part is cut off", expected)
        lines = data.split(b"\n")
        lines.pop()
        if expected + len(lines) > log.size:
            raise BrokenError("more entries than the log has", log.size)
        yield lines
        expected += len(lines)


def _check_end(export: Export, log: Log) -> None:
    """Check what only the end of a log shows: the range's ends, and the time of its receipt."""
    manifest, report = export.manifest, export.report
    before, after = log.at_of.get(log.first - 1), log.at_of.get(log.end)
    if log.first and (before is None or before >= manifest["from"]):
        report.add("incomplete", "range", "that nothing before it is of the range is not shown", log.origin, log.first)
    if log.end < log.size and (after is None or after < manifest["to"]):
        report.add("incomplete", "range", "that nothing from here on is of the range is not shown", log.origin, log.end)
    if log.pruned and log.receipt and log.receipt.at * 1000 > export.now_ms - KEPT_MS + SLACK_MS:
        text = "the last payloads are said to be past their six years, but the receipt is younger"
        report.add("incomplete", "pruned_early", text, log.origin, log.size - 1)
    if log.receipt and log.newest and log.newest[1] and log.newest[0] > log.receipt.at * 1000 + AHEAD_MS:
        report.add("incomplete", "time", "its newest entry is of a later time than its receipt", log.origin)


def _across(export: Export, logs: list[Log]) -> None:
    """Check what logs say of each other, and every root that was asked for."""
    by_origin = {log.origin: log for log in logs}
    for log in logs:
        _check_link(export, log, by_origin)
    for log in logs:
        if not log.broken:
            _look_again(export, log)
            _check_roots(export, log)
    _check_proofs(export, by_origin)
    _check_epochs(export, logs)
    _check_vouched(export, logs)
    for leaf, (origin, seq) in export.erased.items():
        if leaf not in export.redacted:
            export.report.add("incomplete", "erased_unexplained", "no redaction entry explains it", origin, seq)


def _check_link(export: Export, log: Log, by_origin: dict[str, Log]) -> None:
    previous = log.genesis.get("previous") if log.genesis else None
    if log.genesis is None and not log.broken:
        text = "its first entry is not here, so nothing says why it began"
        export.report.add("incomplete", "no_genesis", text, log.origin, 0)
    if previous is None:
        return
    origin = str(previous).partition("\n")[0]
    old = by_origin.get(origin)
    if old is None:
        export.report.add("incomplete", "missing_log", f"the log before it is not here: {origin[:300]}", log.origin, 0)
        return
    try:
        note = read_note(previous, old.key, 2)
        if old.appliance != log.appliance or old.number >= log.number:
            raise BrokenError("its genesis names a log that cannot be the one before")
        if note.size > old.size:
            raise BrokenError(f"its genesis names a receipt over {note.size} entries of {origin}, which has {old.size}")
        export.check_receipt(note, log.origin)
        export.want(note, f"the genesis of {log.origin}")
    except BrokenError as error:
        export.report.add("broken", "link", str(error), log.origin, 0)


def _look_again(export: Export, log: Log) -> None:
    """Read a log once more where another one names a size or entry of it that nobody knew of before."""
    wanted = [size for size in sorted(export.wanted.get(log.origin, {})) if size not in log.roots]
    carried = {seq: said for seq, said in export.carried.get(log.origin, {}).items() if seq < log.size}
    if not wanted and not carried:
        return
    tree = Tree()
    for lines in _parts(export, log):
        leaves = [_leaf_of(line) for line in lines]
        for seq in [seq for seq in carried if tree.size <= seq < tree.size + len(leaves)]:
            _compare_carried(export, log, carried[seq], leaves[seq - tree.size].hex())
        first, done = tree.size, 0
        for size in [size for size in wanted if first < size <= first + len(leaves)]:
            tree.extend(leaves[done : size - first])
            done = size - first
            log.roots[size] = tree.root()
        tree.extend(leaves[done:])


def _leaf_of(line: bytes) -> bytes:
    return bytes.fromhex(line[9:73].decode("ascii")) if line.startswith(_STUB) else leaf_hash(line)


def _compare_carried(export: Export, log: Log, said: tuple[str, str, int], leaf: str) -> None:
    if said[0] != leaf:
        text = f"carries another entry than {log.origin} has at its place"
        export.report.add("incomplete", "fork", text, said[1], said[2])


def _check_roots(export: Export, log: Log) -> None:
    for size, notes in export.wanted.get(log.origin, {}).items():
        root = log.roots.get(size) if size else Tree().root()
        for why, note in notes:
            if note.root != root:
                text = f"the entries do not lead to the root of {why} over {size} entries: one of them was changed"
                export.report.add("broken", "root", text, log.origin, max(size - 1, 0))


def _check_proofs(export: Export, by_origin: dict[str, Log]) -> None:
    """Check the inclusion proofs of the sample, as anybody would who has nothing but a proof and a receipt."""
    data = export.content("proofs.ndjson", MAX_SMALL)
    before = ("", -1)
    for line in data.split(b"\n")[:-1]:
        value = read_canonical(line)
        if set(value) != {"hashes", "leaf", "log", "seq"} or not isinstance(value["hashes"], list):
            raise BrokenError("proofs.ndjson has another shape")
        log = by_origin.get(str(value["log"]))
        texts = [value["leaf"], *value["hashes"]] if type(value["log"]) is str else [None]
        if not all(type(text) is str and _HEX64.fullmatch(text) for text in texts) or type(value["seq"]) is not int:
            raise BrokenError("proofs.ndjson has another shape")
        if (value["log"], value["seq"]) <= before:
            raise BrokenError("proofs.ndjson is out of order")
        before = (value["log"], value["seq"])
        leaf, *hashes = [bytes.fromhex(str(text)) for text in texts]
        if log is None or root_from_inclusion(leaf, value["seq"], log.size, hashes) != log.roots.get(log.size, b""):
            text = "an inclusion proof does not lead to the root"
            export.report.add("broken", "proof", text, str(value["log"])[:300])
    if data and not data.endswith(b"\n"):
        raise BrokenError("proofs.ndjson is cut off")


def _check_epochs(export: Export, logs: list[Log]) -> None:
    for appliance in sorted({log.appliance for log in logs}):
        epochs = sorted((log for log in logs if log.appliance == appliance), key=lambda log: log.number)
        for before, after in zip(epochs, epochs[1:]):
            if before.number == after.number:
                export.report.add("incomplete", "fork", "two logs of one number: a copy of the appliance", after.origin)
            elif after.number != before.number + 1:
                text = f"no log between number {before.number} and this one is here"
                export.report.add("incomplete", "missing_log", text, after.origin)
            if after.genesis and not _names(after, before) and before.receipt:
                text = f"its genesis does not say what was receipted of {before.origin}"
                export.report.add("incomplete", "unlinked", text, after.origin, 0)
        if epochs[0].genesis and epochs[0].number > 1 and epochs[0].genesis.get("previous") is None:
            text = f"no log before number {epochs[0].number} is here"
            export.report.add("incomplete", "missing_log", text, epochs[0].origin)


def _names(log: Log, before: Log) -> bool:
    """Return whether a log's genesis names that one as the one before."""
    previous = log.genesis.get("previous") if log.genesis else None
    return type(previous) is str and previous.partition("\n")[0] == before.origin


def _is_signed(export: Export, log: Log) -> bool:
    """Return whether the log's key signed for all its entries, and they lead to that root."""
    notes = export.wanted.get(log.origin, {}).get(log.size, [])
    return not log.broken and any(note.root == log.roots.get(log.size) for _, note in notes)


def _check_vouched(export: Export, logs: list[Log]) -> None:
    """A log's key is vouched for by the trust file, or by the log of a vouched key that names it."""
    trust, report = export.trust, export.report
    good = {(log.appliance, log.key) for log in logs if trust.has(log.appliance, log.key)}
    for log in sorted(logs, key=lambda log: log.number):
        log.is_vouched = (log.appliance, log.key) in good
        if log.is_vouched and _is_signed(export, log) and log.named_key:
            good.add((log.appliance, log.named_key))
            good.discard((log.appliance, log.key))  # it gave way: a later log by it would be a thief's
        if not log.is_vouched:
            text = f"nobody vouches for its key: compare its fingerprint {_sha256(log.key).hexdigest()}"
            report.add("incomplete", "unvouched_key", text, log.origin)
    shown = {log.appliance for log in logs}
    for name, _ in sorted(trust.fingerprints):
        if "/" not in name and name not in shown:
            report.add("incomplete", "missing_appliance", f"you vouch for {name}, of which no log is here")


# --- The command line ---------------------------------------------------------------------------------------------


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="cc-verify",
        description="Verify an evidence export. Exit 0 INTACT, 1 INCOMPLETE, 2 BROKEN, 3 COULD NOT JUDGE.",
    )
    parser.add_argument("export", help="the export's ZIP")
    parser.add_argument("--trust", help="your file of keys, compared by yourself")
    parser.add_argument("--receipt", action="append", default=[], help="a receipt that you kept (may be given again)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--no-canonical", action="store_true", help="faster, but never INTACT")
    return parser.parse_args(argv)


def _run(asked: argparse.Namespace) -> Report:
    report = Report()
    try:
        if asked.trust is None:
            raise UnjudgedError("without --trust there is nothing to judge by: name the file of the keys you compared")
        trust = read_trust(Path(asked.trust).read_text(encoding="utf-8"))
        receipts = [Path(name).read_bytes().decode("utf-8") for name in asked.receipt]
        options = Options(not asked.no_canonical, asked.quiet, int(time.time() * 1000))
        with Path(asked.export).open("rb") as file:
            return verify(file, trust, receipts, options)
    except (OSError, UnicodeDecodeError) as error:
        report.add("unjudged", "file", f"a file cannot be read: {error}")
    except UnjudgedError as error:
        report.add("unjudged", "trust", str(error))
    return report


def main(argv: list[str] | None = None) -> int:
    """Verify what the command line names; print the report, return the exit code."""
    try:
        asked = _arguments(argv)
    except SystemExit as error:
        return INTACT if error.code == 0 else UNJUDGED
    try:
        report = _run(asked)
    except Exception as error:  # noqa: BLE001  a verifier that breaks has not judged
        report = Report()
        report.add("unjudged", "verifier", f"the verifier broke: {type(error).__name__}: {error}")
    print(json.dumps(report.value(), indent=1, sort_keys=True) if asked.json else report.text())
    return report.verdict


def run() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(main())


if __name__ == "__main__":
    run()
