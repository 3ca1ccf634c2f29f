"""`cc-agent suppressions`: repairs that did not last, until a person looked and lets them be tried again."""

import click

from ccagent.ask import NoAgentError, NoAnswerError, ask
from ccagent.commands.calling import Call, answer, moment, print_json, print_table


@click.group("suppressions")
def command() -> None:
    """List repairs that did not last, and let them be tried again."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def list_them(call: Call, as_json: bool) -> None:
    """List what is not repaired by itself any more."""
    told = answer(call, "suppressions")
    if as_json:
        return print_json(told)
    found = told["suppressions"]
    if not found:
        return click.echo("nothing is suppressed")
    rows = [(one["host"], one["check"], one["runbook"], moment(one["since_ms"]), one["reason"]) for one in found]
    print_table([("host", "check", "runbook", "since", "reason"), *rows])
    return None


@command.command("clear")
@click.argument("check")
@click.option("--runbook", default=None, help="Only this one.  [default: all of the check]")
@click.pass_obj
def clear(call: Call, check: str, runbook: str | None) -> None:
    """Let what is suppressed for CHECK be tried again: what made it come back was found."""
    try:
        told = ask(call.places, {"ask": "clear-suppressions", "check": check, "runbook": runbook})
    except NoAgentError as error:
        raise click.ClickException("no agent runs here: start it, so that it hears of this") from error
    except NoAnswerError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{told['cleared']} cleared")
