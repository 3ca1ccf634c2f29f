"""The settings that Central Command makes for appliances: names, ranges and defaults, each known here once.

A setting is made at the platform's, a partner's, a site's or an appliance's level; the nearest to the appliance wins.
"""

from dataclasses import dataclass

Value = int


class UnknownSettingError(ValueError):
    """There is no such setting."""


class BadSettingError(ValueError):
    """The value is not one that the setting takes."""


@dataclass(frozen=True)
class Setting:
    """A whole number from `least` to `most`, in `unit`; `about` says what it decides."""

    name: str
    least: int
    most: int
    default: int
    unit: str
    about: str

    def check(self, value: object) -> Value:
        """Return the value; BadSettingError says what is taken. True is no number."""
        if not isinstance(value, int) or isinstance(value, bool) or not self.least <= value <= self.most:
            raise BadSettingError(f"{self.name}: a whole number of {self.unit} from {self.least} to {self.most}.")
        return value


_DAYS, _HOURS, _DAY_S = 3_650, 8_760, 86_400
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
    )
}


def find(name: str) -> Setting:
    """Return the setting of this name; UnknownSettingError names those that there are."""
    if name not in CATALOGUE:
        raise UnknownSettingError(f"There is no such setting; known are {', '.join(sorted(CATALOGUE))}.")
    return CATALOGUE[name]
