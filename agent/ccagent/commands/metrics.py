"""`cc-agent metrics`: how the agent is, for Prometheus."""

import click

from ccagent.commands.calling import Call, answer


@click.command("metrics")
@click.pass_obj
def command(call: Call) -> None:
    """Print metrics for node_exporter's textfile collector; works with no network, and while the agent runs."""
    click.echo(answer(call, "metrics")["text"], nl=False)
