"""Runbooks: what an appliance may do to itself, as argument vectors with typed parameters; read strictly, no I/O.

The catalogue is packaged with the server and travels to the appliances in signed policies; an order names a runbook by
id and digest. Nothing here is ever given to a shell.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass

from ccshared import canonical, strict
from ccshared.vocabulary import Risk

Value = int | str

MAX_STEPS = 20
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]{0,31})\}")
_WORD = re.compile(r"(?!-)[A-Za-z0-9@._:-]{1,128}")
_INTEGER_MOST = 10**12

Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-z][0-9a-z_.-]{0,63}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ParameterName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9@._:][A-Za-z0-9@._:-]{0,127}$")]
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", min_length=1, max_length=200)]
Argument = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=1024)]
Platform = Literal["debian", "rhel", "nixos", "any"]


class BadRunbookError(ValueError):
    """The runbook is not one: a member is missing, unknown or of another type, or its steps are not allowed."""


class BadParametersError(ValueError):
    """The parameters are not those that the runbook takes."""


@dataclass(frozen=True, config=strict.EXACT)
class Step:
    """A program and its arguments, and how long it may take.

    The program is an absolute path. An argument is a literal, or exactly `{name}`: a parameter's value, whole.
    """

    argv: Annotated[tuple[Argument, ...], Field(min_length=1, max_length=64)]
    time_limit_s: Annotated[int, Field(ge=1, le=3600)]
    about: Line

    @model_validator(mode="after")
    def _is_plain(self) -> "Step":
        if not re.fullmatch(r"/[^{}]+", self.argv[0]) or "/../" in self.argv[0]:
            raise ValueError(f"{self.argv[0]!r}: the program is an absolute path")
        for argument in self.argv:
            if ("{" in argument or "}" in argument) and not _PLACEHOLDER.fullmatch(argument):
                raise ValueError(f"{argument!r}: a parameter is a whole argument, never part of one")
        return self

    @property
    def takes(self) -> frozenset[str]:
        """The names of the parameters that stand in its arguments."""
        return frozenset(match[1] for match in map(_PLACEHOLDER.fullmatch, self.argv) if match)


@dataclass(frozen=True, config=strict.EXACT)
class Parameter:
    """What a runbook is told: an integer from `least` to `most`, a word, or one of the choices.

    A word holds letters, digits and `@._:-` and begins with no `-`: no path, no option, nothing that a shell would
    read. Without a default it must be given.
    """

    name: ParameterName
    kind: Literal["integer", "word", "choice"]
    about: Line
    least: Annotated[int, Field(ge=0, le=_INTEGER_MOST)] | None = None  # no value is ever read as an option
    most: Annotated[int, Field(ge=0, le=_INTEGER_MOST)] | None = None
    choices: Annotated[tuple[Word, ...], Field(max_length=50)] = ()
    default: Value | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> "Parameter":
        if (self.kind == "integer") != (self.least is not None and self.most is not None):
            raise ValueError(f"{self.name}: least and most go with an integer, and only with one")
        if (self.kind == "choice") != bool(self.choices):
            raise ValueError(f"{self.name}: choices go with a choice, and only with one")
        if self.default is not None:
            check_value(self, self.default)
        return self


@dataclass(frozen=True, config=strict.EXACT)
class Variant:
    """How it is done on one platform: what must hold before, the steps, and what takes them back."""

    platform: Platform
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=MAX_STEPS)]
    preconditions: Annotated[tuple[Step, ...], Field(max_length=MAX_STEPS)] = ()
    rollback: Annotated[tuple[Step, ...], Field(max_length=MAX_STEPS)] = ()

    @property
    def every_step(self) -> tuple[Step, ...]:
        """All that it may run."""
        return self.preconditions + self.steps + self.rollback


@dataclass(frozen=True, config=strict.EXACT)
class Runbook:
    """A repair, or an errand; `proves` names the check that must pass afterwards.

    `action` is what the agent does itself, without steps. `people_only`: only shown to a person, nothing runs it.
    """

    id: Id
    title: Line
    about: Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", min_length=1, max_length=2000)]
    families: Annotated[tuple[Word, ...], Field(max_length=20)]
    risk: Risk
    disruptive: bool
    people_only: bool = False
    parameters: Annotated[tuple[Parameter, ...], Field(max_length=20)] = ()
    variants: Annotated[tuple[Variant, ...], Field(max_length=4)] = ()
    proves: Word | None = None
    action: Literal["run_checks_now", "collect_support_bundle", "clear_suppressions", "erase_payload"] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> "Runbook":
        names = [parameter.name for parameter in self.parameters]
        platforms = [variant.platform for variant in self.variants]
        if len(set(names)) != len(names) or len(set(platforms)) != len(platforms):
            raise ValueError("two parameters of one name, or two variants of one platform")
        if bool(self.variants) == (self.action is not None or self.people_only):
            raise ValueError("a runbook has variants, or an action of the agent, or is for people only")
        taken = {name for variant in self.variants for step in variant.every_step for name in step.takes}
        if self.action is None and taken != set(names):
            raise ValueError(f"parameters that are not both declared and taken: {', '.join(taken ^ set(names))}")
        return self


_RUNBOOK = TypeAdapter(Runbook)


def from_dict(value: Any) -> Runbook:
    """Return the runbook that an object stands for; BadRunbookError says what is wrong with it."""
    try:
        return strict.read(_RUNBOOK, value)
    except ValueError as error:
        raise BadRunbookError(str(error)) from error


def to_dict(runbook: Runbook) -> dict[str, Any]:
    """Return the runbook as an object with every member, as it is signed and hashed."""
    return strict.write(_RUNBOOK, runbook)


def digest(runbook: Runbook) -> str:
    """Return the hex SHA-256 of the runbook's canonical JSON."""
    return hashlib.sha256(canonical.write(to_dict(runbook))).hexdigest()


def check_parameters(runbook: Runbook, given: Mapping[str, Any]) -> dict[str, Value]:
    """Return every parameter with its value, defaults filled in; BadParametersError names the first that is wrong."""
    known = {parameter.name: parameter for parameter in runbook.parameters}
    for name in given:
        if name not in known:
            raise BadParametersError(f"{str(name)[:40]!r} is no parameter of {runbook.id}")
    return {name: check_value(parameter, given.get(name, parameter.default)) for name, parameter in known.items()}


def check_value(parameter: Parameter, value: object) -> Value:
    """Return a value that the parameter takes, BadParametersError otherwise; True is no integer."""
    if value is None:
        raise BadParametersError(f"{parameter.name} is missing")
    if parameter.kind == "integer":
        return _integer(parameter, value)
    if type(value) is not str or not _WORD.fullmatch(value):
        raise BadParametersError(f"{parameter.name}: a word of letters, digits and @._:- is needed")
    if parameter.kind == "choice" and value not in parameter.choices:
        raise BadParametersError(f"{parameter.name}: one of {', '.join(parameter.choices)} is needed")
    return value


def _integer(parameter: Parameter, value: object) -> int:
    least, most = parameter.least or 0, parameter.most or 0
    if type(value) is not int or not least <= value <= most:
        raise BadParametersError(f"{parameter.name}: a whole number from {least} to {most} is needed")
    return value


def fill(steps: Iterable[Step], parameters: Mapping[str, Value]) -> list[Step]:
    """Return the steps with the values in place; the parameters are those that `check_parameters` returned."""
    return [replace(step, argv=tuple(_filled(argument, parameters) for argument in step.argv)) for step in steps]


def _filled(argument: str, parameters: Mapping[str, Value]) -> str:
    match = _PLACEHOLDER.fullmatch(argument)
    return str(parameters[match[1]]) if match else argument


def variant_for(runbook: Runbook, platform: str) -> Variant | None:
    """Return the variant for a platform, or the one for any, or None."""
    found = {variant.platform: variant for variant in runbook.variants}
    return next((found[name] for name in (platform, "any") if name in found), None)
