"""What some tests need of the machine, a browser or root: without it they are left out, and that is said."""

import os
import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, async_playwright

from tests.e2e import apart

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# No sandbox as root; and nothing of Chromium's own that would speak to the network.
_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
_LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not CHROMIUM:
        _leave_out("browser", "there is no Chromium here (apt-get install chromium)", config, items)
    if os.environ.get("ROOT") != "1":
        _leave_out(
            "root", "they take namespaces of their own and are asked for by `make drift`", config, items, fails=False
        )
    elif missing := apart.lacking():
        raise pytest.UsageError(f"The root tests cannot run: here is no {', no '.join(missing)}.")


def _leave_out(marker: str, why: str, config: pytest.Config, items: list[pytest.Item], *, fails: bool = True) -> None:
    marked = [item for item in items if item.get_closest_marker(marker)]
    if not marked:
        return
    if fails and os.environ.get("CI") == "1":
        raise pytest.UsageError(f"The {marker} tests cannot run: {why}.")
    config.stash.setdefault(_LEFT_OUT, []).append(f"{len(marked)} {marker} tests left out: {why}")
    config.hook.pytest_deselected(items=marked)
    items[:] = [item for item in items if item not in marked]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(_LEFT_OUT, []):
        terminalreporter.write_line(line)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A Chromium of the test's own."""
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield launched
        await launched.close()
