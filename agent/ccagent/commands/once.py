"""`cc-agent once`: one round of checks, then upload until all is receipted or the first failure."""

import asyncio
import contextlib
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import click

from ccagent import daemon, enrolment, identity, mirror, opening, queue
from ccagent.client import Client, RequestError
from ccagent.clock import ClockWatch
from ccagent.commands.calling import Call, print_table
from ccagent.commands.settings import load, start_log
from ccagent.config import Config
from ccagent.daemon import Agent
from ccagent.identity import Enrolment, IdentityUnusableError
from ccagent.patrol import Summary
from ccagent.places import Places
from ccagent.scrubbing import ScrubKeyError
from ccagent.store import Store, StoreFailedError, StoreInUseError, StoreUnusableError
from ccagent.uploader import Uploader

WAITS = 3


@dataclass(frozen=True)
class Outcome:
    """What a round found, how many entries there are and are receipted, and why the rest waits."""

    summary: Summary
    size: int
    receipted: int
    waits_because: str | None


@click.command("once")
@click.pass_obj
def command(call: Call) -> None:
    """Check once, then upload until all is receipted.

    Exit code 0 when all evidence is receipted, 3 when it waits.
    """
    start_log()
    try:
        outcome = asyncio.run(once(load(call), call.places))
    except (StoreInUseError, StoreUnusableError, StoreFailedError, ScrubKeyError, IdentityUnusableError) as error:
        raise click.ClickException(str(error)) from error
    _print(outcome)
    if outcome.waits_because is not None:
        sys.exit(WAITS)


async def once(config: Config, places: Places) -> Outcome:
    """Do one round as the agent's loops would, each step once."""
    with contextlib.closing(opening.open_store(places, ClockWatch().stamp())) as store:
        agent = daemon.open_agent(config, places, store)
        who = identity.load_enrolment(places)
        if who is None:
            because = "this appliance is not enrolled: get a code from the operator and run 'cc-agent enroll'"
            return _outcome(store, await daemon.heal_once(agent), because)
        async with enrolment.connect(who, config.agent.ca_file) as client:
            return await _deliver(agent, who, client)


async def _deliver(agent: Agent, who: Enrolment, client: Client) -> Outcome:
    uploader = Uploader(agent.store, client, who)
    # A check-in also tells what the clock is worth; a log can be begun without it, so that nothing is left unsealed.
    failed = await _first_failure(_greet(agent, client))
    begun = await _first_failure(_begin(agent, client))
    failed = failed or begun
    summary = await daemon.heal_once(agent, client)
    if failed is None:
        failed = await _first_failure(_send(agent, uploader, client))
    if failed is not None:
        failure, _ = uploader.fail(failed)
        await agent.store.write(queue.note_failure, failure)
    return _outcome(agent.store, summary, str(failed) if failed else None)


async def _greet(agent: Agent, client: Client) -> None:
    await daemon.check_in(agent, client)


async def _begin(agent: Agent, client: Client) -> None:
    await enrolment.ensure_epoch(agent.store, agent.places, client, agent.watch.stamp())


async def _send(agent: Agent, uploader: Uploader, client: Client) -> None:
    await uploader.look()
    await uploader.drain()
    await uploader.deliver_withheld(now=True)
    await mirror.mirror(agent.store, client)


async def _first_failure(step: Coroutine[Any, Any, None]) -> RequestError | None:
    try:
        await step
    except RequestError as error:
        return error
    return None


def _outcome(store: Store, summary: Summary, because: str | None) -> Outcome:
    kept = store.read(queue.status)
    return Outcome(summary, kept.size, kept.watermark, because)


def _print(outcome: Outcome) -> None:
    found = outcome.summary
    print_table([(str(one.status), one.host_id, one.check, one.reason) for one in found.findings])
    click.echo(f"\nincidents: {len(found.opened)} opened, {len(found.closed)} closed, {len(found.escalated)} escalated")
    click.echo(f"evidence: {found.sealed} sealed now, {outcome.receipted} of {outcome.size} entries receipted")
    if outcome.waits_because is not None:
        click.echo(f"waits: {outcome.waits_because}", err=True)
