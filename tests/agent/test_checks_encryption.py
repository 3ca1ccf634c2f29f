"""The encryption check: devices as lsblk lists them, mappings as cryptsetup tells of them."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ccagent.checks import encryption
from ccagent.config import EncryptionSettings
from ccagent.finding import Finding
from ccshared.vocabulary import Severity, Status
from tests.agent.machine import Machine

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
DATA = EncryptionSettings(volumes=(Path("/srv/data"),))
STATUS = """/dev/mapper/data is active and is in use.
  type:    LUKS2
  cipher:  {cipher}
  keysize: {bits} [bits]
  key location: keyring
  device:  /dev/sda2
  sector size:  512 [bytes]
  mode:    read/write
"""
HEADER = """LUKS header information
Version:       \t2
Epoch:         \t3
Data segments:
  0: crypt
\toffset: 16777216 [bytes]
\tcipher: aes-xts-plain64
\tsector: 512 [bytes]
Keyslots:
  0: luks2
\tKey:        512 bits
\tCipher:     aes-xts-plain64
\tCipher key: 512 bits
"""
OLD_HEADER = """LUKS header information for /dev/sda2

Version:       \t1
Cipher name:   \taes
Cipher mode:   \txts-plain64
Hash spec:     \tsha256
MK bits:       \t512
"""


def node(
    name: str, kind: str, *children: dict[str, Any], mounted: str | None = None, fstype: str = ""
) -> dict[str, Any]:
    path = f"/dev/mapper/{name}" if kind in ("crypt", "lvm") else f"/dev/{name}"
    about = {"name": name, "path": path, "type": kind, "fstype": fstype or None, "mountpoints": [mounted]}
    return {**about, "children": list(children)} if children else about


def luks(
    *children: dict[str, Any], name: str = "data", disk: str = "sda", mounted: str | None = None
) -> dict[str, Any]:
    opened = node(name, "crypt", *children, mounted=mounted)
    return node(disk, "disk", node(f"{disk}2", "part", opened, fstype="crypto_LUKS"))


def machine_with(tmp_path: Path, *devices: dict[str, Any], cipher: str = "aes-xts-plain64", bits: int = 512) -> Machine:
    machine = Machine(tmp_path)
    machine.program("lsblk", json.dumps({"blockdevices": devices}, indent=3))
    machine.program("cryptsetup", STATUS.format(cipher=cipher, bits=bits))
    return machine


async def look(machine: Machine, settings: EncryptionSettings = DATA, *, privileged: bool = True) -> Finding:
    return await encryption.check(machine.host(privileged=privileged), settings, NOW)


async def test_a_volume_on_luks_passes_with_its_cipher_and_key_size(tmp_path: Path) -> None:
    found = await look(machine_with(tmp_path, luks(mounted="/srv/data")))
    assert found.status is Status.PASS
    (volume,) = found.facts["volumes"]
    assert (volume["kind"], volume["cipher"], volume["key_bits"]) == ("LUKS2", "aes-xts-plain64", 512)


async def test_a_logical_volume_inside_luks_passes(tmp_path: Path) -> None:
    found = await look(machine_with(tmp_path, luks(node("vg-data", "lvm", mounted="/srv/data"))))
    assert found.status is Status.PASS


async def test_a_plain_volume_is_critical(tmp_path: Path) -> None:
    plain = node("sdb", "disk", node("sdb1", "part", mounted="/srv/data", fstype="ext4"))
    found = await look(machine_with(tmp_path, luks(mounted="/"), plain))
    assert (found.severity, found.drift_type) == (Severity.CRITICAL, "volume_not_encrypted")


async def test_a_volume_over_an_encrypted_and_a_plain_disk_is_not_encrypted(tmp_path: Path) -> None:
    shared = node("vg-data", "lvm", mounted="/srv/data")
    found = await look(machine_with(tmp_path, luks(shared), node("sdb", "disk", shared)))
    assert found.drift_type == "volume_not_encrypted"


async def test_the_null_cipher_is_no_encryption(tmp_path: Path) -> None:
    found = await look(machine_with(tmp_path, luks(mounted="/srv/data"), cipher="cipher_null-ecb", bits=0))
    assert (found.severity, found.drift_type) == (Severity.CRITICAL, "volume_not_encrypted")
    assert found.facts["volumes"][0]["encrypted"] is False


@pytest.mark.parametrize(("bits", "drift"), [(256, None), (255, "volume_key_short")])
async def test_a_key_must_have_256_bits(tmp_path: Path, bits: int, drift: str | None) -> None:
    assert (await look(machine_with(tmp_path, luks(mounted="/srv/data"), bits=bits))).drift_type == drift


async def test_without_root_the_cipher_is_unknown_though_the_volume_is_encrypted(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, luks(mounted="/srv/data"))
    machine.program(
        "cryptsetup", code=1, complaint="Cannot initialize device-mapper. Is dm_mod kernel module loaded?\n"
    )
    found = await look(machine, privileged=False)
    assert found.status is Status.UNKNOWN
    assert "needs root" in found.reason
    assert found.facts["volumes"][0]["encrypted"] is True


async def test_a_volume_that_is_not_there_is_unknown(tmp_path: Path) -> None:
    found = await look(machine_with(tmp_path, luks(mounted="/srv")))
    assert found.status is Status.UNKNOWN
    assert "/srv/data is no mount point" in found.reason


async def test_one_plain_volume_outranks_one_that_is_not_there(tmp_path: Path) -> None:
    settings = EncryptionSettings(volumes=(Path("/gone"), Path("/dev/sdb")))
    assert (await look(machine_with(tmp_path, node("sdb", "disk")), settings)).status is Status.FAIL


@pytest.mark.parametrize("header", [HEADER, OLD_HEADER])
async def test_a_luks_device_that_is_not_opened_is_judged_by_its_header(tmp_path: Path, header: str) -> None:
    machine = machine_with(tmp_path, node("sda", "disk", node("sda2", "part", fstype="crypto_LUKS")))
    machine.program("cryptsetup", header)
    found = await look(machine, EncryptionSettings(volumes=(Path("/dev/sda2"),)))
    assert (found.status, found.facts["volumes"][0]["cipher"]) == (Status.PASS, "aes-xts-plain64")


async def test_an_older_lsblk_is_asked_for_one_mount_point(tmp_path: Path) -> None:
    machine = machine_with(tmp_path)
    old = {"name": "sdb", "path": "/dev/sdb", "type": "disk", "fstype": "ext4", "mountpoint": "/srv/data"}
    answer = json.dumps({"blockdevices": [old]})
    machine.script(
        "lsblk", f"case $3 in *MOUNTPOINTS) echo 'lsblk: unknown column' >&2; exit 1;; esac; echo '{answer}'"
    )
    assert (await look(machine)).drift_type == "volume_not_encrypted"


@pytest.mark.parametrize("answer", ["", "{}", '{"blockdevices": null}', '{"blockdevices": [null]}'])
async def test_an_answer_of_another_form_is_unknown(tmp_path: Path, answer: str) -> None:
    machine = Machine(tmp_path)
    machine.program("lsblk", answer)
    assert (await look(machine)).status is Status.UNKNOWN


async def test_without_volumes_the_line_to_add_is_told(tmp_path: Path) -> None:
    found = await look(Machine(tmp_path), EncryptionSettings())
    assert found.status is Status.UNKNOWN
    assert "volumes =" in found.reason
