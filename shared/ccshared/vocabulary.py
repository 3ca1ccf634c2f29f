"""The words both sides use, each once. A database CHECK on such a word is compared with its enum by a test."""

from enum import StrEnum


class Status(StrEnum):
    """What a check answers; unknown is never shown as pass."""

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Severity(StrEnum):
    """How bad a failing check is, mildest first."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Level(StrEnum):
    """Who settled an incident: a rule, the planner, a person."""

    L1 = "L1"
    L2 = "L2"
    L3 = "L3"


class Outcome(StrEnum):
    """How an incident, or an attempt at it, ended."""

    SUCCESS = "success"
    FAILED = "failed"
    PARTIAL = "partial"
    ESCALATED = "escalated"
    TIMEOUT = "timeout"
    RECOVERED = "recovered"


class Kind(StrEnum):
    """Kinds of evidence entry; a server stores an unknown kind and flags it."""

    GENESIS = "genesis"
    CHECK_RUN = "check_run"
    REMEDIATION = "remediation"
    ORDER_RESULT = "order_result"
    ESCALATION = "escalation"
    RECOVERED = "recovered"
    CLOCK_STEP = "clock_step"
    GAP = "gap"
    HEARTBEAT = "heartbeat"
    KEY_ROTATION = "key_rotation"
    REDACTION = "redaction"
    POLICY = "policy"


class Clock(StrEnum):
    """What is known of the wall clock when an entry was sealed."""

    SYNC = "sync"
    UNSYNC = "unsync"
    STEPPED = "stepped"


class StubReason(StrEnum):
    """Why a line carries a bare leaf instead of its payload."""

    WITHHELD = "withheld"
    PRUNED = "pruned"
    ERASED = "erased"
    LOST = "lost"


class Family(StrEnum):
    """The six families of checks, in the order in which pages show them."""

    PATCHING = "patching"
    ANTIVIRUS = "antivirus"
    BACKUP = "backup"
    LOGGING = "logging"
    FIREWALL = "firewall"
    ENCRYPTION = "encryption"


class Role(StrEnum):
    """What a person may be; an auditor is bound to sites."""

    PLATFORM_ADMIN = "platform_admin"
    OWNER = "owner"
    TECHNICIAN = "technician"
    VIEWER = "viewer"
    AUDITOR = "auditor"


class Purpose(StrEnum):
    """Why a one-time link to choose a password was made."""

    INVITATION = "invitation"
    RESET = "reset"


class SettingLevel(StrEnum):
    """Where a setting is made; the nearest to an appliance wins."""

    PLATFORM = "platform"
    PARTNER = "partner"
    SITE = "site"
    APPLIANCE = "appliance"


class Risk(StrEnum):
    """How much a runbook can break; high risk takes a second person."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class OrderStatus(StrEnum):
    """The life of an order."""

    PENDING = "pending"
    ACKNOWLEDGED = "acknowledged"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


class FleetStatus(StrEnum):
    """The life of an order for many appliances."""

    UNAPPROVED = "unapproved"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    CANCELLED = "cancelled"


class RuleStatus(StrEnum):
    """The life of a learned rule."""

    CANDIDATE = "candidate"
    REJECTED = "rejected"
    CANARY = "canary"
    ACTIVE = "active"
    DEMOTED = "demoted"


class ChannelKind(StrEnum):
    """How people are told."""

    EMAIL = "email"
    WEBHOOK = "webhook"
    SLACK = "slack"
    PAGERDUTY = "pagerduty"


class ProblemKind(StrEnum):
    """What people are told of; the last two are the server's own."""

    INCIDENT = "incident"
    OFFLINE = "offline"
    SILENT = "silent"
    ALARM = "alarm"
    FORK = "fork"
    LOG = "log"
    CHANNEL = "channel"
    SWEEP = "sweep"


class NotificationEvent(StrEnum):
    """What a notification tells of a problem; a test tells of none."""

    OPENED = "opened"
    ESCALATED = "escalated"
    ACKNOWLEDGED = "acknowledged"
    REMINDER = "reminder"
    ENDED = "ended"
    TEST = "test"
