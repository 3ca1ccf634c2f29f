"""Runbooks: the packaged catalogue, for which no database is needed."""

import sys
from pathlib import Path

import click

from ccserver import catalogue
from ccserver.commands.calling import AsJson, show
from ccserver.errors import NotFoundError
from ccshared import runbooks
from ccshared.runbooks import Runbook, Step, Variant


@click.group("runbook")
def command() -> None:
    """Runbooks: what appliances may do to themselves, the same catalogue for every partner."""


@command.command("list")
@AsJson
def list_all(as_json: bool) -> None:
    """List the catalogue."""
    found = list(catalogue.load().values())
    lines = [f"{one.id}  {one.risk} risk{', disruptive' if one.disruptive else ''}  {one.title}" for one in found]
    rows = [{"digest": runbooks.digest(one), **runbooks.to_dict(one)} for one in found]
    show(rows, as_json, "\n".join(lines))


@command.command("show")
@click.argument("runbook_id")
@AsJson
def show_one(runbook_id: str, as_json: bool) -> None:
    """Show what a runbook does, step by step."""
    one = catalogue.load().get(runbook_id)
    if one is None:
        raise NotFoundError(f"There is no runbook {runbook_id}: `ccserver runbook list` shows them.")
    show({"digest": runbooks.digest(one), **runbooks.to_dict(one)}, as_json, "\n".join(_lines(one)))


@command.command("lint")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=catalogue.FOLDER)
@AsJson
def lint(folder: Path, as_json: bool) -> None:
    """Say what is wrong with the catalogue, or with one in a folder of TOML files; exit 1 when something is."""
    troubles = catalogue.lint(folder)
    show({"troubles": troubles}, as_json, "\n".join(troubles) or "the catalogue is fit")
    if troubles:
        sys.exit(1)


def _lines(one: Runbook) -> list[str]:
    lines = [f"{one.id}: {one.title}", one.about, f"risk: {one.risk}; disruptive: {'yes' if one.disruptive else 'no'}"]
    lines.append(f"proved by: {one.proves or 'nothing'}; digest: {runbooks.digest(one)}")
    lines += [f"parameter {each.name} ({each.kind}): {each.about}" for each in one.parameters]
    return lines + [line for variant in one.variants for line in _of_variant(variant)]


def _of_variant(variant: Variant) -> list[str]:
    parts = (("before", variant.preconditions), ("step", variant.steps), ("rollback", variant.rollback))
    return [f"on {variant.platform}:", *(_of_step(name, step) for name, steps in parts for step in steps)]


def _of_step(name: str, step: Step) -> str:
    return f"  {name}: {step.about} (at most {step.time_limit_s} s)\n      {' '.join(step.argv)}"
