"""The command line `cc-agent`.

`status` is asked often and must answer at once, so each command's code is loaded only when it is called.
"""

import importlib
import os
import sys
from pathlib import Path

import click

from ccagent.commands.calling import Call
from ccagent.places import DEFAULT_CONFIG_FILE, BadConfigError, find

BROKE = 70  # EX_SOFTWARE of sysexits.h

COMMANDS = {
    "enroll": "Enrol this appliance with a one-time code.",
    "run": "Run the agent until it is told to stop.",
    "helper": "Run the root helper, or pin whose orders it obeys.",
    "once": "Check once, then upload until all is receipted.",
    "status": "Say how the agent is; works with the network down.",
    "queue": "Say what waits to be uploaded, and why.",
    "metrics": "Print metrics for Prometheus.",
    "incidents": "List the open incidents.",
    "flush": "Try to deliver now instead of waiting.",
    "rotate-key": "Make a new device key, named by the old one.",
    "alarms": "List what a person must look at, and end an alarm.",
    "suppressions": "List repairs that did not last, and let them be tried again.",
    "support-bundle": "Write what support needs to know into a file, without personal data or secrets.",
    "simulate": "Play many appliances at once against a server, as a scenario says.",
    "receipt": "Print the newest receipt, for an auditor to take away.",
    "verify": "Verify the own log against the receipts that are held for it.",
}


class Commands(click.Group):
    """Commands that are modules of `ccagent.commands`, each loaded when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which they are needed."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, None when there is no such."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"ccagent.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list for --help without loading them all."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cc-agent")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    default=None,
    help=f"The settings.  [default: {DEFAULT_CONFIG_FILE}]",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=None,
    help="Where the agent keeps its files.  [default: as the settings say]",
)
@click.pass_context
def agent(context: click.Context, config_file: Path | None, state_dir: Path | None) -> None:
    """The appliance's agent of Central Command: it checks, keeps proof, and delivers it."""
    try:
        places = find(config_file, state_dir)
    except BadConfigError as error:
        raise click.ClickException(str(error)) from error
    context.obj = Call(config_file, places)


def main() -> None:
    """Run the command line; errors are one sentence on stderr and an exit code, a trace only where CC_TRACE is set."""
    try:
        agent.main(prog_name="cc-agent")
    except BrokenPipeError:  # whoever read has gone
        sys.exit(1)
    except Exception as error:
        if "CC_TRACE" in os.environ:
            raise
        click.echo(f"Error: cc-agent broke ({type(error).__name__}: {error}): report it with CC_TRACE=1 set", err=True)
        sys.exit(BROKE)
