"""`cc-agent helper`: the root helper itself; `cc-agent helper pin`: whose orders it obeys."""

import os

import click

from ccagent import identity
from ccagent.commands.calling import Call
from ccagent.commands.settings import load, start_log
from ccagent.helper import owned, pinning, serving
from ccagent.identity import IdentityUnusableError
from ccagent.places import DEFAULT_CONFIG_FILE
from ccshared import purposes


@click.group("helper", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Run the root helper until it is told to stop.

    It reads what checks need as root, and runs steps of orders and policies whose signature it verified itself.
    """
    if context.invoked_subcommand is not None:
        return
    start_log()
    call: Call = context.obj
    _check_settings(call)
    try:
        serving.serve(load(call))
    except serving.HelperError as error:
        raise click.ClickException(str(error)) from error


@command.command("pin")
@click.option("--replace", is_flag=True, help="Replace the server or appliance that is pinned.")
@click.option("--fingerprint", default=None, help="Refuse unless the server's order key has this fingerprint.")
@click.pass_obj
def pin(call: Call, replace: bool, fingerprint: str | None) -> None:
    """Pin the server that this appliance is enrolled at: from then on its orders are obeyed.

    The identity is read from the agent's state, so do this right after enrolment, and compare the fingerprint with
    the middle part of the enrolment code.
    """
    _check_settings(call)
    try:
        known = identity.load(call.places)
        if known is None:
            raise click.ClickException("this appliance is not enrolled: run cc-agent enroll first")
        state_dir = load(call).helper.state_dir
        made = pinning.pin(state_dir, pinning.of(known), fingerprint, replace=replace)
    except (IdentityUnusableError, pinning.NotPinnedError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"pinned {made.server} for appliance {made.appliance} of site {made.site}")
    for key in made.order_keys.values():
        click.echo(f"order key {purposes.fingerprint(key)}")


def _check_settings(call: Call) -> None:
    """What root reads and runs is named in this file: nobody else may be able to change it."""
    path = call.config_file or DEFAULT_CONFIG_FILE
    try:
        if os.path.lexists(path):
            owned.check_file(path)
    except (owned.NotOursError, OSError) as error:
        raise click.ClickException(str(error)) from error
