"""The server's command line: noun, then verb. What is read also as `--json`, what fails as one sentence."""

import logging
import sys

import click

from ccserver.commands import (
    admin,
    appliance,
    audit,
    backup,
    baseline,
    channel,
    db,
    doctor,
    enroll_code,
    evidence,
    export,
    incident,
    key,
    keys,
    migrate,
    order,
    partner,
    policy,
    restore,
    rule,
    runbook,
    secrets,
    serve,
    setting,
    site,
    sweep,
    user,
    waiver,
)
from ccserver.errors import CentralCommandError

_COMMANDS = (
    serve,
    doctor,
    migrate,
    backup,
    restore,
    db,
    keys,
    secrets,
    partner,
    site,
    enroll_code,
    appliance,
    incident,
    waiver,
    order,
    rule,
    runbook,
    setting,
    policy,
    baseline,
    admin,
    user,
    key,
    audit,
    channel,
    sweep,
    evidence,
    export,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ccserver")
def cli() -> None:
    """Central Command: the server. Without DATABASE_URL it uses an embedded PostgreSQL under CCSERVER_DATA_DIR."""


for _module in _COMMANDS:
    cli.add_command(_module.command)
cli.add_command(setting.command, "settings")  # as people say it too


def main() -> None:
    """Run the command line; what goes wrong is one sentence on standard error and exit code 1."""
    logging.getLogger("ccserver").addHandler(logging.NullHandler())  # only `serve` writes a log
    try:
        cli()
    except CentralCommandError as error:
        click.echo(f"ccserver: {error}", err=True)
        sys.exit(1)
