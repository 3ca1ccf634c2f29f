"""The verifier: what it is shown and what it must say; anything spoilt is never INTACT, and never a traceback."""

import io
import json
import os
import pwd
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ccserver import verify
from tests import exports
from tests.exports import Site
from tests.verify import mutations

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "shared" / "evidence_log_v1.json").read_text(encoding="utf-8")
)
VERIFY = str(Path(verify.__file__))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site() -> Site:
    """A plain site with two epochs of two appliances, a rotation and a carried entry among them."""
    return mutations.rich_site()


@pytest.mark.parametrize("seed", range(30))
def test_an_honest_export_is_not_refused(seed: int) -> None:
    plain, odd = exports.honest(seed, plain=True), exports.honest(seed)
    assert exports.verified(plain, exports.packed(plain)).findings == []
    found = exports.verified(odd, exports.packed(odd))
    assert found.verdict in (verify.INTACT, verify.INCOMPLETE), found.text()
    assert odd.since is not None or odd.until is not None or odd.wants <= set(found.counts)


def test_five_hundred_mutations_are_refused(site: Site) -> None:
    accepted = [name for name in (mutations.accepted(site, seed) for seed in range(500)) if name]
    assert accepted == []


def test_a_flipped_bit_of_an_entry_is_named_by_its_place(site: Site) -> None:
    assert [name for name in (mutations.unnamed(site, seed) for seed in range(50)) if name] == []


@pytest.mark.parametrize("place", [0, 1, 5, -1])
def test_the_first_bad_sequence_is_named(site: Site, place: int) -> None:
    epoch = max(site.epochs, key=lambda one: len(one.payloads))
    seq = place % len(epoch.payloads)
    changed = mutations.with_payload(
        site, epoch, seq, lambda text: text.replace(b'"clock":"sync"', b'"clock":"unsync"')
    )
    (first, *_) = exports.verified(site, changed).findings
    assert (first["sort"], first["log"], first["seq"]) == ("broken", epoch.origin, seq)


def test_a_receipt_that_the_auditor_kept_cannot_be_undone(site: Site) -> None:
    kept = site.receipts()
    epoch = next(one for one in site.epochs if len(one.payloads) > 2)
    shorter = exports.Epoch(epoch.appliance, epoch.name, epoch.seed, epoch.payloads[:-1])
    other = Site(site.rng, site.keys, [shorter], at=site.at)
    other.cosign(shorter)
    assert exports.verified(other, exports.packed(other), []).verdict == verify.INTACT
    assert exports.verified(other, exports.packed(other), kept[:1]).verdict != verify.INTACT
    assert exports.verified(other, exports.packed(other), [epoch.receipt or ""]).verdict == verify.BROKEN


def test_a_receipt_of_any_size_is_held_against_the_log(site: Site) -> None:
    epoch = max(site.epochs, key=lambda one: len(one.payloads))
    data = exports.packed(site)
    for size in range(1, len(epoch.payloads) + 1):
        older = exports.Epoch(epoch.appliance, epoch.name, epoch.seed, epoch.payloads[:size])
        site.cosign(older)
        assert exports.verified(site, data, [older.receipt or ""]).findings == []
        older.payloads[-1] = older.payloads[-1].replace(b'"clock":"sync"', b'"clock":"unsync"')
        site.cosign(older)
        (found,) = exports.verified(site, data, [older.receipt or ""]).findings
        assert (found["code"], found["log"], found["seq"]) == ("root", epoch.origin, size - 1)


def test_without_keys_nothing_is_judged(site: Site, tmp_path: Path) -> None:
    path, empty = tmp_path / "export.zip", tmp_path / "keys.txt"
    path.write_bytes(exports.packed(site))
    empty.write_text("# none yet\n", encoding="utf-8")
    assert verify.main([str(path)]) == verify.UNJUDGED
    assert verify.main([str(path), "--trust", str(empty)]) == verify.UNJUDGED
    assert verify.main([str(tmp_path / "none"), "--trust", str(empty), "--json"]) == verify.UNJUDGED


def test_keys_of_another_site_are_a_clear_refusal(site: Site) -> None:
    other = exports.honest(77, plain=True)
    found = verify.verify(io.BytesIO(exports.packed(site)), other.trust(), [], verify.Options(now_ms=exports.NOW_MS))
    assert found.verdict == verify.INCOMPLETE
    assert {"unvouched_key", "unvouched_server_key"} <= set(found.counts)


def test_without_the_canonical_check_nothing_is_intact(site: Site) -> None:
    options = verify.Options(canonical=False, now_ms=exports.NOW_MS)
    found = verify.verify(io.BytesIO(exports.packed(site)), site.trust(), [], options)
    assert (found.verdict, set(found.counts)) == (verify.INCOMPLETE, {"not_canonical"})


def _renamed(data: bytes, name: str) -> bytes:
    return data.replace(b"audit.json", name.encode())


def _bomb(site: Site) -> bytes:
    members = exports.contents(site)
    name = next(name for name in members if name.endswith(".ndjson") and name.startswith("logs/"))
    return exports.put_together(site, members | {name: b"\x00" * 200_000_000})


SPOILT: dict[str, Callable[[Site, bytes], bytes]] = {
    "empty": lambda site, data: b"",
    "text": lambda site, data: b"PK" * 500,
    "cut at its end": lambda site, data: data[:-1],
    "cut in the middle": lambda site, data: data[: len(data) // 2],
    "something behind": lambda site, data: data + b"\x00",
    "something before": lambda site, data: b"\x00" + data,
    "a path that leads out": lambda site, data: _renamed(data, "../../x.sh"),
    "an absolute path": lambda site, data: _renamed(data, "/audit.jso"),
    "a name of two members": lambda site, data: _renamed(data, "verify.py0").replace(b"verify.py0", b"README.txt"),
    "a bomb": lambda site, data: _bomb(site),
    "an end that counts too many": lambda site, data: data[:-12] + struct.pack("<H", 65535) + data[-10:],
    "a member more": lambda site, data: exports.put_together(site, exports.contents(site) | {"z.sh": b"x"}),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_file_is_refused_and_never_a_traceback(site: Site, name: str, tmp_path: Path) -> None:
    path, keys = tmp_path / "export.zip", tmp_path / "keys.txt"
    path.write_bytes(SPOILT[name](site, exports.packed(site)))
    pairs = sorted(site.trust().fingerprints)
    keys.write_text("".join(f"{name} {fingerprint}\n" for name, fingerprint in pairs), encoding="utf-8")
    command = [sys.executable, "-I", VERIFY, str(path), "--trust", str(keys)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (verify.BROKEN, "")
    assert "Traceback" not in done.stdout
    assert "the verifier broke" not in done.stdout


def pythons() -> list[str]:
    """Python 3.9 where it is, and the one that runs this; with CI=1 a missing 3.9 is red."""
    roots = [Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".pyenv", Path(os.environ.get("PYENV_ROOT", "/opt/pyenv"))]
    places = [path for root in roots for path in sorted(root.glob("versions/3.9.*/bin/python3.9"))]
    unpacked = ROOT / ".tools/python3.9/usr/bin/python3.9"
    named = [*places, unpacked, Path("/usr/bin/python3.9"), Path("/usr/local/bin/python3.9")]
    there = [str(path) for path in named if path.exists()]
    return [*there[:1], sys.executable]


@pytest.mark.parametrize("python", pythons())
def test_it_runs_alone_and_agrees_on_every_vector(python: str, tmp_path: Path) -> None:
    (tmp_path / "verify.py").write_bytes(Path(VERIFY).read_bytes())
    script = Path(__file__).with_name("vectors_alone.py").read_text(encoding="utf-8")
    text = json.dumps(VECTORS)
    done = subprocess.run(
        [python, "-I", "-c", script, str(tmp_path)], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[-1] == "agreed"


def test_python_3_9_is_there_where_it_must_be() -> None:
    assert len(pythons()) == 2 or os.environ.get("CI") != "1", "install Python 3.9: the verifier must run on it"


def test_members_are_the_bytes_that_any_zip_program_reads(site: Site) -> None:
    data = exports.packed(site)
    members = exports.taken_apart(data)
    manifest = json.loads(members["manifest.json"])
    assert [each["name"] for each in manifest["members"]] == [*members][:-2]
    assert all(zlib.crc32(members[each["name"]]) for each in manifest["members"] if each["size"])


def test_a_sample_of_any_size_proves_what_it_shows() -> None:
    rng = random.Random(5)
    for size in (1, 2, 3, 5, 8, 21):
        site = Site(rng, exports.server_keys(rng, 0))
        epoch = site.open("box", 1, bytes(range(32)), None)
        for _ in range(size - 1):
            site.seal(epoch, exports.Kind.HEARTBEAT, {})
        site.cosign(epoch)
        data = exports.packed(site, sample=50)
        assert exports.taken_apart(data)["proofs.ndjson"].count(b"\n") == size
        assert exports.verified(site, data).findings == []


def _intact_of(site: Site) -> verify.Report:
    return exports.verified(site, exports.packed(site), [])


def test_a_key_that_nobody_signed_for_is_not_vouched_for() -> None:
    site = Site(random.Random(1), exports.server_keys(random.Random(1), 0))
    first = site.open("box", 1, b"\x01" * 32, None)
    seed = exports.rotate(site, first)
    second = site.open("box", 2, seed, None)
    site.cosign(second)
    found = _intact_of(site)
    assert [log["vouched"] for log in found.logs] == [True, False], found.text()


def test_a_key_that_gave_way_to_another_vouches_for_no_later_log() -> None:
    site = Site(random.Random(2), exports.server_keys(random.Random(2), 0))
    first = site.open("box", 1, b"\x01" * 32, None)
    exports.rotate(site, first)
    site.cosign(first)
    thief = site.open("box", 2, b"\x01" * 32, first.receipt)
    site.cosign(thief)
    found = _intact_of(site)
    assert (found.verdict, set(found.counts)) == (verify.INCOMPLETE, {"unvouched_key"}), found.text()


def test_an_appliance_whose_first_logs_are_left_out_is_not_intact() -> None:
    site = Site(random.Random(3), exports.server_keys(random.Random(3), 0))
    site.cosign(site.open("box", 2, b"\x01" * 32, None))
    found = _intact_of(site)
    assert (found.verdict, set(found.counts)) == (verify.INCOMPLETE, {"missing_log"}), found.text()


def test_a_log_that_names_another_than_the_one_before_leaves_that_ones_end_unproved() -> None:
    site = Site(random.Random(4), exports.server_keys(random.Random(4), 0))
    first = site.open("box", 1, b"\x01" * 32, None)
    site.cosign(first)
    site.cosign(site.open("box", 2, b"\x01" * 32, first.receipt))
    site.cosign(site.open("box", 3, b"\x01" * 32, first.receipt))
    found = _intact_of(site)
    assert (found.verdict, set(found.counts)) == (verify.INCOMPLETE, {"unlinked"}), found.text()


def test_what_an_appliance_wrote_moves_no_cursor_and_breaks_no_pipe(tmp_path: Path) -> None:
    site = Site(random.Random(5), exports.server_keys(random.Random(5), 0))
    epoch = site.open("box", 1, b"\x01" * 32, None)
    site.seal(epoch, exports.Kind.GAP, {"count": 1, "first": 1, "last": 1, "reason": "\x1b[2J\nINTACT\n\u202eé"})
    site.cosign(epoch)
    path, keys = tmp_path / "export.zip", tmp_path / "keys.txt"
    path.write_bytes(exports.packed(site))
    keys.write_text("".join(f"{name} {key}\n" for name, key in site.trust().fingerprints), encoding="utf-8")
    command = [sys.executable, VERIFY, str(path), "--trust", str(keys)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONIOENCODING": "ascii"}, check=False)
    assert (done.returncode, done.stderr) == (verify.INCOMPLETE, "")
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines().count("INTACT") == 0
