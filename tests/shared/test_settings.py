"""The catalogue of settings says what the agent's own configuration takes."""

from typing import Any

import pydantic
import pytest

from ccagent.config import Config
from ccshared import settings
from ccshared.settings import CATALOGUE, BadSettingError, Setting, UnknownSettingError


def configured(name: str, value: Any) -> Any:
    """Return the agent's setting of this name, given as its file would give it."""
    *tables, key = name.split(".")
    given: dict[str, Any] = {} if value is None else {key: value}
    for table in reversed(tables):
        given = {table: given}
    found: Any = Config.model_validate(given)
    for part in (*tables, key):
        found = getattr(found, part)
    return found


NUMBERS = {
    name: setting
    for name, setting in CATALOGUE.items()
    if not setting.is_text and name.startswith(("agent.", "checks."))
}
DAYS, MODE = CATALOGUE["healing.window_days"], CATALOGUE["healing.mode"]


@pytest.mark.parametrize("setting", NUMBERS.values(), ids=NUMBERS)
def test_default_and_range_are_the_agents(setting: Setting) -> None:
    assert configured(setting.name, None) == setting.default
    assert [configured(setting.name, end) for end in (setting.least, setting.most)] == [setting.least, setting.most]
    for beyond in (setting.least - 1, setting.most + 1):
        with pytest.raises(pydantic.ValidationError):
            configured(setting.name, beyond)


@pytest.mark.parametrize("value", [0, 601, True, "60", 60.0, None])
def test_a_value_of_another_kind_or_range_is_refused(value: object) -> None:
    with pytest.raises(BadSettingError, match="from 1 to 600"):
        settings.find("checks.time_limit_s").check(value)


def test_an_unknown_setting_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownSettingError, match=r"checks\.backup\.max_age_hours"):
        settings.find("checks.backup.max_age")


@pytest.mark.parametrize("value", ["stop", "observe", "heal"])
def test_a_setting_with_choices_takes_one_of_them(value: str) -> None:
    assert MODE.check(value) == MODE.typed(value) == value


@pytest.mark.parametrize("value", ["", "HEAL", "heal\n", 0, True, None, ["heal"]])
def test_a_setting_with_choices_takes_nothing_else(value: object) -> None:
    with pytest.raises(BadSettingError, match="one of stop, observe, heal"):
        MODE.check(value)


@pytest.mark.parametrize("value", ["", "0", "0123456", "56"])
def test_days_are_digits_in_order(value: str) -> None:
    assert DAYS.check(value) == value


@pytest.mark.parametrize("value", ["10", "00", "7", "0 1", "1\n", 1, None])
def test_days_in_another_form_are_refused(value: object) -> None:
    with pytest.raises(BadSettingError, match=r"healing\.window_days"):
        DAYS.check(value)


@pytest.mark.parametrize("name", ["checks.firewall.baseline_sha256", "checks.antivirus.binary_sha256"])
def test_a_baseline_is_a_digest_or_nothing(name: str) -> None:
    baseline = CATALOGUE[name]
    assert [baseline.check(value) for value in ("", "a" * 64)] == ["", "a" * 64]
    for value in ("a" * 63, "A" * 64, "a" * 65, 0):
        with pytest.raises(BadSettingError):
            baseline.check(value)


def test_every_default_is_one_that_the_setting_takes() -> None:
    assert all(setting.check(setting.default) == setting.default for setting in CATALOGUE.values())


def test_what_a_person_types_for_a_number_is_a_number() -> None:
    limit = settings.find("checks.time_limit_s")
    assert limit.typed("60") == 60
    for text in ("", "sixty", "6e1", "+60", "61 "):
        with pytest.raises(BadSettingError):
            limit.typed(text)
