"""The quick form of every row of the fault harness; `make faults` runs them at full length."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.__main__ import TABLE


@pytest.fixture(scope="module")
def told(request: pytest.FixtureRequest) -> str:
    """Return what the rows say of which a test was asked for, all in one run."""
    rows = [item.callspec.params.get("row") for item in request.session.items if hasattr(item, "callspec")]
    command = [sys.executable, "-m", "tests.faults", "--quick", *(row for row in TABLE if row in rows)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=600, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("row", TABLE)
def test_the_row_holds_in_its_quick_form(row: str, told: str) -> None:
    assert f"\npass  {row} " in f"\n{told}", told
