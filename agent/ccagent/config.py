"""The settings of `/etc/cc-agent/config.toml`, with their defaults; a misspelt one is named, never ignored."""

import difflib
from pathlib import Path
from typing import Annotated, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ccagent import places
from ccagent.places import DEFAULT_CONFIG_FILE, DEFAULT_STATE_DIR

BadConfigError = places.BadConfigError


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("is not an absolute path")
    return path


def _no_option(text: str) -> str:
    if text.startswith("-"):
        raise ValueError("begins with '-', which a program would read as an option")
    return text


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Word = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_no_option)]
Seconds = Annotated[int, Field(strict=True, ge=1, le=86_400)]
Days = Annotated[int, Field(strict=True, ge=1, le=3_650)]
Hours = Annotated[int, Field(strict=True, ge=1, le=8_760)]
Percent = Annotated[int, Field(strict=True, ge=0, le=100)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Settings(BaseModel):
    """A table of the file: frozen, and closed to names that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AgentSettings(Settings):
    """`[agent]`: where the state is, who the server is and who vouches for it, how often to look, the metrics."""

    state_dir: AbsolutePath = DEFAULT_STATE_DIR
    server_url: Annotated[str, Field(pattern=r"^https?://[^\s/]+[^\s]*$")] | None = None
    ca_file: AbsolutePath | None = None
    patrol_interval_s: Seconds = 300
    checkin_interval_s: Seconds = 60
    metrics_file: AbsolutePath | None = None


class PatchingSettings(Settings):
    """`[checks.patching]`: how old the last update and the package lists may be."""

    max_age_days: Days = 30
    high_age_days: Days = 60
    lists_max_age_days: Days = 7


class AntivirusSettings(Settings):
    """`[checks.antivirus]`: ClamAV unless another unit is named; `signature_dir = ""` for an engine without one."""

    unit: Word = "clamav-daemon.service"
    process: Word = "clamd"
    binary: AbsolutePath = Path("/usr/sbin/clamd")
    binary_sha256: Sha256 | None = None
    signature_dir: AbsolutePath | Annotated[str, Field(pattern=r"^$")] = Path("/var/lib/clamav")
    signature_max_age_days: Days = 7


class BackupSettings(Settings):
    """`[checks.backup]`: a status file, or a restic or borg repository with its password file, or both."""

    status_file: AbsolutePath | None = None
    restic_repository: Word | None = None
    restic_password_file: AbsolutePath | None = None
    borg_repository: Word | None = None
    borg_passphrase_file: AbsolutePath | None = None
    max_age_hours: Hours = 24
    critical_age_hours: Hours = 48
    restore_test_max_age_days: Days = 30

    @model_validator(mode="after")
    def _complete(self) -> "BackupSettings":
        if (self.restic_repository is None) != (self.restic_password_file is None):
            raise ValueError("restic_repository and restic_password_file go together")
        if (self.borg_repository is None) != (self.borg_passphrase_file is None):
            raise ValueError("borg_repository and borg_passphrase_file go together")
        if self.restic_repository is not None and self.borg_repository is not None:
            raise ValueError("name restic or borg, not both")
        return self


class LoggingSettings(Settings):
    """`[checks.logging]`: the units that must run, the canary (a file's line or a journal identifier), the volume."""

    units: tuple[Word, ...] = ("systemd-journald.service", "rsyslog.service", "auditd.service")
    canary_file: AbsolutePath | None = None
    canary_text: Word = "cc-canary"
    canary_journal: Word | None = None
    canary_max_age_hours: Hours = 2
    volume: AbsolutePath = Path("/var/log")
    min_free_percent: Percent = 5


class FirewallSettings(Settings):
    """`[checks.firewall]`: the approved ruleset's hash; tables that programs rewrite, such as `inet f2b-table`."""

    baseline_sha256: Sha256 | None = None
    ignore_tables: tuple[Word, ...] = ()


class EncryptionSettings(Settings):
    """`[checks.encryption]`: mount points or device paths that must be encrypted."""

    volumes: tuple[AbsolutePath, ...] = ()
    min_key_bits: Annotated[int, Field(strict=True, ge=128, le=1024)] = 256


class PluginSettings(Settings):
    """`[[checks.plugin]]`: a command that speaks the Monitoring Plugins protocol; `host_id` is the machine it asks."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]
    argv: Annotated[tuple[str, ...], Field(min_length=1)]
    host_id: Word | None = None
    timeout_s: Annotated[int, Field(strict=True, ge=1, le=300)] = 30


class ChecksSettings(Settings):
    """`[checks]`: the six families, other people's checks, and the time limit of each."""

    time_limit_s: Annotated[int, Field(strict=True, ge=1, le=600)] = 60
    patching: PatchingSettings = PatchingSettings()
    antivirus: AntivirusSettings = AntivirusSettings()
    backup: BackupSettings = BackupSettings()
    logging: LoggingSettings = LoggingSettings()
    firewall: FirewallSettings = FirewallSettings()
    encryption: EncryptionSettings = EncryptionSettings()
    plugin: tuple[PluginSettings, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> "ChecksSettings":
        names = [(plugin.name, plugin.host_id) for plugin in self.plugin]
        if len(set(names)) < len(names):
            raise ValueError("two plugins have one name and host_id")
        return self


class HelperSettings(Settings):
    """`[helper]`: the root helper's socket, the agent's user (name or uid), who alone may ask, and its own state."""

    socket: AbsolutePath = Path("/run/cc-agent/helper.sock")
    user: Annotated[str, Field(pattern=r"^[a-z0-9_][a-z0-9_.-]{0,31}$")] = "cc-agent"
    state_dir: AbsolutePath = Path("/var/lib/cc-agent-helper")


class PlannerSettings(Settings):
    """`[planner]`: an OpenAI-compatible endpoint, asked when history has no answer; off without a URL."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+[^\s]*$")] | None = None
    model: Word = "default"
    key_file: AbsolutePath | None = None
    timeout_s: Annotated[int, Field(strict=True, ge=1, le=120)] = 20


class Config(Settings):
    """The whole file."""

    agent: AgentSettings = AgentSettings()
    helper: HelperSettings = HelperSettings()
    checks: ChecksSettings = ChecksSettings()
    planner: PlannerSettings = PlannerSettings()


def load(path: Path | None = None) -> Config:
    """Return the settings of `path`, or of the default file; a missing default file means all defaults.

    BadConfigError, one sentence, when a named file is missing, or the file is unreadable, not TOML, holds an unknown
    key or a wrong value.
    """
    tables = places.read_toml(path)
    try:
        return Config.model_validate(tables)
    except ValidationError as error:
        raise BadConfigError(f"{path or DEFAULT_CONFIG_FILE}: {sentence(error, Config)}") from error


def sentence(error: ValidationError, root: type[Settings]) -> str:
    """Say the first mistake in a file that `root` describes: its key, what is wrong, what to do."""
    first = error.errors(include_url=False)[0]
    location = first["loc"]
    key = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        return f"{key} is no setting: {_suggestion(location, root)}"
    if first["type"] == "missing":
        return f"{key} is missing: add it"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key or 'the file'}: {message[:1].lower()}{message[1:]}: correct it"


def _suggestion(location: tuple[int | str, ...], root: type[Settings]) -> str:
    table = root
    for part in location[:-1]:
        if isinstance(part, str):
            table = _table_type(table, part)
    known = sorted(table.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean {near[0]}?" if near else f"known here are {', '.join(known)}"


def _table_type(table: type[Settings], name: str) -> type[Settings]:
    annotation = table.model_fields[name].annotation
    inside = (annotation, *get_args(annotation))
    return next((one for one in inside if isinstance(one, type) and issubclass(one, Settings)), table)
