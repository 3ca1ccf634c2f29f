"""`cc-agent simulate`: many appliances in one process, against a real server, and whether its objectives held."""

import dataclasses
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from ccagent.client import RequestError
from ccagent.commands.calling import print_json, print_table
from ccagent.enrolment import EnrolmentError
from ccagent.identity import IdentityUnusableError
from ccagent.places import BadConfigError
from ccagent.simulation import fleet, scenario
from ccagent.simulation.fleet import FleetError, Outcome, Stage
from ccagent.simulation.scenario import Scenario
from ccagent.store import StoreInUseError, StoreUnusableError

NOT_HELD, INTERRUPTED = 3, 130
SELDOM_S = 15.0
_TROUBLE = (EnrolmentError, FleetError, IdentityUnusableError, RequestError, StoreInUseError, StoreUnusableError)


@click.command("simulate")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--state", type=click.Path(path_type=Path), default=None, help="Where the fleet keeps its files.")
@click.option(
    "--codes-file",
    type=click.Path(path_type=Path, allow_dash=True),
    default=None,
    help="Enrolment codes, comma-separated or a line each, or - for standard input.  [default: CC_ENROLL_CODES]",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--verbose", is_flag=True, help="Show what the appliances log.")
def command(file: Path, state: Path | None, codes_file: Path | None, as_json: bool, verbose: bool) -> None:
    """Play the scenario FILE: many appliances with the agent's own store, uploader and client.

    An appliance that has an identity in the state directory is not enrolled again. Exit code 0 when all objectives
    held, 3 when one did not, 130 when it was interrupted.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.CRITICAL, stream=sys.stderr)
    try:
        wanted = scenario.load(file)
        outcome = fleet.play(wanted, _stage(wanted, state, codes_file))
    except (BadConfigError, *_TROUBLE) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        print_json(dataclasses.asdict(outcome) | {"held": outcome.held})
    else:
        _print(outcome)
    if outcome.interrupted:
        sys.exit(INTERRUPTED)
    sys.exit(0 if outcome.held else NOT_HELD)


def _stage(wanted: Scenario, state: Path | None, codes_file: Path | None) -> Stage:
    directory = state or wanted.state_dir
    if directory is None:
        raise click.UsageError("the fleet has no place: add --state, or state_dir to the scenario")
    directory = Path(os.path.realpath(directory))
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        codes = scenario.codes_in(_lines(codes_file or wanted.codes_file))
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{error}: name files that this user can read and write") from error
    return Stage(directory, codes, tell=_tell if sys.stderr.isatty() else _Seldom().tell)


def _lines(codes_file: Path | None) -> list[str]:
    if codes_file is None:
        return os.environ.get("CC_ENROLL_CODES", "").splitlines()
    if str(codes_file) == "-":
        return sys.stdin.read().splitlines()
    return codes_file.read_text("utf-8").splitlines()


def _tell(line: str) -> None:
    click.echo(f"\r\x1b[K{line}", nl=False, err=True)


class _Seldom:
    """Says now and then how far it is, where no person looks at a terminal."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()

    def tell(self, line: str) -> None:
        """Say it on a line of its own, unless one was said a moment ago."""
        if time.monotonic() - self._told_at >= SELDOM_S:
            self._told_at = time.monotonic()
            click.echo(line, err=True)


def _print(outcome: Outcome) -> None:
    if sys.stderr.isatty():
        click.echo("", err=True)
    print_table([(name, _said(value)) for name, value in outcome.summary.items()])
    for one in outcome.objectives:
        word = "held" if one["held"] else "NOT HELD"
        click.echo(f"{word}: {one['objective']} {_said(one['got'])}, wanted {_said(one['wanted'])}")
    if outcome.interrupted:
        click.echo("interrupted: these are partial results", err=True)


def _said(value: Any) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
