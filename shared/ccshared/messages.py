"""The bodies of the agent's API, as both sides read and write them.

Unknown members are ignored, so that either side may be one release ahead. Times on the wire are integers: `…_at_ms`
are milliseconds since 1970, UTC; `…_time_ms` and `…_s` are spans. Binary values are lower-case hex. Patterns match
whole (`$` of this engine is the very end).
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ccshared import canonical
from ccshared.notes import MAX_NUMBER
from ccshared.vocabulary import Clock, Level, OrderStatus, Outcome, Severity, Status

MAX_INCIDENTS = 200
MAX_PATTERNS = 200
MAX_RUNBOOKS = 50
MAX_RULES = 500
MAX_ORDERS = 20
MAX_STEPS = 64

Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-z-]{1,64}$")]
Epoch = Annotated[str, StringConstraints(pattern=r"^(?:0|[1-9][0-9]{0,9})-[0-9a-f]{8}$")]
Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Hex64 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
PatternSignature = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Word = Annotated[str, StringConstraints(pattern=r"^[0-9a-z_.-]{1,64}$")]
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=255)]
Name = Annotated[Line, StringConstraints(min_length=1)]
Prose = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=4000)]
Count = Annotated[int, Field(ge=0, lt=MAX_NUMBER, strict=True)]
Tally = Annotated[int, Field(ge=0, le=10**9, strict=True)]  # summed over a fleet it is still a number
Milliseconds = Annotated[int, Field(ge=0, lt=253_402_300_800_000, strict=True)]  # up to the year 9999


def _canonical(value: dict[str, Any]) -> dict[str, Any]:
    canonical.write(value)  # its error is a ValueError, as a validator's should be
    return value


CanonicalObject = Annotated[dict[str, Any], AfterValidator(_canonical)]


class Message(BaseModel):
    """A body of the agent's API."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class EnrollRequest(Message):
    """A new device asks to be known: the code's secret, its public key, and proof that it holds the private one."""

    secret: Annotated[str, StringConstraints(pattern=r"^[0-9a-zA-Z_-]{22,128}$")]
    public_key: Hex32
    proof: Hex64
    hostname: Name
    version: Name


class ServerKey(Message):
    """One of the server's signing keys; `use` is witness or order, `name` is `<server name>/server/<label>`."""

    use: Annotated[str, StringConstraints(pattern=r"^(?:witness|order)$")]
    name: Name
    public_key: Hex32


class Enrolled(Message):
    """What the envelope that answers an enrolment holds; signed by the order key that the code names."""

    server: Name
    site_id: Id
    appliance_id: Id
    public_key: Hex32
    keys: list[ServerKey]


class NewServerKey(ServerKey):
    """What a statement says, signed by the order key of before: `server` has this key from now on (ms UTC)."""

    server: Name
    issued_at_ms: Milliseconds


class ServerKeysAnswer(Message):
    """Every signing key the server ever had, oldest first, and the statements (DSSE) by which each followed."""

    keys: list[ServerKey]
    statements: list[dict[str, Any]] = []


class Nonce(Message):
    """A nonce to sign within a minute."""

    nonce: Name


class TokenRequest(Message):
    """A device's signature over the server's nonce."""

    appliance_id: Id
    nonce: Name
    signature: Hex64


class Token(Message):
    """An access token and how many seconds it is good for."""

    token: Name
    expires_in_s: Count


class Checkin(Message):
    """How an appliance is, once a minute; `epoch` is null until a log is open, `oldest_at_ms` when nothing waits.

    `alarms` are what a person must look at, each a word: rollback, clone_suspected, server_rollback, withheld …
    """

    version: Name
    hostname: Name
    sent_at_ms: Milliseconds
    clock: Clock
    epoch: Epoch | None = None
    size: Count = 0
    waiting: Count = 0
    waiting_bytes: Count = 0
    oldest_at_ms: Milliseconds | None = None
    alarms: Annotated[list[Word], Field(max_length=16)] = []


class CheckinAnswer(Message):
    """The server's time, what it holds of the epoch named, and when to come again (seconds from now).

    `backup_window_days`: its database may be put back from a backup as old as that.
    """

    server_at_ms: Milliseconds
    head_size: Count
    policy_etag: str | None
    orders_waiting: bool
    next_checkin_s: Count
    backup_window_days: Count = 0


class Head(Message):
    """What the server holds of one epoch; `receipt` is null while nothing of it is receipted."""

    epoch: Epoch
    size: Count
    receipt: str | None


class EntryKept(Message):
    """A payload that stands at its place now: the leaf is its hash."""

    epoch: Epoch
    seq: Count
    leaf: Hex32


class Epochs(Message):
    """All epochs the server knows of this appliance, oldest first."""

    epochs: list[Head]


class IncidentReport(Message):
    """The agent's columns of an incident; the newest (epoch, revision) wins. `raw_data` is the scrubbed finding."""

    id: Id
    epoch: Count
    revision: Count
    host_id: Name
    incident_type: Word
    severity: Severity
    raw_data: CanonicalObject
    pattern_signature: PatternSignature
    created_at_ms: Milliseconds
    last_seen_at_ms: Milliseconds
    occurrences: Count = 1
    escalated_at_ms: Milliseconds | None = None
    resolved_at_ms: Milliseconds | None = None
    resolution_level: Level | None = None
    resolution_action: Prose | None = None
    outcome: Outcome | None = None
    resolution_time_ms: Count | None = None


class IncidentReports(Message):
    """At most 200 incidents at once."""

    incidents: Annotated[list[IncidentReport], Field(max_length=MAX_INCIDENTS)]


class IncidentKept(Message):
    """Which revision of an incident the server now holds: the one sent, or a newer one."""

    id: Id
    epoch: Count
    revision: Count


class IncidentsKept(Message):
    """The answer to incidents, in the order in which they were sent."""

    incidents: list[IncidentKept]


class RunbookTotals(Message):
    """How often the planner (L2) ran a runbook for a pattern, and how often a person ordered it, with what success."""

    runbook: Word
    total_count: Tally
    success_count: Tally
    total_resolution_time_ms: Annotated[int, Field(ge=0, le=10**13, strict=True)]
    order_count: Tally = 0
    order_success_count: Tally = 0

    @model_validator(mode="after")
    def _hangs_together(self) -> "RunbookTotals":
        if self.success_count > self.total_count or self.order_success_count > self.order_count:
            raise ValueError("more successes than tries")
        return self


class RuleTotals(Message):
    """How often a rule that the server taught was tried, and how often the check passed then."""

    rule: Id
    total_count: Tally
    success_count: Tally

    @model_validator(mode="after")
    def _hangs_together(self) -> "RuleTotals":
        if self.success_count > self.total_count:
            raise ValueError("more successes than tries")
        return self


class PatternReport(Message):
    """The appliance's own totals for one pattern since it was enrolled; the latest replaces what the server has."""

    pattern_signature: PatternSignature
    incident_type: Word
    total_count: Count
    l1_count: Count
    l2_count: Count
    l3_count: Count
    success_count: Count
    total_resolution_time_ms: Count
    runbooks: Annotated[list[RunbookTotals], Field(max_length=MAX_RUNBOOKS)] = []


class PatternReports(Message):
    """At most 200 patterns at once, as of (epoch, revision); rules as of (epoch, rules_revision)."""

    epoch: Count
    revision: Count
    patterns: Annotated[list[PatternReport], Field(max_length=MAX_PATTERNS)]
    rules_revision: Count = 0
    rules: Annotated[list[RuleTotals], Field(max_length=MAX_RULES)] = []


class OrdersWaiting(Message):
    """The appliance's released orders that are not over, the oldest first, at most 20: each a DSSE envelope."""

    orders: list[dict[str, Any]]


class OrderTaking(Message):
    """Who takes an order: a name that one copy of the appliance made up for it; None from agents that made none."""

    taker: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = None


class OrderKept(Message):
    """What the server holds of an order now; a result that came first stays."""

    status: OrderStatus


class StepResult(Message):
    """What became of a step; `exit_code` is null where it did not end by itself, `output` is scrubbed."""

    about: Annotated[Prose, StringConstraints(max_length=500)]
    exit_code: Annotated[int, Field(ge=-(2**31), lt=2**31, strict=True)] | None = None
    output: Annotated[Prose, StringConstraints(max_length=2000)] = ""


class OrderResult(Message):
    """How an order goes (running) or ended, and why; `proved` is what the check said that was run afterwards."""

    status: Literal[OrderStatus.RUNNING, OrderStatus.SUCCEEDED, OrderStatus.FAILED, OrderStatus.REJECTED]
    started_ms: Milliseconds | None = None
    finished_ms: Milliseconds | None = None
    reason: Annotated[Prose, StringConstraints(max_length=2000)] = ""
    steps: Annotated[list[StepResult], Field(max_length=MAX_STEPS)] = []
    proved: Status | None = None


class PlanRequest(Message):
    """Which runbook worked for incidents like this one; `tried` were no use for it."""

    pattern_signature: PatternSignature
    incident_type: Word
    host_id: Name
    tried: Annotated[list[Name], Field(max_length=64)] = []


class PlanAnswer(Message):
    """A runbook (null: none is known) with its parameters, why, and the numbers behind it."""

    runbook: str | None
    parameters: dict[str, Any] = {}
    why: str = ""
    evidence: dict[str, Any] = {}


class Problem(Message):
    """An error (RFC 9457): `type` is stable and for programs, `detail` for people; `request_id` finds the log line."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    seq: int | None = None
    expected_seq: int | None = None
