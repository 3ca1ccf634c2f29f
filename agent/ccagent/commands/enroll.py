"""`cc-agent enroll`: become known to a server by a one-time code, which is never given as an argument."""

import asyncio
import importlib
import os
import sys
from pathlib import Path

import click

from ccagent import enrolment, identity, scrubbing
from ccagent.client import RequestError, authorities, check_server_url
from ccagent.commands.calling import Call
from ccagent.commands.settings import load, start_log
from ccagent.enrolment import EnrolmentError, Server
from ccagent.identity import Identity, IdentityUnusableError
from ccagent.scrubbing import ScrubKeyError

MAX_CODE = 4096


@click.command("enroll")
@click.option("--server-url", default=None, help="Where the server is.  [default: as the settings say]")
@click.option(
    "--code-file",
    type=click.Path(path_type=Path, allow_dash=True),
    default=None,
    help="A file that holds the code, or - for standard input.  [default: CC_ENROLL_CODE, else asked for]",
)
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path),
    default=None,
    help="Who alone vouches for the server (PEM); it is kept.  [default: as the settings say, else this system's]",
)
@click.option("--replace", is_flag=True, help="Replace the identity that this appliance has.")
@click.pass_obj
def command(call: Call, server_url: str | None, code_file: Path | None, ca_file: Path | None, replace: bool) -> None:
    """Enrol this appliance with a one-time code.

    The code is taken from --code-file, from CC_ENROLL_CODE, or asked for without echo; never from the command line,
    where everybody on this machine could read it.
    """
    start_log()
    settings = load(call).agent
    url = server_url or settings.server_url
    if url is None:
        raise click.UsageError("no server is named: add --server-url, or server_url to [agent] in the settings")
    server = _server(url, ca_file or settings.ca_file)
    code = _code(code_file)
    try:
        key = identity.ensure_key(call.places)
        hostname = enrolment.scrubbed_hostname(scrubbing.load_key(call.places.scrub_key))
        known = asyncio.run(enrolment.enroll(call.places, server, code, hostname, replace=replace))
    except (EnrolmentError, IdentityUnusableError, ScrubKeyError, RequestError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        identity.give_to_owner(call.places)
    click.echo(f"enrolled at {known.server} as appliance {known.appliance_id} of site {known.site_id}")
    click.echo(f"device key {key.fingerprint}")
    if os.geteuid() == 0:
        _pin(call, known, replace=replace)


def _pin(call: Call, known: Identity, *, replace: bool) -> None:
    """Tell the root helper of this machine, where one was set up, whose orders to obey."""
    state_dir = load(call).helper.state_dir
    if not state_dir.is_dir():
        return
    pinning = importlib.import_module("ccagent.helper.pinning")
    try:
        pinning.pin(state_dir, pinning.of(known), replace=replace)
    except pinning.NotPinnedError as error:
        raise click.ClickException(f"enrolled, but the helper does not obey this server: {error}") from error
    click.echo("the helper obeys this server")


def _server(url: str, ca_file: Path | None) -> Server:
    """Return where to enrol; ClickException, before anything is asked or written, when address or file is bad."""
    try:
        return Server(check_server_url(url), authorities(ca_file) if ca_file else None)
    except RequestError as error:
        raise click.ClickException(str(error)) from error


def _code(code_file: Path | None) -> str:
    if code_file is None:
        return os.environ.get("CC_ENROLL_CODE") or click.prompt("Code", hide_input=True, err=True)
    try:
        if str(code_file) == "-":
            return sys.stdin.read(MAX_CODE)
        with code_file.open(encoding="utf-8") as file:
            return file.read(MAX_CODE)
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{code_file} cannot be read as a code: {error}") from error
