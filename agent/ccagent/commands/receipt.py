"""`cc-agent receipt`: the newest receipt, to be taken away by whoever verifies."""

import click

from ccagent.commands.calling import Call, answer, print_json


@click.command("receipt")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def command(call: Call, as_json: bool) -> None:
    """Print the newest receipt of the own log, exactly as it was signed; works with the network down.

    Keep it where the server cannot reach: an auditor gives it to the verifier, and nothing up to it can be missing.
    Exit code 1 when there is none yet.
    """
    told = answer(call, "receipt")
    if as_json:
        print_json(told)
    elif told["receipt"] is not None:
        click.echo(told["receipt"], nl=False)
    if told["receipt"] is None:
        raise click.ClickException("nothing is receipted yet: 'cc-agent status' says why")
