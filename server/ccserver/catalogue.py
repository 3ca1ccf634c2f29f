"""The packaged catalogue of runbooks: read, and found fit or not."""

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from ccserver.errors import CatalogueError
from ccshared import erasure, rules, runbooks
from ccshared.runbooks import BadParametersError, BadRunbookError, Runbook, Step, Variant
from ccshared.vocabulary import Family

FOLDER = Path(__file__).parent / "runbooks"
PLATFORMS = ("debian", "rhel", "nixos")

_CHECKS = frozenset(str(family) for family in Family)
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh", "fish", "busybox", "su", "sudo", "xargs", "eval"})
_NIXOS = "/run/current-system/sw/bin/"


def load(folder: Path = FOLDER) -> Mapping[str, Runbook]:
    """Return the runbooks by id, in order; CatalogueError names every trouble that `lint` finds."""
    found = _read(folder)
    troubles = [f"{name}: {one}" for name, one in found.items() if isinstance(one, str)]
    known = {one.id: one for one in found.values() if isinstance(one, Runbook)}
    troubles += [] if troubles else list(_troubles(found, known))
    if troubles:
        raise CatalogueError("; ".join(troubles))
    return known


def digest(catalogue: Mapping[str, Runbook]) -> str:
    """Return the hex SHA-256 over the digests of all runbooks, in order."""
    return hashlib.sha256("".join(map(runbooks.digest, catalogue.values())).encode()).hexdigest()


def lint(folder: Path = FOLDER) -> list[str]:
    """Return what is wrong with a catalogue, a line each; nothing when it is fit."""
    try:
        load(folder)
    except CatalogueError as error:
        return str(error).split("; ")
    return []


def _read(folder: Path) -> dict[str, Runbook | str]:
    return {path.name: _one(path) for path in sorted(folder.glob("*.toml"))}


def _one(path: Path) -> Runbook | str:
    """Return the runbook of a file, or why it is none."""
    try:
        return runbooks.from_dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, BadRunbookError) as error:
        return str(error).replace(";", ",")


def _troubles(found: Mapping[str, Runbook | str], known: Mapping[str, Runbook]) -> Iterator[str]:
    if not found:
        yield "there are no runbooks: the installation is not whole"
    for name, one in found.items():
        if isinstance(one, Runbook):
            yield from (f"{name}: {trouble}" for trouble in _of_one(name, one))
    for rule in rules.BUILT_IN:
        yield from (f"rule {rule.id}: {trouble}" for trouble in _of_rule(rule, known))


def _of_one(name: str, one: Runbook) -> Iterator[str]:
    if name != f"{one.id}.toml":
        yield f"its id is {one.id}: a file is named like its runbook"
    if strange := set(one.families) - _CHECKS:
        yield f"no family of checks: {', '.join(sorted(strange))}"
    if one.id == erasure.RUNBOOK.id or one.action == erasure.ACTION:
        yield "a payload is erased by an approved redaction alone"
    if one.action is None and one.proves not in _CHECKS:
        yield f"{one.proves} is no check that could prove it"
    platforms = {variant.platform for variant in one.variants}
    if one.variants and "any" not in platforms and (missing := set(PLATFORMS) - platforms):
        yield f"nothing for {', '.join(sorted(missing))}"
    for variant in one.variants:
        yield from (f"{variant.platform}: {trouble}" for trouble in _of_variant(variant))


def _of_variant(variant: Variant) -> Iterator[str]:
    for step in variant.every_step:
        if shells := {Path(argument).name for argument in _programs(step)} & _SHELLS:
            yield f"{step.about}: {', '.join(shells)} would run what it is given"
        if (variant.platform == "nixos") != step.argv[0].startswith(_NIXOS) and variant.platform != "any":
            yield f"{step.about}: {step.argv[0]} is not where {variant.platform} keeps programs"


def _programs(step: Step) -> tuple[str, ...]:
    """Return what a step may start: its program; with env also every argument."""
    return step.argv if Path(step.argv[0]).name == "env" else step.argv[:1]


def _of_rule(rule: rules.Rule, known: Mapping[str, Runbook]) -> Iterator[str]:
    runbook = known.get(rule.runbook)
    if runbook is None:
        yield f"runbook {rule.runbook} is not in the catalogue"
    elif runbook.people_only:
        yield f"runbook {rule.runbook} is for people only"
    else:
        try:
            runbooks.check_parameters(runbook, rule.parameters)
        except BadParametersError as error:
            yield str(error)
