"""Which safeguards each check speaks for, in HIPAA and in the frameworks beside it; the map itself is controls.toml."""

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

FRAMEWORKS = ("hipaa", "soc2", "cis", "nist", "csf")
PLUGIN = "plugin"


class UnmappedCheckError(LookupError):
    """The check has no entry in controls.toml."""


@dataclass(frozen=True)
class Control:
    """One requirement: its id as the framework writes it, its title, and one line on what it asks for."""

    id: str
    title: str
    description: str


@dataclass(frozen=True)
class CheckControls:
    """What a check looks after, and the requirements that it speaks for, sorted by id."""

    check: str
    title: str
    description: str
    hipaa: tuple[Control, ...]
    soc2: tuple[Control, ...]
    cis: tuple[Control, ...]
    nist: tuple[Control, ...]
    csf: tuple[Control, ...]


def load() -> dict[str, CheckControls]:
    """Return the map by check id; `plugin` stands for every plugin without an entry of its own."""
    return dict(_map())


def of(check: str) -> CheckControls:
    """Return a check's controls; a `plugin_…` has those of `plugin`. UnmappedCheckError names any other."""
    known = _map()
    if check in known:
        return known[check]
    if check.startswith(f"{PLUGIN}_"):
        return known[PLUGIN]
    raise UnmappedCheckError(f"no controls are mapped for the check {check!r}: add it to controls.toml")


def hipaa(check: str) -> list[str]:
    """Return the ids of a check's implementation specifications (45 CFR), sorted; UnmappedCheckError as `of`."""
    return [control.id for control in of(check).hipaa]


@functools.cache
def _map() -> dict[str, CheckControls]:
    text = resources.files("ccshared").joinpath("controls.toml").read_text("utf-8")
    tables = tomllib.loads(text)
    return {check: _entry(check, row, tables) for check, row in tables["checks"].items()}


def _entry(check: str, row: dict[str, Any], tables: dict[str, Any]) -> CheckControls:
    named = {
        framework: tuple(_control(tables, framework, control) for control in sorted(row[framework]))
        for framework in FRAMEWORKS
    }
    return CheckControls(check=check, title=row["title"], description=row["description"], **named)


def _control(tables: dict[str, Any], framework: str, control: str) -> Control:
    about = tables[framework][control]
    return Control(control, about["title"], about["description"])
