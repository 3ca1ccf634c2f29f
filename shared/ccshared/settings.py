"""The settings that Central Command makes for appliances: names, what they take and defaults, each known here once.

A setting is made at the platform's, a partner's, a site's or an appliance's level; the nearest to the appliance wins.
"""

import re
from dataclasses import dataclass

Value = int | str


class UnknownSettingError(ValueError):
    """There is no such setting."""


class BadSettingError(ValueError):
    """The value is not one that the setting takes."""


@dataclass(frozen=True)
class Setting:
    """A whole number from `least` to `most`, in `unit`; or a text: one of the `choices`, or one of this `pattern`.

    `about` says what it decides. `prevails` is a value that counts wherever it is made, also above a nearer level.
    """

    name: str
    least: int
    most: int
    default: Value
    unit: str
    about: str
    choices: tuple[str, ...] = ()
    pattern: str = ""
    prevails: str = ""

    @property
    def is_text(self) -> bool:
        """Whether it takes a text; `least` and `most` are then its length."""
        return bool(self.choices or self.pattern)

    def check(self, value: object) -> Value:
        """Return the value; BadSettingError says what is taken. True is no number."""
        if self.is_text:
            return self._text(value)
        if not isinstance(value, int) or isinstance(value, bool) or not self.least <= value <= self.most:
            raise BadSettingError(f"{self.name}: a whole number of {self.unit} from {self.least} to {self.most}.")
        return value

    def typed(self, text: str) -> Value:
        """Return the value that a person typed; BadSettingError as in `check`."""
        is_number = not self.is_text and re.fullmatch(r"-?[0-9]{1,18}", text)
        return self.check(int(text) if is_number else text)

    def _text(self, value: object) -> str:
        if self.choices and value not in self.choices:
            raise BadSettingError(f"{self.name}: one of {', '.join(self.choices)}.")
        if not isinstance(value, str) or (self.pattern and not re.fullmatch(self.pattern, value)):
            raise BadSettingError(f"{self.name}: {self.unit}, or nothing.")
        return value


_DAYS, _HOURS, _DAY_S = 3_650, 8_760, 86_400


def _digest(name: str, about: str) -> Setting:
    return Setting(name, 0, 64, "", "a SHA-256 as 64 hex digits", about, pattern="(?:[0-9a-f]{64})?")


CATALOGUE = {
    setting.name: setting
    for setting in (
        Setting("agent.patrol_interval_s", 1, _DAY_S, 300, "seconds", "How often an appliance checks its hosts."),
        Setting("agent.checkin_interval_s", 1, _DAY_S, 60, "seconds", "How often an appliance says that it lives."),
        Setting("checks.time_limit_s", 1, 600, 60, "seconds", "How long one check may take."),
        Setting("checks.patching.max_age_days", 1, _DAYS, 30, "days", "Since the last update, before it fails."),
        Setting("checks.patching.high_age_days", 1, _DAYS, 60, "days", "Since the last update, before it is high."),
        Setting("checks.patching.lists_max_age_days", 1, _DAYS, 7, "days", "How old the package lists may be."),
        Setting("checks.antivirus.signature_max_age_days", 1, _DAYS, 7, "days", "How old the signatures may be."),
        Setting("checks.backup.max_age_hours", 1, _HOURS, 24, "hours", "Since the last backup, before it fails."),
        Setting("checks.backup.critical_age_hours", 1, _HOURS, 48, "hours", "The same, before it is critical."),
        Setting("checks.backup.restore_test_max_age_days", 1, _DAYS, 30, "days", "Since the last restore test."),
        Setting("checks.logging.canary_max_age_hours", 1, _HOURS, 2, "hours", "Since the last line of the canary."),
        Setting("checks.logging.min_free_percent", 0, 100, 5, "percent", "Free space of the log's volume."),
        Setting("checks.encryption.min_key_bits", 128, 1024, 256, "bits", "The shortest key of a volume."),
        _digest("checks.firewall.baseline_sha256", "The approved firewall ruleset; empty while none is."),
        _digest("checks.antivirus.binary_sha256", "The approved anti-virus binary; empty while none is."),
        Setting(
            *("healing.mode", 4, 7, "observe", "text", "Whether drift is repaired, only shown what would be, or none."),
            choices=("stop", "observe", "heal"),
            prevails="stop",
        ),
        Setting(
            *("healing.window_days", 0, 7, "", "days as digits from 0 (Monday) to 6, each once and in order"),
            "When repairs that disrupt may run, UTC; empty: never.",
            pattern="0?1?2?3?4?5?6?",
        ),
        Setting("healing.window_from_minute", 0, 1_439, 120, "minutes", "When the window opens, after 0:00 UTC."),
        Setting("healing.window_minutes", 0, 1_440, 120, "minutes", "How long the window is open."),
    )
}


def find(name: str) -> Setting:
    """Return the setting of this name; UnknownSettingError names those that there are."""
    if name not in CATALOGUE:
        raise UnknownSettingError(f"There is no such setting; known are {', '.join(sorted(CATALOGUE))}.")
    return CATALOGUE[name]
