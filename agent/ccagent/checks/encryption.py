"""Is every configured volume on an encrypted device, with what cipher and key?"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ccagent.checks.parts import Part, add_up, bad, good, unclear
from ccagent.config import EncryptionSettings
from ccagent.finding import Finding, one_line
from ccagent.host import Host, ProgramMissingError
from ccshared.vocabulary import Severity

_UNSET = 'no volume is configured: add volumes = ["/mount/point"] under [checks.encryption]'
_CIPHER = re.compile(r"^\s*cipher:\s+(\S+)", re.MULTILINE)
_KEY_BITS = re.compile(r"\bkeysize:\s+(\d+)")
_TYPE = re.compile(r"^\s*type:\s+(\S+)", re.MULTILINE)

# util-linux before 2.37 knows one mount point only.
LSBLK = tuple(("lsblk", "--json", "-o", f"NAME,PATH,TYPE,FSTYPE,{column}") for column in ("MOUNTPOINTS", "MOUNTPOINT"))

Node = dict[str, Any]


class NoDevicesError(Exception):
    """The machine's block devices could not be listed."""


@dataclass(frozen=True)
class Mapping:
    """An opened encrypted device as the kernel runs it; `key_bits` is the size of the volume key."""

    kind: str
    cipher: str
    key_bits: int


async def check(host: Host, settings: EncryptionSettings, now: datetime) -> Finding:
    """Fail critical when a configured volume is not encrypted; unknown when that, or its cipher, cannot be seen."""
    del now  # the answer does not depend on it
    if not settings.volumes:
        return add_up("encryption", host, [unclear(_UNSET)], {})
    try:
        devices = await _devices(host)
    except (NoDevicesError, ProgramMissingError) as error:
        return add_up("encryption", host, [unclear(f"block devices cannot be listed: {error}")], {})
    looked = [await _volume(host, settings, devices, str(path)) for path in settings.volumes]
    return add_up(
        "encryption",
        host,
        [part for part, _ in looked],
        {"volumes": [fact for _, fact in looked][:40]},
    )


def chains_to(devices: list[Node], wanted: str) -> list[list[Node]]:
    """Return every way from a disk down to the volume (mount point or device path): a list of devices, outermost first.

    A volume over several disks is reached by several ways, and is encrypted only if each way is.
    """
    return [chain for chain in _chains(devices, []) if _is(chain[-1], wanted)]


def mappings_of(chain: list[Node]) -> list[Node]:
    """Return the opened encrypted devices on one way."""
    return [node for node in chain if node.get("type") == "crypt"]


async def commands(host: Host, settings: EncryptionSettings) -> list[tuple[str, ...]]:
    """Return the argument vectors by which cryptsetup tells of the configured volumes."""
    devices = await _devices(host)
    return [argv for path in settings.volumes for argv in _commands(chains_to(devices, str(path)), str(path))]


def _commands(chains: list[list[Node]], wanted: str) -> list[tuple[str, ...]]:
    """A LUKS device that is not opened tells of itself in its header; of an opened one the kernel tells."""
    if chains and chains[0][-1].get("fstype") == "crypto_LUKS":
        return [("cryptsetup", "luksDump", "--", wanted)]
    found = [mappings_of(chain) for chain in chains]
    outermost = sorted({str(mappings[0].get("name")) for mappings in found if mappings})
    return [("cryptsetup", "status", "--", name) for name in outermost]


async def _devices(host: Host) -> list[Node]:
    output = await host.run_as_root("lsblk", LSBLK[0], timeout_s=20)
    if not output.complete:
        output = await host.run_as_root("lsblk", LSBLK[1], timeout_s=20)
    if not output.complete:
        raise NoDevicesError(f"lsblk: {output.complaint()}")
    try:
        devices = json.loads(output.stdout)["blockdevices"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NoDevicesError("lsblk gave no JSON: install a newer util-linux") from error
    return [node for node in devices if isinstance(node, dict)] if isinstance(devices, list) else []


def _chains(nodes: list[Node], above: list[Node]) -> Iterator[list[Node]]:
    for node in nodes:
        chain = [*above, node]
        yield chain
        yield from _chains(node.get("children") or [], chain)


def _is(node: Node, wanted: str) -> bool:
    mounted = node.get("mountpoints") or [node.get("mountpoint")]
    return wanted == node.get("path") or wanted in mounted


async def _volume(
    host: Host, settings: EncryptionSettings, devices: list[Node], wanted: str
) -> tuple[Part, dict[str, Any]]:
    fact: dict[str, Any] = {"volume": one_line(wanted, 200), "encrypted": None}
    chains = chains_to(devices, wanted)
    if not chains:
        return unclear(f"{wanted} is no mount point or device here: mount it, or correct volumes"), fact
    found = [mappings_of(chain) for chain in chains]
    fact["encrypted"] = chains[0][-1].get("fstype") == "crypto_LUKS" or all(found)
    if not fact["encrypted"]:
        return bad(f"{wanted} is not encrypted", Severity.CRITICAL, "volume_not_encrypted"), fact
    return _judge(host, settings, fact, [await _mapping(host, argv) for argv in _commands(chains, wanted)])


def _judge(
    host: Host, settings: EncryptionSettings, fact: dict[str, Any], mappings: list[Mapping | None]
) -> tuple[Part, dict[str, Any]]:
    wanted = fact["volume"]
    seen = [mapping for mapping in mappings if mapping is not None]
    if len(seen) < len(mappings):
        why = "install cryptsetup" if host.privileged else "that needs root and cryptsetup: run the helper"
        return unclear(f"{wanted} is encrypted, but its cipher and key size cannot be read: {why}"), fact
    weakest = min(seen, key=lambda mapping: (not _is_null(mapping), mapping.key_bits))
    fact = {**fact, "kind": weakest.kind, "cipher": weakest.cipher, "key_bits": weakest.key_bits}
    if _is_null(weakest):
        null = {**fact, "encrypted": False}
        return bad(
            f"{wanted} has the null cipher: nothing is encrypted",
            Severity.CRITICAL,
            "volume_not_encrypted",
        ), null
    if weakest.key_bits < settings.min_key_bits:
        reason = f"{wanted} has a key of fewer than {settings.min_key_bits} bits"
        return bad(reason, Severity.HIGH, "volume_key_short"), fact
    return good(f"{wanted} is encrypted ({weakest.cipher}, {weakest.key_bits} bits)"), fact


async def _mapping(host: Host, argv: tuple[str, ...]) -> Mapping | None:
    try:
        output = await host.run_as_root("cryptsetup", argv, timeout_s=20)
    except ProgramMissingError:
        return None
    read = mapping_from_header if argv[1] == "luksDump" else mapping_from
    return read(output.stdout) if output.complete else None


def mapping_from_header(dump: str) -> Mapping | None:
    """Return what `cryptsetup luksDump` said of version 2 or 1, None when cipher or key size is missing from it."""
    version = re.search(r"^Version:\s+(\d)", dump, re.MULTILINE)
    cipher = re.search(r"^\s*(?:cipher|Cipher name):\s+(\S+)", dump, re.MULTILINE)
    bits = re.search(r"^\s*(?:MK bits|Key):\s+(\d+)", dump, re.MULTILINE)
    if version is None or cipher is None or bits is None:
        return None
    mode = re.search(r"^Cipher mode:\s+(\S+)", dump, re.MULTILINE)
    name = f"{cipher[1]}-{mode[1]}" if mode else cipher[1]
    return Mapping(f"LUKS{version[1]}", name[:64], int(bits[1][:6]))


def mapping_from(status: str) -> Mapping | None:
    """Return what `cryptsetup status` said, None when cipher or key size is missing from it."""
    kind, cipher, bits = _TYPE.search(status), _CIPHER.search(status), _KEY_BITS.search(status)
    if cipher is None or bits is None:
        return None
    return Mapping(kind[1][:32] if kind else "unknown", cipher[1][:64], int(bits[1][:6]))


def _is_null(mapping: Mapping) -> bool:
    return "cipher_null" in mapping.cipher
