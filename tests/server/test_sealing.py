"""Sealed secrets open at their own place, with their own key, and nowhere else."""

import secrets

import pytest

from ccserver.errors import SealBrokenError
from ccserver.sealing import Place, seal, unseal

KEY = secrets.token_bytes(32)
PLACE = Place("users", "totp_sealed", "u-1")


def test_what_was_sealed_opens_at_its_place() -> None:
    assert unseal(KEY, PLACE, seal(KEY, PLACE, b"seed")) == b"seed"


def test_the_same_value_never_looks_the_same_and_never_shows() -> None:
    first, second = seal(KEY, PLACE, b"a secret seed"), seal(KEY, PLACE, b"a secret seed")
    assert first != second
    assert b"a secret seed" not in first


@pytest.mark.parametrize(
    "other",
    [
        Place("users", "totp_sealed", "u-2"),
        Place("users", "other", "u-1"),
        Place("notification_channels", "totp_sealed", "u-1"),
    ],
)
def test_a_value_moved_to_another_place_does_not_open(other: Place) -> None:
    with pytest.raises(SealBrokenError):
        unseal(KEY, other, seal(KEY, PLACE, b"seed"))


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(SealBrokenError):
        unseal(secrets.token_bytes(32), PLACE, seal(KEY, PLACE, b"seed"))


def test_any_changed_byte_or_cut_is_found() -> None:
    sealed = seal(KEY, PLACE, b"seed")
    broken = [sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :] for at in range(len(sealed))]
    for each in [*broken, b"", sealed[:5], sealed[:-1]]:
        with pytest.raises(SealBrokenError):
            unseal(KEY, PLACE, each)
