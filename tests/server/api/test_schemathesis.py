"""The OpenAPI document run against the running server by schemathesis, all checks on, as each kind of caller."""

import asyncio
import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ccserver.config import Config
from tests.devices import Device, Running
from tests.operators import unlimited, with_key, with_session

CONFIG = Path(__file__).parents[2] / "schemathesis.toml"
HOOKS = "tests.schemathesis_hooks"
EXAMPLES = int(os.environ.get("EXAMPLES", "1"))
SECONDS = 600
BRIEF = ["--phases", "fuzzing"]
EVERY = ["--phases", "coverage,fuzzing,stateful"]
# Each caller's routes, the phases of a quick run, and its part of the examples: all boundaries and sequences are met by
# the owner and the appliance; what the others meet beside the same handlers is who may call.
CALLERS = {
    "nobody": ("/", BRIEF, 0.05),
    "owner": ("/api/", EVERY, 1),
    "owner's session": ("/api/", BRIEF, 0.2),
    "auditor": ("/api/", BRIEF, 0.1),
    "platform admin": ("/api/", BRIEF, 0.2),
    "device": ("/agent/", EVERY, 1),
}


@dataclass(frozen=True)
class Credential:
    """What a caller presents: a section of the configuration, and the same as headers; `proof` answers it with 200."""

    section: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    proof: str = "/healthz"


@pytest.fixture
def settings(settings: Config) -> Config:
    return unlimited(settings)


def bearer(scheme: str, token: str, proof: str) -> Credential:
    section = f'\n[auth.openapi.{scheme}]\nbearer = "{token}"\n'
    return Credential(section, (("Authorization", f"Bearer {token}"),), proof)


def cookie(value: str, proof: str) -> Credential:
    section = f'\n[headers]\nSec-Fetch-Site = "same-origin"\n[auth.openapi.session]\napi_key = "{value}"\n'
    return Credential(section, (("Cookie", f"cc_session={value}"),), proof)


async def credential(device: Device, caller: str) -> Credential:
    """Return a new credential of a caller."""
    if caller == "device":
        return bearer("device", device.token, "/agent/v1/log")
    if caller in ("owner", "platform admin"):
        role, partner = ("owner", "acme") if caller == "owner" else ("platform_admin", "platform")
        holder = await with_key(device.server, role, partner)
        return bearer("key", holder.headers["Authorization"].removeprefix("Bearer "), "/api/v1/runbooks")
    if caller in ("auditor", "owner's session"):
        auditor = ("auditor", "acme-clinic")
        holder = await with_session(device.server, *(auditor if caller == "auditor" else ("owner",)))
        return cookie(holder.headers["Cookie"].removeprefix("cc_session="), "/api/v1/sites/acme-clinic")
    return Credential()


def configured(presented: Credential, caller: str, place: Path) -> Path:
    """Write the configuration for a caller: the common one, and the credential as the document's scheme names it."""
    hooks = f'hooks = "{HOOKS}"\n' if caller == "platform admin" else ""
    made = place / "schemathesis.toml"
    made.write_text(hooks + CONFIG.read_text() + presented.section)
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
    routes, phases, part = CALLERS[caller]
    presented = await credential(device, caller)
    options = ["-n", str(math.ceil(EXAMPLES * part)), "--checks", "all", "--include-path-regex", routes, *phases]
    config = configured(presented, caller, tmp_path)
    code, said = await run(device.server, config, *options)
    assert code == 0, said
    assert re.search(r"[0-9]{2,} generated, [0-9]+ passed", said), said
    answer = await device.server.client.get(presented.proof, headers=dict(presented.headers))
    assert answer.status_code == 200 or caller == "platform admin", answer.text  # who was known all the time
