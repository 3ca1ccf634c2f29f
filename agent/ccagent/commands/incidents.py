"""`cc-agent incidents`: what is broken, since when."""

from typing import Any

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
        (one["severity"], one["host"], one["type"], moment(one["created_at_ms"]), _done(one), one["reason"])
        for one in told["incidents"]
    ]
    print_table([("severity", "host", "type", "since", "healing", "reason"), *rows])
    if told["count"] > len(rows):
        click.echo(f"… and {told['count'] - len(rows)} more")
    return None


def _done(incident: dict[str, Any]) -> str:
    """Return in a few words what is done about an incident."""
    said = incident["healing"] or {}
    tries = len(said.get("attempts", ()))
    tried = f"{tries} tries, " if tries > 1 else ("1 try, " if tries else "")
    if incident["escalated"]:
        return f"{tried}a person is asked"
    return tried + ("waits" if said.get("answer") == "wait" else "to be repaired")
