"""`cc-agent flush`: deliver now, instead of when the wait is over."""

import sys
import time
from typing import Any

import click

from ccagent.ask import NoAgentError, NoAnswerError, ask
from ccagent.commands.calling import Call, answer

WAITS = 3
LOOK_S = 0.2


@click.command("flush")
@click.option("--wait", "patience_s", type=click.FloatRange(0, 600), default=10, show_default=True, help="Seconds.")
@click.pass_obj
def command(call: Call, patience_s: float) -> None:
    """Try to deliver now, whatever the agent waits for, and say what came of it.

    Exit code 0 when all evidence is receipted, 3 when it waits.
    """
    before = answer(call, "status")
    try:
        told = ask(call.places, {"ask": "flush"})
    except NoAgentError as error:
        raise click.ClickException("no agent runs here: start it, or deliver with 'cc-agent once'") from error
    except NoAnswerError as error:
        raise click.ClickException(str(error)) from error
    if not told["flushing"]:
        raise click.ClickException("there is nothing to deliver yet: this appliance is not enrolled, or has no log")
    now = _outcome(call, before, patience_s)
    if not now["waiting"]:
        return click.echo(f"all {now['size']} entries are receipted")
    click.echo(
        f"{now['waiting']} entries wait: {now['destination']['last_error'] or 'they are on their way'}", err=True
    )
    sys.exit(WAITS)


def _outcome(call: Call, before: dict[str, Any], patience_s: float) -> dict[str, Any]:
    """Return the status once nothing waits, or another try has failed, or the patience ends."""
    until = time.monotonic() + patience_s
    while True:
        now = answer(call, "status")
        failed = now["destination"]["retry_count"] > before["destination"]["retry_count"]
        if not now["waiting"] or failed or time.monotonic() > until:
            return now
        time.sleep(LOOK_S)
