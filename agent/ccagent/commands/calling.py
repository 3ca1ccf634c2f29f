"""What a command is called with, and how it asks the running agent; the standard library and click only."""

import importlib
import json
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from ccagent.ask import NoAgentError, NoAnswerError, ask
from ccagent.places import Places

PATIENCE_S = 3.0


@dataclass(frozen=True)
class Call:
    """The settings' file (None: the default one) and the places."""

    config_file: Path | None
    places: Places


def answer(call: Call, question: str) -> dict[str, Any]:
    """Return the running agent's answer, or, when none runs, what its files say; ClickException with one sentence.

    Another command may have the files for a moment, or an agent that is only just starting: ask again for a while.
    """
    until = time.monotonic() + PATIENCE_S
    while True:
        told = _answer(call, {"ask": question})
        if told is not None:
            return told
        if time.monotonic() > until:
            raise click.ClickException(
                f"{call.places.state_dir} is in use, but nobody answers: wait for the other cc-agent, or stop it"
            )
        time.sleep(0.05)


def _answer(call: Call, request: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return ask(call.places, request)
    except NoAgentError:
        # Only now is the store's code loaded, which takes ten times as long as asking.
        offline: dict[str, Any] | None = importlib.import_module("ccagent.commands.offline").answer(
            call.places, request
        )
        return offline
    except NoAnswerError as error:
        raise click.ClickException(str(error)) from error


def print_json(value: dict[str, Any]) -> None:
    """Print a value for programs."""
    click.echo(json.dumps(value, indent=2))


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows in columns as wide as they need."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def moment(at_ms: int | None) -> str:
    """Return a time (ms UTC) as people here read it."""
    if at_ms is None:
        return "never"
    return datetime.fromtimestamp(at_ms / 1000).astimezone().isoformat(" ", "seconds")


def span(seconds: float | None) -> str:
    """Return a span in its largest unit."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
