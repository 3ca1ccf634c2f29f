"""Ids, enrolment codes, and the lines a device key signs."""

import hashlib
import uuid

import pytest

from ccshared import ids, purposes

CODE = "cc.example/" + "ab" * 32 + "/" + "s" * 22


def test_an_id_is_a_uuid_of_version_7_that_tells_its_time() -> None:
    made = uuid.UUID(ids.new_id(1_767_225_600_123))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == 1_767_225_600_123


def test_ids_sort_by_time_and_never_repeat() -> None:
    made = [ids.new_id(1_767_225_600_000 + ms) for ms in range(200)]
    assert made == sorted(set(made))
    assert len({ids.new_id(5) for _ in range(200)}) == 200


def test_bundle_ids_are_32_hex_digits_and_never_repeat() -> None:
    made = {ids.new_bundle_id() for _ in range(200)}
    assert len(made) == 200
    assert all(len(one) == 32 and set(one) <= set("0123456789abcdef") for one in made)


def test_a_code_is_its_parts_also_when_pasted_with_white_space() -> None:
    code = purposes.parse_code(f" {CODE}\n")
    assert str(code) == CODE
    assert code.secret_hash == hashlib.sha256(b"s" * 22).hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        *("", "a/b/c", CODE[:-1], CODE.upper(), CODE + "/x", CODE + " x", "-" + CODE),
        *(CODE.replace("ab", "aB", 1), CODE.replace("/s", "/\n"), CODE.replace("s", "é", 1)),
        CODE.replace("cc.example", ""),
    ],
    ids=ascii,
)
def test_a_code_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(purposes.BadCodeError):
        purposes.parse_code(text)


def test_what_is_signed_begins_with_its_purpose_and_no_two_are_alike() -> None:
    key = bytes(range(32))
    signed = [
        purposes.enrolment("cc.example", "ab" * 32, key),
        purposes.token("cc.example", "a-1", "nonce"),
        purposes.new_key("cc.example", "a-1", key),
    ]
    assert [message.split(b"\n")[0] for message in signed] == [b"cc-enroll-v1", b"cc-token-v1", b"cc-key-v1"]
    assert signed[1] == b"cc-token-v1\ncc.example\na-1\nnonce\n"
    assert not any(b"/log/" in message.split(b"\n")[0] for message in signed)


def test_a_line_break_cannot_be_smuggled_into_what_is_signed() -> None:
    with pytest.raises(ValueError, match="line break"):
        purposes.token("cc.example", "a-1\nnonce", "x")


def test_a_fingerprint_is_the_hex_digest_of_the_raw_key() -> None:
    assert purposes.fingerprint(b"k" * 32) == hashlib.sha256(b"k" * 32).hexdigest()
