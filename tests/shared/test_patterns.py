"""The error pattern and the pattern signature, held to the vectors that freeze them."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccshared.patterns import error_pattern, signature

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "patterns_v1.json").read_text(encoding="utf-8"))


def message(case: dict[str, Any]) -> str:
    if case["repeat"] is None:
        return str(case["message"])
    head, unit, count, tail = case["repeat"]
    return str(head + unit * count + tail)


def test_the_file_has_the_parts_known_here_and_no_empty_one() -> None:
    assert set(VECTORS) == {"spec", "error_patterns", "signatures"}
    assert len(VECTORS["error_patterns"]) >= 30
    assert VECTORS["signatures"]


@pytest.mark.parametrize("case", VECTORS["error_patterns"], ids=lambda case: case["why"])
def test_an_error_pattern_is_as_frozen(case: dict[str, Any]) -> None:
    assert error_pattern(message(case)) == case["pattern"]


@pytest.mark.parametrize("case", VECTORS["signatures"], ids=lambda case: case["why"])
def test_a_signature_is_as_frozen(case: dict[str, Any]) -> None:
    members = dict(case["members"])
    assert signature(members.pop("type"), **members) == case["signature"]


def test_a_signature_is_the_digest_of_canonical_json_written_by_hand() -> None:
    # printf '%s' '{"error_pattern":"<n> days","type":"backup"}' | sha256sum
    assert signature("backup", error_message="41 days") == "cf9aac5757c102a2"


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.text())
def test_any_message_has_a_short_pattern_without_digits(text: str) -> None:
    pattern = error_pattern(text)
    assert len(pattern) <= 200
    assert not set("0123456789") & set(pattern)


@pytest.mark.parametrize("unit", ["a", "0", "0a", ":", "0:", "0.", "[ssn:", "Jan 1 ", "2026-01-", "pid ", "0x", "é"])
def test_a_hostile_message_is_read_at_once(unit: str) -> None:
    began = time.process_time()
    error_pattern(unit * 300_000)
    assert time.process_time() - began < 0.1
