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


@pytest.mark.parametrize("setting", CATALOGUE.values(), ids=CATALOGUE)
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
