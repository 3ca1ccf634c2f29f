"""`cc-agent alarms`: what a person must look at."""

import click

from ccagent.ask import NoAgentError, NoAnswerError, ask
from ccagent.commands.calling import Call, answer, moment, print_json, print_table


@click.command("alarms")
@click.option("--end", "name", default=None, help="End the alarms of this name: it was looked into.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def command(call: Call, name: str | None, as_json: bool) -> None:
    """List what a person must look at; an alarm that was looked into is ended by its name."""
    if name is not None:
        return click.echo(f"{_end(call, name)} ended")
    told = answer(call, "status")["alarms"]
    if as_json:
        return print_json({"alarms": told})
    if not told:
        return click.echo("no alarms")
    print_table([(one["name"], moment(one["since_ms"]), one["detail"]) for one in told])
    return None


def _end(call: Call, name: str) -> int:
    try:
        return int(ask(call.places, {"ask": "end-alarm", "name": name})["ended"])
    except NoAgentError as error:
        raise click.ClickException("no agent runs here: start it, so that it hears of this") from error
    except NoAnswerError as error:
        raise click.ClickException(str(error)) from error
