"""The database."""

import click

from ccserver import roles
from ccserver.commands.calling import current, database


@click.group("db")
def command() -> None:
    """The database."""


@command.command("roles")
@click.option("--run", "run_it", is_flag=True, help="Run the statements on the embedded database instead of printing.")
def db_roles(run_it: bool) -> None:
    """Print the statements that make the roles; run them once as an administrator of your PostgreSQL."""
    if run_it:
        with database(current()):
            click.echo("the embedded database has its roles")
        return
    for statement in roles.statements():
        click.echo(statement.rstrip().rstrip(";") + ";")
