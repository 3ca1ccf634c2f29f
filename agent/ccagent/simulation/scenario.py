"""What a simulation plays: the file `scenario.toml`; a misspelt name is said, never ignored."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from ccagent import config, places
from ccagent.config import AbsolutePath, BadConfigError, Settings
from ccshared import purposes

Share = Annotated[float, Field(ge=0, le=1)]
Span = Annotated[float, Field(ge=0, le=366 * 86_400)]
Rate = Annotated[float, Field(ge=0, le=100_000)]


class Outage(Settings):
    """`[[outage]]`: from `start_s` to `end_s` so large a share of the fleet does not reach the server.

    Each link is back at its own moment within `spread_s` after the end. `noticed_share` of them tell their appliance,
    as a plug in its socket does; in `silent_share` requests are not refused but never answered.
    """

    start_s: Span
    end_s: Span
    share: Share = 1.0
    spread_s: Span = 0.0
    noticed_share: Share = 0.0
    silent_share: Share = 0.0

    @model_validator(mode="after")
    def _forward(self) -> "Outage":
        if self.end_s <= self.start_s:
            raise ValueError("end_s is not after start_s")
        return self


class Healing(Settings):
    """`[healing]`: in so large a share of the fleet the backup stops now and then, and the agent's own healer mends it.

    `helps` is the probability that a repair does. What none mended, a person does `person_after_s` later; 0: nobody.
    """

    breaking_share: Share = 1.0
    breaks_per_day: Rate = 4.0
    helps: Share = 0.0
    repair_s: Span = 20.0
    person_after_s: Span = 7200.0


class Objectives(Settings):
    """`[objectives]`: what must hold at the end; one that is not given is not judged."""

    peak_share_per_s: Share | None = None
    median_first_contact_s: Span | None = None
    p99_ms: Span | None = None
    errors: Annotated[int, Field(strict=True, ge=0)] | None = None
    all_receipted: bool | None = None
    most_repairs_in_a_day: Annotated[int, Field(strict=True, ge=0)] | None = None


class Scenario(Settings):
    """The whole file; spans are seconds of the simulation's clock, rates are per appliance."""

    server_url: str
    appliances: Annotated[int, Field(strict=True, ge=1, le=100_000)]
    duration_s: Span
    seed: Annotated[int, Field(strict=True)] = 1
    state_dir: AbsolutePath | None = None
    codes_file: AbsolutePath | None = None
    ramp_s: Span = 60.0
    settle_s: Span = 60.0
    checkin_interval_s: Annotated[float, Field(ge=5, le=3600)] | None = None
    evidence_per_hour: Rate = 6.0
    incidents_per_hour: Rate = 0.0
    failing_share: Share = 0.0
    flapping_share: Share = 0.0
    offline_share: Share = 0.0
    begins_ago_s: Span = 0.0
    connections: Annotated[int, Field(strict=True, ge=1, le=1000)] = 16
    clock: Literal["real", "simulated"] = "real"
    speed: Annotated[float, Field(gt=0)] | None = None
    healing: Healing | None = None
    outage: tuple[Outage, ...] = ()
    objectives: Objectives = Objectives()

    @model_validator(mode="after")
    def _sound(self) -> "Scenario":
        if self.speed is not None and self.clock == "real":
            raise ValueError('speed is for clock = "simulated"')
        return self


def load(path: Path) -> Scenario:
    """Return the scenario of a file; BadConfigError, one sentence, when it cannot be one."""
    tables = places.read_toml(path)
    try:
        return Scenario.model_validate(tables)
    except ValidationError as error:
        raise BadConfigError(f"{path}: {config.sentence(error, Scenario)}") from error


def codes_in(lines: Iterable[str]) -> list[str]:
    """Return the enrolment codes in the cells of comma-separated lines; whatever else stands there is passed over."""
    found = []
    for cell in (cell.strip() for row in csv.reader(lines) for cell in row):
        try:
            found.append(str(purposes.parse_code(cell)))
        except purposes.BadCodeError:
            continue
    return found
