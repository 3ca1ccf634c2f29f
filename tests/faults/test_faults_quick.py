"""The quick form of every row of the fault harness; `make faults` runs them at full length."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.__main__ import TABLE


@pytest.mark.parametrize("row", TABLE)
def test_the_row_holds_in_its_quick_form(row: str) -> None:
    command = [sys.executable, "-m", "tests.faults", "--quick", row]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"pass  {row}")
