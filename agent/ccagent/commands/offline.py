"""Answers while no agent runs: the command opens the store itself, as its only user, and lets it go again."""

import contextlib
from typing import Any

import click

from ccagent import opening, report
from ccagent.places import Places
from ccagent.store import StoreFailedError, StoreInUseError, StoreUnusableError


def answer(places: Places, request: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the agent's files say, None while another holds them; ClickException when they cannot be used."""
    if not places.database.exists():
        raise click.ClickException(
            f"no agent has run on {places.state_dir} yet: start it with 'cc-agent run', or name another --state-dir"
        )
    try:
        with contextlib.closing(opening.look(places)) as store:
            return report.answer(request, places, store, None)
    except StoreInUseError:
        return None
    except (StoreUnusableError, StoreFailedError) as error:
        raise click.ClickException(str(error)) from error
