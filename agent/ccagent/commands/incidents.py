"""`cc-agent incidents`: what is broken, since when."""

import click

from ccagent.commands.calling import Call, answer, moment, print_json, print_table


@click.command("incidents")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def command(call: Call, as_json: bool) -> None:
    """List the open incidents."""
    told = answer(call, "incidents")
    if as_json:
        return print_json(told)
    if not told["incidents"]:
        click.echo("no open incidents")
        return None
    rows = [
        (one["severity"], one["host"], one["type"], moment(one["created_at_ms"]), one["reason"])
        for one in told["incidents"]
    ]
    print_table([("severity", "host", "type", "since", "reason"), *rows])
    if told["count"] > len(rows):
        click.echo(f"… and {told['count'] - len(rows)} more")
    return None
