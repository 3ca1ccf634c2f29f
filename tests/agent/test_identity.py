import stat
from pathlib import Path

import pytest

from ccagent import identity
from ccagent.identity import Identity, IdentityUnusableError
from ccagent.places import Places
from ccshared import ed25519
from ccshared.messages import ServerKey


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "state")


def known() -> Identity:
    key = ed25519.public_key(ed25519.new_seed()).hex()
    return Identity(
        server="cc.example",
        server_url="https://cc.example",
        site_id="s",
        appliance_id="a",
        public_key=key,
        keys=[ServerKey(use="witness", name="cc.example/server/2026", public_key=key)],
        enrolled_at_ms=1,
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_before_enrolment_there_is_neither_identity_nor_key(places: Places) -> None:
    assert identity.load(places) is None
    assert identity.load_key(places) is None


def test_a_saved_identity_is_read_back_whole(places: Places) -> None:
    identity.ensure_key(places)
    identity.save(places, known_ := known())
    assert identity.load(places) == known_


def test_a_key_once_made_is_never_made_anew(places: Places) -> None:
    assert identity.ensure_key(places) == identity.ensure_key(places) == identity.load_key(places)


def test_identity_and_key_are_for_their_owner_alone_and_leave_no_other_file(places: Places) -> None:
    identity.ensure_key(places)
    identity.save(places, known())
    assert mode(places.identity) == mode(places.device_key) == 0o600
    assert {path.name for path in places.state_dir.iterdir()} == {"identity.json", "device.key"}


def test_a_seed_never_shows_in_a_log(places: Places) -> None:
    key = identity.ensure_key(places)
    assert "seed" not in repr(key)
    assert key.seed.hex() not in repr(key)


def test_a_device_key_of_another_length_is_refused_with_the_next_step(places: Places) -> None:
    identity.ensure_key(places)
    places.device_key.write_bytes(b"short")
    with pytest.raises(IdentityUnusableError, match="put back a copy"):
        identity.ensure_key(places)


def test_a_spoilt_identity_is_refused_with_the_next_step(places: Places) -> None:
    identity.ensure_key(places)
    places.identity.write_text("{}")
    with pytest.raises(IdentityUnusableError, match="enrol again"):
        identity.load(places)
