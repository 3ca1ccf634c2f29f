"""Record this release's traffic: `python -m tests.compat.record`. A real agent speaks to the real server.

Recorded once for each release, when it is made; what is recorded is never changed.
"""

import asyncio
import contextlib
import gzip
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import uvicorn

from ccagent import identity
from ccagent.client import Client
from ccagent.client import Device as Credentials
from ccagent.places import Places
from ccagent.store import Store
from ccserver import app, config, keys, migrate
from ccserver.config import Config
from ccserver.localpg import Urls
from ccserver.scope import open_pool
from ccshared import merkle
from ccshared.batch import Batch, Stub, write
from ccshared.messages import OrderResult, PatternReport, PatternReports, PlanRequest
from ccshared.vocabulary import Kind, OrderStatus, StubReason
from tests.compat.samples import PARTNER, SITE, Recorder, Sample, push_order
from tests.databases import asked, short_place
from tests.devices import Device, Running

_ENTRIES = "SELECT epoch, bundle_json FROM queued_evidence ORDER BY seq"


@contextlib.asynccontextmanager
async def serving(made: Config, urls: Urls) -> AsyncIterator[tuple[Running, Recorder]]:
    """Serve on a loopback port and record."""
    listener = socket.create_server(("127.0.0.1", 0))
    made = replace(made, public_url=f"http://127.0.0.1:{listener.getsockname()[1]}", metrics=None, sweep_s=0)
    recorder = Recorder(app.make(made, urls.server))
    server = uvicorn.Server(uvicorn.Config(recorder, lifespan="on", log_config=None, access_log=False))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.01)
    pool = await open_pool(urls.server, min_size=1, max_size=2)
    async with httpx.AsyncClient(base_url=made.public_url, trust_env=False) as client:
        yield Running(made.public_url, client, pool, keys.load(made.key_file), urls), recorder
    await pool.close()
    server.should_exit = True
    await task


async def agent(folder: Path, *arguments: str, given: str = "") -> None:
    """Run the real agent's program."""
    (folder / "agent.toml").write_text(f'[agent]\nstate_dir = "{folder / "agent"}"\n', encoding="utf-8")
    program = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("cc-agent"),
        *("--config", folder / "agent.toml", *arguments),
        stdin=asyncio.subprocess.PIPE,
        env=os.environ,
    )
    await program.communicate(given.encode())
    assert program.returncode in (0, 3)


async def withhold(client: Client, device: Device) -> None:
    """Send a stub in an entry's place, then the entry."""
    first = len(device.payloads)
    payload = device.seal(Kind.HEARTBEAT, {"version": "0.1.0"}, int(time.time() * 1000))
    stub = Stub(merkle.leaf_hash(payload), StubReason.WITHHELD)
    await client.append(device.epoch, gzip.compress(write(Batch(device.checkpoint(first + 1), first, None, [stub]))))
    await client.put_entry(device.epoch, first, payload)


async def talk(running: Running, folder: Path) -> tuple[Device, str, str]:
    """Let an appliance say everything that it ever says."""
    await running.add_site(PARTNER, SITE)
    code = await running.code(PARTNER, SITE)
    await agent(folder, "enroll", "--server-url", running.url, "--code-file", "-", given=str(code))
    await agent(folder, "once")
    places = Places(folder / "agent")
    who = identity.load_enrolment(places)
    assert who is not None
    device = Device(running, who.key.seed, who.identity.appliance_id)
    with contextlib.closing(Store.open(places)) as store:
        rows = store.read(lambda tx: tx.execute(_ENTRIES).fetchall())
    device.epoch, device.payloads = rows[0][0], [payload for _, payload in rows]
    order = await push_order(running.db, running.keys, device.appliance_id)
    async with Client(running.url, Credentials(running.keys.server, device.appliance_id, device.seed)) as client:
        await withhold(client, device)
        await client.keys()
        await client.epochs()
        await client.policy()
        await client.orders()
        await client.acknowledge_order(order, "0" * 32)
        now_ms = int(time.time() * 1000)
        await client.put_order_result(order, OrderResult(status=OrderStatus.RUNNING, started_ms=now_ms))
        done = OrderResult(status=OrderStatus.SUCCEEDED, started_ms=now_ms, finished_ms=now_ms, reason="done")
        await client.put_order_result(order, done)
        one = PatternReport(
            pattern_signature="0" * 16, incident_type="backup", total_count=2, l1_count=1, l2_count=0, l3_count=1,
            success_count=1, total_resolution_time_ms=90,
        )  # fmt: skip
        await client.put_patterns(PatternReports(epoch=1, revision=9, patterns=[one]))
        await client.plan(PlanRequest(pattern_signature="0" * 16, incident_type="backup", host_id="box", tried=["x"]))
        await client.head(device.epoch)
    return device, code.secret_hash, order


async def record(folder: Path) -> Sample:
    made = config.from_environ({"CCSERVER_DATA_DIR": str(folder / "server"), "CCSERVER_NAME": "cc.example"})
    keys.create(made.key_file, made.server_name)
    with short_place() as place, asked("", place) as postgres:
        urls = postgres.create_database("cc_compat")
        await migrate.run(urls.owner, lambda _: None)
        async with serving(made, urls) as (running, recorder):
            device, code_hash, order = await talk(running, folder)
    key_file = json.loads(made.key_file.read_text(encoding="utf-8"))
    return Sample(
        identity.version(), key_file, device.seed.hex(), device.appliance_id, code_hash, order, recorder.exchanges
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        sample = asyncio.run(record(Path(folder)))
    sample.save()
    print(f"{sample.release}: {len(sample.exchanges)} exchanges")


if __name__ == "__main__":
    main()
