"""What is wrong with this server, and what to do about it."""

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import asdict

import click

from ccserver import config, diagnosis
from ccserver.commands.calling import AsJson, database, show
from ccserver.config import Config
from ccserver.diagnosis import Finding, Level
from ccserver.errors import CentralCommandError

_EXIT = {Level.FINE: 0, Level.WARNING: 1, Level.BROKEN: 2}


@click.command("doctor")
@AsJson
def command(as_json: bool) -> None:
    """Look at settings, keys, database and disk; each line says what to do. Exit 0 fine, 1 warnings, 2 broken."""
    environ = dict(os.environ)
    found = [
        Finding("settings", Level.BROKEN, f"{name} is no setting of ccserver", "correct or unset it: docs/operate.md")
        for name in config.unknown(environ)
    ]
    known = {name: value for name, value in environ.items() if name not in config.unknown(environ)}
    found += _guarded("settings", lambda: diagnosis.secret_files(config.files(known)))
    try:
        settings = config.from_environ(known)
    except CentralCommandError as error:
        found += diagnosis.broken("settings", str(error), "correct this first: the rest depends on it")
    else:
        found += _look(settings)
    show([asdict(each) for each in found], as_json, "\n".join(_line(each) for each in found))
    sys.exit(max(_EXIT[each.level] for each in found))


def _look(settings: Config) -> list[Finding]:
    found = diagnosis.fine("settings", "readable, and none unknown")
    found += _guarded("key file", lambda: diagnosis.key_file(settings))
    found += _guarded("certificate", lambda: diagnosis.certificate(settings))
    found += _guarded("disk", lambda: diagnosis.disk(settings.data_dir))
    return found + _guarded("database", lambda: _look_at_database(settings))


def _look_at_database(settings: Config) -> list[Finding]:
    with database(settings) as target:
        return asyncio.run(diagnosis.database(settings, target.server, target.owner))


def _guarded(part: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except CentralCommandError as error:
        return diagnosis.broken(part, str(error), "do what the sentence says, then run `ccserver doctor` again")
    except (OSError, ValueError) as error:
        said = f"it could not be looked at: {type(error).__name__}"
        return diagnosis.broken(part, said, "see that the server's user may read it")


def _line(each: Finding) -> str:
    sign = {Level.FINE: "fine   ", Level.WARNING: "WARNING", Level.BROKEN: "BROKEN "}[each.level]
    return f"{sign}  {each.part}: {each.said}" + (f"\n         → {each.next_step}" if each.next_step else "")
