"""A catalogue for tests of orders: the packaged one, with a runbook of either risk whose steps are harmless."""

from typing import Any

import pytest

from ccserver import catalogue
from ccshared import runbooks
from ccshared.runbooks import Runbook

LOW, HIGH, PEOPLE = "touch-unit", "reboot-unit", "encrypt-volume"


def _extra(name: str, risk: str) -> Runbook:
    step = {"argv": ["/bin/true", "{unit}"], "time_limit_s": 5, "about": "do nothing"}
    value: dict[str, Any] = {
        "id": name,
        "title": name,
        "about": name,
        "families": [],
        "risk": risk,
        "disruptive": False,
    }
    value["parameters"] = [{"name": "unit", "kind": "word", "about": "a unit", "default": "a.service"}]
    return runbooks.from_dict(value | {"variants": [{"platform": "any", "steps": [step]}]})


def extended(patch: pytest.MonkeyPatch) -> dict[str, Runbook]:
    """Let servers that start from now on know these runbooks too; return all."""
    found = catalogue.load() | {LOW: _extra(LOW, "low"), HIGH: _extra(HIGH, "high")}
    patch.setattr(catalogue, "load", lambda: found)
    return found
