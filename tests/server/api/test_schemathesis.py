"""The OpenAPI document run against the running server by schemathesis, all checks on, as each kind of caller."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from ccserver.config import Config
from tests.devices import Device, Running
from tests.operators import unlimited, with_key

CONFIG = Path(__file__).parents[2] / "schemathesis.toml"
EXAMPLES = os.environ.get("EXAMPLES", "1")
SECONDS = 300
CALLERS = {"nobody": "", "owner": "/api/", "platform_admin": "/api/", "device": "/agent/"}


@pytest.fixture
def settings(settings: Config) -> Config:
    return unlimited(settings)


SCHEMES = {"device": "device", "owner": "key", "platform_admin": "key"}


async def config(device: Device, caller: str, place: Path) -> Path:
    """Write the configuration for a caller: the common one, and the credential as the document's scheme names it."""
    text = CONFIG.read_text()
    if caller in SCHEMES:
        token = device.token
        if caller != "device":
            holder = await with_key(device.server, caller, "platform" if caller == "platform_admin" else "acme")
            token = holder.headers["Authorization"].removeprefix("Bearer ")
        text += f'\n[auth.openapi.{SCHEMES[caller]}]\nbearer = "{token}"\n'
    made = place / "schemathesis.toml"
    made.write_text(text)
    return made


async def run(server: Running, config: Path, *options: str) -> tuple[int, str]:
    """Run schemathesis to its end; return its exit code and what it said."""
    command = (sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", *options)
    running = await asyncio.create_subprocess_exec(
        *command, f"{server.url}/api/openapi.json", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(SECONDS):
        said, _ = await running.communicate()
    return running.returncode or 0, said.decode()


@pytest.mark.parametrize("caller", CALLERS)
async def test_every_answer_is_as_the_document_says(device: Device, caller: str, tmp_path: Path) -> None:
    only = ["--include-path-regex", CALLERS[caller]] if CALLERS[caller] else []
    made = await config(device, caller, tmp_path)
    code, said = await run(device.server, made, "-n", EXAMPLES, "--checks", "all", *only)
    assert code == 0, said
