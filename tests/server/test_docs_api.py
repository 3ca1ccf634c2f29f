"""The worked example of docs/api.md runs as it stands there."""

import asyncio
import json
import os
import re

from tests.architecture.source import ROOT
from tests.devices import Running
from tests.operators import with_key


async def test_the_example_makes_a_site_once_however_often_it_runs(server: Running) -> None:
    found = re.search(r"```sh\n(.*?)```", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    owner = await with_key(server, "owner")
    key = owner.headers["Authorization"].removeprefix("Bearer ")
    env, answers = os.environ | {"KEY": key, "SERVER": server.url, "NO_PROXY": "*"}, []
    for _ in range(2):
        process = await asyncio.create_subprocess_shell(found[1], env=env, stdout=asyncio.subprocess.PIPE)
        out, _err = await process.communicate()
        answers.append((process.returncode, json.loads(out)["name"]))
    assert answers == [(0, "Clinic 7")] * 2
    assert len(await owner.walk("sites")) == 2
