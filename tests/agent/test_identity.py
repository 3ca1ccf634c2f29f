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


def rotated(places: Places, times: int) -> list[str]:
    """Rotate the device key so often; return the public keys that there were, newest first."""
    key = identity.ensure_key(places)
    identity.save(places, known().model_copy(update={"public_key": key.public.hex()}))
    found = [key.public.hex()]
    for _ in range(times):
        found.insert(0, identity.ensure_next_key(places).public.hex())
        who = identity.load_enrolment(places)
        assert who is not None
        identity.promote_next_key(places, who)
    return found


def earlier(places: Places) -> list[str]:
    who = identity.load_enrolment(places)
    assert who is not None
    return [key.public.hex() for key in who.earlier]


def test_keys_that_gave_way_are_kept_newest_first_for_their_owner_alone_and_not_for_ever(places: Places) -> None:
    keys = rotated(places, 3)
    assert earlier(places) == keys[1:]
    assert mode(places.earlier_device_keys) == 0o600
    keys = rotated(places, identity.MAX_EARLIER)
    assert earlier(places) == keys[1 : identity.MAX_EARLIER + 1]


def test_a_key_that_gave_way_is_forgotten_once_it_is_not_in_use(places: Places) -> None:
    keys = rotated(places, 2)
    identity.forget_earlier(places, set(keys[:2]))
    assert earlier(places) == [keys[1]]
    identity.forget_earlier(places, set(keys[:1]))
    assert not places.earlier_device_keys.exists()


def test_a_rotation_cut_short_at_any_moment_loses_no_key(places: Places) -> None:
    old = rotated(places, 0)[0]
    new = identity.ensure_next_key(places)
    places.earlier_device_keys.write_bytes(places.device_key.read_bytes())
    assert earlier(places) == []
    known_ = identity.load(places)
    assert known_ is not None
    identity.save(places, known_.model_copy(update={"public_key": new.public.hex()}))
    who = identity.load_enrolment(places)
    assert who is not None
    assert (who.key, set(who.signers)) == (new, {old, new.public.hex()})
