"""Scrubbed once, and drafts that hold what the log promises."""

import contextlib
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccagent import evidence, finding, incidents, queue, scrubbing, states
from ccagent.evidence import Beginning
from ccagent.finding import Drift, Finding
from ccagent.incidents import Resolution, Sighting
from ccagent.places import Places
from ccagent.queue import Epoch
from ccagent.store import Store
from ccshared import entries, ids
from ccshared.vocabulary import Clock, Kind, Level, Outcome, Severity, Status

KEY = b"k" * 32
STAMP = (5_000, Clock.SYNC)
EPOCH = Epoch("1-0a0b0c0d", "cc.example/log/ap-1/1-0a0b0c0d", "ab" * 32, 1_000)


def failed(reason: str, facts: dict[str, object], host: str = "clinic-1") -> Finding:
    return finding.failed("backup", host, reason, facts, Drift(Severity.HIGH, "backup_stale"))


def keep(store: Store, found: Finding) -> None:
    """Do with a finding all that is ever done with one."""
    scrubbed = scrubbing.scrub(KEY, found)
    store.write_now(incidents.see, Sighting(scrubbed, 5_000, ids.new_id(), "site-1"))
    store.write_now(states.save, states.following(None, scrubbed, 5_000))
    store.write_now(queue.append, evidence.check_run(STAMP, scrubbed, 5_000))
    for incident in store.read(incidents.open_rows):
        store.write_now(queue.append, evidence.escalation(STAMP, incident))


@settings(max_examples=25, deadline=None)
@given(
    digits=st.integers(10_000_000, 99_999_999).map(str),
    label=st.sampled_from(["MRN: ", "MRN ", "mrn=", "patient id: ", "Medical record number "]),
    before=st.sampled_from(["", "could not save ", "job 7 failed; "]),
)
def test_a_secret_in_reason_or_facts_never_reaches_the_database(
    tmp_path_factory: pytest.TempPathFactory, digits: str, label: str, before: str
) -> None:
    places = Places(tmp_path_factory.mktemp("scrub"))
    said = f"{before}{label}{digits}"
    with contextlib.closing(Store.open(places)) as store:
        store.write_now(queue.open_epoch, EPOCH, genesis())
        keep(store, failed(said, {"output": [said], "mrn": digits}))
        kept = b"".join(path.read_bytes() for path in places.state_dir.iterdir())
    kept += places.database.read_bytes()
    assert b"backup_stale" in kept
    assert digits.encode() not in kept


def genesis() -> entries.Draft:
    return evidence.genesis(STAMP, Beginning("enrolment", EPOCH.public_key, None, 1_000, "0.1.0"))


def test_a_genesis_says_who_begins_and_since_when_it_ran() -> None:
    draft = genesis()
    assert draft.kind is Kind.GENESIS
    assert draft.body == {
        "reason": "enrolment",
        "public_key": EPOCH.public_key,
        "previous": None,
        "running_since": 1_000,
        "version": "0.1.0",
    }


def test_a_check_run_names_its_controls_and_its_facts() -> None:
    scrubbed = scrubbing.scrub(KEY, failed("too old", {"age_s": 90_000}))
    body = evidence.check_run(STAMP, scrubbed, 4_000).body
    assert body.pop("hipaa_controls")
    assert body == {
        "check": "backup",
        "host": "clinic-1",
        "status": "fail",
        "severity": "high",
        "reason": "too old",
        "since": 4_000,
        "facts": {"age_s": 90_000},
    }


def test_every_draft_can_be_sealed(tmp_path: Path) -> None:
    with contextlib.closing(Store.open(Places(tmp_path))) as store:
        store.write_now(queue.open_epoch, EPOCH, genesis())
        keep(store, failed("too old", {}))
        (incident,) = store.read(incidents.open_rows)
        done = evidence.remediation(STAMP, incident, Resolution(Level.L1, "RB-1", Outcome.SUCCESS))
        for draft in (evidence.heartbeat(STAMP, "0.1.0"), evidence.clock_step(STAMP, -7_000), done):
            store.write_now(queue.append, draft)
        assert store.read(queue.head).size == 6


def test_each_draft_has_an_id_and_a_salt_of_its_own() -> None:
    drafts = [evidence.heartbeat(STAMP, "0.1.0") for _ in range(50)]
    assert len({draft.bundle_id for draft in drafts} | {draft.salt for draft in drafts}) == 100


def test_a_host_name_that_tells_of_a_patient_becomes_a_token() -> None:
    scrubbed = scrubbing.scrub(KEY, failed("too old", {}, host="patient-john-doe.local"))
    assert "john" not in scrubbed.host_id
    assert scrubbed.host_id == scrubbing.scrub(KEY, failed("new reason", {}, host="patient-john-doe.local")).host_id


def test_a_finding_that_cannot_be_scrubbed_is_withheld_as_unknown() -> None:
    scrubbed = scrubbing.scrub(b"a short key", failed("of MRN 48151623", {"mrn": "48151623"}))
    assert (scrubbed.status, scrubbed.reason, scrubbed.facts) == (Status.UNKNOWN, scrubbing.WITHHELD, {})
    assert scrubbed.host_id == "withheld"


def test_facts_too_deep_for_an_entry_are_left_out_and_the_answer_stays() -> None:
    deep: dict[str, object] = {}
    for _ in range(15):
        deep = {"inner": deep}
    scrubbed = scrubbing.scrub(KEY, failed("too old", deep))
    assert (scrubbed.status, list(scrubbed.facts)) == (Status.FAIL, ["omitted"])
    entries.seal(evidence.check_run(STAMP, scrubbed, 1), EPOCH.origin, 1, "ab" * 32)


def test_the_scrub_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    key = scrubbing.load_key(tmp_path / "scrub.key")
    assert len(key) == 32
    assert scrubbing.load_key(tmp_path / "scrub.key") == key
    assert (tmp_path / "scrub.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["scrub.key"]


def test_a_scrub_key_of_another_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scrub.key").write_bytes(b"short")
    with pytest.raises(scrubbing.ScrubKeyError, match="not a key of 32 bytes"):
        scrubbing.load_key(tmp_path / "scrub.key")


def scrubbed_at(reason: str, status: Status = Status.FAIL) -> scrubbing.Scrubbed:
    return scrubbing.Scrubbed(dataclasses.replace(failed(reason, {}), status=status))


def test_a_state_is_due_when_new_changed_or_an_hour_old() -> None:
    new = states.following(None, scrubbed_at("a"), 1_000)
    kept = states.sealed(new)
    assert states.is_due(None, new)
    assert not states.is_due(kept, states.following(kept, scrubbed_at("a"), 1_000 + 3_599_999))
    assert states.is_due(kept, states.following(kept, scrubbed_at("a"), 1_000 + 3_600_000))
    assert states.is_due(kept, states.following(kept, scrubbed_at("b"), 2_000))
    assert states.is_due(kept, states.following(kept, scrubbed_at("a", Status.UNKNOWN), 2_000))


def test_a_wall_clock_set_back_does_not_silence_a_state() -> None:
    kept = states.sealed(states.following(None, scrubbed_at("a"), 10_000_000))
    assert states.is_due(kept, states.following(kept, scrubbed_at("a"), 9_999_999))
