"""`cc-agent rotate-key`: a new device key, named by the old one."""

import contextlib
from typing import Any

import click

from ccagent import opening, rotation
from ccagent.ask import NoAgentError, NoAnswerError, ask
from ccagent.clock import ClockWatch
from ccagent.commands.calling import Call
from ccagent.store import StoreFailedError, StoreInUseError, StoreUnusableError


@click.command("rotate-key")
@click.pass_obj
def command(call: Call) -> None:
    """Make a new device key, named by the old one: the log ends and the next begins under the new key.

    The old key stays in use until the server has receipted that.
    """
    try:
        told = ask(call.places, {"ask": "rotate-key"})
    except NoAgentError:
        told = _alone(call)
    except NoAnswerError as error:
        raise click.ClickException(str(error)) from error
    if told.get("trouble"):
        raise click.ClickException(told["trouble"])
    click.echo(f"the log goes on as {told['epoch']}; new device key {told['fingerprint']}")


def _alone(call: Call) -> dict[str, Any]:
    if not call.places.database.exists():
        raise click.ClickException("no agent has run here yet: there is no key in use")
    stamp = ClockWatch().stamp()
    try:
        with contextlib.closing(opening.open_store(call.places, stamp)) as store:
            return rotation.answer(store, call.places, stamp)
    except (StoreInUseError, StoreUnusableError, StoreFailedError, OSError) as error:
        raise click.ClickException(str(error)) from error
