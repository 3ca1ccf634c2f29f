"""Checkpoints and receipts: made, read, and refused in any other spelling."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccshared import ed25519, notes

AGENT, SERVER, OTHER = bytes(32), bytes([1]) * 32, bytes([2]) * 32
AGENT_KEY, SERVER_KEY = ed25519.public_key(AGENT), ed25519.public_key(SERVER)
ORIGIN, WITNESS = "cc.example/log/a-1/0-5eed0001", "cc.example/server/2026a"
CHECKPOINT = notes.Checkpoint(ORIGIN, 1234, bytes(range(32)))
NOTE = notes.sign_checkpoint(CHECKPOINT, AGENT)
RECEIPT = notes.cosign(NOTE, WITNESS, SERVER, 1_767_225_600)

quickly = settings(deadline=None, derandomize=True, max_examples=100)


def read(receipt: str) -> notes.Receipt:
    return notes.read_receipt(receipt, AGENT_KEY, {WITNESS: SERVER_KEY})


@quickly
@given(st.integers(0, 2**53 - 1), st.binary(min_size=32, max_size=32), st.integers(0, 2**53 - 1))
def test_a_receipt_says_what_was_signed(size: int, root: bytes, now: int) -> None:
    checkpoint = notes.Checkpoint(ORIGIN, size, root)
    note = notes.sign_checkpoint(checkpoint, AGENT)
    receipt = notes.cosign(note, WITNESS, SERVER, now)
    assert notes.read_checkpoint(note, AGENT_KEY) == checkpoint
    assert read(receipt) == notes.Receipt(checkpoint, now)
    assert notes.checkpoint_of(receipt) == note


def test_every_changed_byte_of_a_receipt_is_refused() -> None:
    data = RECEIPT.encode()
    for place in range(len(data)):
        for flip in (0x01, 0x20, 0x80):
            changed = bytearray(data)
            changed[place] ^= flip
            with pytest.raises(notes.BadNoteError):
                read(changed.decode("utf-8", "surrogateescape"))


def test_every_missing_or_doubled_character_of_a_receipt_is_refused() -> None:
    for place, char in enumerate(RECEIPT):
        with pytest.raises(notes.BadNoteError):
            read(RECEIPT[:place] + RECEIPT[place + 1 :])
        with pytest.raises(notes.BadNoteError):
            read(RECEIPT[:place] + char + RECEIPT[place:])


def respelt_base64() -> list[str]:
    """Each base64 text of the receipt with its unused bits set: loose decoders read the same bytes."""
    spelt = []
    for text in {word for line in RECEIPT.splitlines() for word in line.split(" ") if word.endswith("=")}:
        body = text.rstrip("=")
        for char in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/":
            loose = body[:-1] + char + "=" * (len(text) - len(body))
            if loose != text and base64.b64decode(loose) == base64.b64decode(text):
                spelt.append(RECEIPT.replace(text, loose))
    return spelt


@pytest.mark.parametrize("receipt", respelt_base64())
def test_base64_with_bits_behind_its_end_is_refused(receipt: str) -> None:
    with pytest.raises(notes.BadNoteError):
        read(receipt)


@pytest.mark.parametrize(
    "receipt",
    [
        RECEIPT + "\n",
        RECEIPT + "x",
        RECEIPT + RECEIPT.splitlines(keepends=True)[-1],
        "\n" + RECEIPT,
        "\ufeff" + RECEIPT,
        RECEIPT.replace("\n", "\r\n"),
        RECEIPT.replace("\n", "\u2028"),
        RECEIPT.replace("\n1234\n", "\n01234\n"),
        RECEIPT.replace("\n1234\n", "\n+1234\n"),
        RECEIPT.replace("\n1234\n", "\n1_234\n"),
        RECEIPT.replace("\n1234\n", "\n 1234\n"),
        RECEIPT.replace("\n1234\n", "\n1234.0\n"),
        RECEIPT.replace("\n1234\n", "\n\u0661\u0662\u0663\u0664\n"),
        RECEIPT.replace("\n1234\n", "\n\uff11\uff12\uff13\uff14\n"),
        RECEIPT.replace("\u2014", "--"),
        RECEIPT.replace("=\n", "\n"),
        RECEIPT.replace("=\n", "==\n"),
        NOTE,
        "",
        "\n\n",
    ],
    ids=ascii,
)
def test_another_spelling_is_refused(receipt: str) -> None:
    with pytest.raises(notes.BadNoteError):
        read(receipt)


def test_a_checkpoint_with_a_second_line_is_no_checkpoint() -> None:
    with pytest.raises(notes.BadNoteError):
        notes.read_checkpoint(RECEIPT, AGENT_KEY)


def test_a_receipt_by_an_unknown_witness_or_another_log_key_is_refused() -> None:
    with pytest.raises(notes.BadNoteError, match="unknown server key"):
        notes.read_receipt(RECEIPT, AGENT_KEY, {"cc.example/server/2027": SERVER_KEY})
    with pytest.raises(notes.BadNoteError, match="another key"):
        notes.read_receipt(RECEIPT, AGENT_KEY, {WITNESS: ed25519.public_key(OTHER)})
    with pytest.raises(notes.BadNoteError, match="another key"):
        notes.read_receipt(RECEIPT, ed25519.public_key(OTHER), {WITNESS: SERVER_KEY})


@pytest.mark.parametrize(
    "origin",
    [
        "cc.example/log/a/1-5EED0001",
        "cc.example/log/a/01-5eed0001",
        "cc.example/log/a/1-5eed000",
        "cc.example/log/a/1-5eed0001\n",
        "cc.example/log/a/\u0661-5eed0001",
        "cc.example/log/A/1-5eed0001",
        "cc example/log/a/1-5eed0001",
        "cc+example/log/a/1-5eed0001",
        "cc.example/log/a/b/1-5eed0001",
        "/log/a/1-5eed0001",
    ],
    ids=ascii,
)
def test_an_origin_of_another_form_is_refused(origin: str) -> None:
    with pytest.raises(notes.BadNoteError):
        notes.parse_origin(origin)


@quickly
@given(st.from_regex(r"[0-9a-z.-]{1,128}/log/[0-9a-z-]{1,64}/(0|[1-9][0-9]{0,9})-[0-9a-f]{8}", fullmatch=True))
def test_an_origin_is_its_parts(text: str) -> None:
    assert str(notes.parse_origin(text)) == text


def test_a_verifier_key_is_read_back() -> None:
    text = notes.vkey(WITNESS, notes.WITNESS_ALGORITHM, SERVER_KEY)
    assert notes.parse_vkey(text, notes.WITNESS_ALGORITHM) == (WITNESS, SERVER_KEY)


def test_every_changed_byte_of_a_verifier_key_is_refused() -> None:
    data = notes.vkey(WITNESS, notes.WITNESS_ALGORITHM, SERVER_KEY).encode()
    for place in range(len(data)):
        for flip in (0x01, 0x20, 0x80):
            changed = bytearray(data)
            changed[place] ^= flip
            with pytest.raises(notes.BadNoteError):
                notes.parse_vkey(changed.decode("utf-8", "surrogateescape"), notes.WITNESS_ALGORITHM)


def test_a_verifier_key_for_another_algorithm_is_refused() -> None:
    with pytest.raises(notes.BadNoteError):
        notes.parse_vkey(notes.vkey(WITNESS, notes.LOG_ALGORITHM, SERVER_KEY), notes.WITNESS_ALGORITHM)


def test_a_verifier_key_of_small_order_is_a_bad_note_like_any_other() -> None:
    with pytest.raises(notes.BadNoteError):
        notes.parse_vkey(notes.vkey(WITNESS, notes.WITNESS_ALGORITHM, bytes(32)), notes.WITNESS_ALGORITHM)
