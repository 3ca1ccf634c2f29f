"""Codes by time against the vectors of RFC 6238, appendix B (SHA-1; its eight digits end in our six)."""

import pytest

from ccserver import tickets, totp

SECRET = b"12345678901234567890"
VECTORS = [
    (59, "94287082"),
    (1111111109, "07081804"),
    (1111111111, "14050471"),
    (1234567890, "89005924"),
    (2000000000, "69279037"),
    (20000000000, "65353130"),
]


@pytest.mark.parametrize(("now", "eight"), VECTORS)
def test_the_vectors_of_the_rfc_hold(now: int, eight: str) -> None:
    assert totp.code(SECRET, totp.step_at(now)) == eight[-6:]


@pytest.mark.parametrize(("shift", "good"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_one_step_either_way_is_good_and_no_more(shift: int, good: bool) -> None:
    step = totp.step_at(1_234_567_890) + shift
    found = totp.matching_step(SECRET, totp.code(SECRET, step), 1_234_567_890, None)
    assert found == (step if good else None)


def test_a_step_that_was_used_and_any_before_it_are_refused() -> None:
    now, step = 1_234_567_890, totp.step_at(1_234_567_890)
    assert totp.matching_step(SECRET, totp.code(SECRET, step), now, step) is None
    assert totp.matching_step(SECRET, totp.code(SECRET, step - 1), now, step) is None
    assert totp.matching_step(SECRET, totp.code(SECRET, step + 1), now, step) == step + 1


@pytest.mark.parametrize("given", ["", "12345", "1234567", "١٢٣٤٥٦", "abcdef"])
def test_what_is_no_code_is_refused(given: str) -> None:
    assert totp.matching_step(SECRET, given, 59, None) is None


def test_the_uri_names_issuer_login_and_secret() -> None:
    uri = totp.uri(SECRET, "olga@acme.example")
    assert uri.startswith(
        "otpauth://totp/Central%20Command:olga%40acme.example?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&"
    )


def test_recovery_codes_are_ten_and_read_however_they_are_typed() -> None:
    codes = totp.new_recovery_codes()
    assert len(set(codes)) == 10
    assert totp.recovery_hash("u-1", codes[0]) == totp.recovery_hash("u-1", f" {codes[0].upper().replace('-', ' ')} ")
    assert totp.recovery_hash("u-1", codes[0]) != totp.recovery_hash("u-2", codes[0])


def test_a_ticket_is_good_for_five_minutes_and_only_as_it_was_made() -> None:
    key, ticket = b"k" * 32, tickets.Ticket("acme", "u-1", tickets.mark("hash"))
    text = tickets.issue(key, ticket, 1000)
    assert tickets.verify(key, text, 1299) == ticket
    assert tickets.verify(key, text, 1300) is None
    assert tickets.verify(key, text.replace("u-1", "u-2"), 1001) is None
    assert tickets.verify(b"x" * 32, text, 1001) is None
