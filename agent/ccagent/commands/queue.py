"""`cc-agent queue`: what waits to be uploaded, and why."""

import click

from ccagent.commands.calling import Call, answer, moment, print_json, print_table


@click.command("queue")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def command(call: Call, as_json: bool) -> None:
    """Say what waits to be uploaded, and why."""
    told = answer(call, "queue")
    if as_json:
        return print_json(told)
    if not told["logs"]:
        click.echo("nothing is queued before enrolment")
        return None
    rows = [
        (
            log["epoch"],
            str(log["size"]),
            str(log["receipted"]),
            str(log["waiting"]),
            "open" if log["open"] else "closed",
        )
        for log in told["logs"]
    ]
    print_table([("epoch", "entries", "receipted", "waiting", ""), *rows])
    click.echo(f"\n{told['waiting_bytes']} bytes wait, the oldest since {moment(told['oldest_at_ms'])}")
    click.echo(f"last receipt {moment(told['last_receipt_at_ms'])}")
    room = told["room"]
    click.echo(f"store {room['used_bytes']} of {room['budget_bytes']} bytes, {room['used_percent']} %")
    if told["refused"]:
        click.echo(f"no room for {told['refused']} routine entries; a gap entry will tell")
    for one in told["withheld"]:
        since = moment(one["since_ms"])
        click.echo(f"withheld {one['epoch']}/{one['seq']} ({one['kind']}) since {since}: {one['why']}")
    to = told["destination"]
    if to["retry_count"]:
        click.echo(f"\nfailed {to['retry_count']} times: {to['last_error']}")
        click.echo(f"next try {moment(to['next_retry_at_ms'])}")
    return None
