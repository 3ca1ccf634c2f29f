"""What pages show of a site and its appliances, from what was read. Receipts are verified here as anybody would."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ccserver import appending, compliance, liveness
from ccserver.compliance import CheckState, Score
from ccserver.context import Context
from ccserver.liveness import Liveness
from ccserver.pages import wording
from ccserver.queries.appliances import Appliance
from ccserver.queries.evidence_bundles import Bundle, Flagged
from ccserver.queries.incidents import Incident
from ccserver.queries.log_verifications import Fault
from ccserver.queries.site_page import Rows
from ccserver.queries.sites import SiteDetail
from ccserver.queries.waivers import Waiver
from ccserver.witness import Log
from ccshared import controls, merkle, notes
from ccshared.vocabulary import Clock, Severity, Status

_WORST_FIRST = (Status.FAIL, Status.UNKNOWN, Status.PASS)
_GRAVEST_FIRST = tuple(reversed(Severity))
# An entry sealed within this time of its arrival needs no second time beside it.
_PROMPT = timedelta(minutes=5)


@dataclass(frozen=True)
class ApplianceView:
    """An appliance; `oldest_age` is how old the oldest waiting entry was at its last check-in, None if not known."""

    row: Appliance
    state: Liveness
    clock: Sequence[str]
    clock_is_good: bool
    oldest_age: timedelta | None


@dataclass(frozen=True)
class CheckView:
    """A check's state; `status` is unknown where the row is too old to count; `waiver` is why it does not."""

    row: CheckState
    title: str
    status: str
    waiver: Waiver | None


@dataclass(frozen=True)
class Proof:
    """The newest receipt of a log, and how many entries it covers: none unless it verifies. `fault` says why not."""

    log: Log
    anchor: str
    hostname: str
    text: str | None
    size: int
    cosigned_at: datetime | None
    fault: str | None


@dataclass(frozen=True)
class EvidenceView:
    """An entry and its log's proof; `moment` is the appliance's, or ours of its arrival where its clock is no good."""

    row: Bundle
    hostname: str
    proof: Proof
    moment: datetime
    arrived_late: bool

    @property
    def covered(self) -> bool:
        """Whether a receipt that verifies covers the entry."""
        return self.proof.size > self.row.seq


@dataclass(frozen=True)
class SiteView:
    """A site; `as_of` is the oldest fresh check run in the score, `last_run` the newest of all, None without any."""

    site: SiteDetail
    score: Score
    as_of: datetime | None
    last_run: datetime | None
    appliances: Sequence[ApplianceView]
    checks: Sequence[CheckView]
    checks_cut: bool
    open_incidents: int
    incidents: Sequence[Incident]
    waivers: Sequence[Waiver]
    evidence: Sequence[EvidenceView]
    proofs: Sequence[Proof]
    flagged: Sequence[Flagged]
    forks: int
    faults: Sequence[Fault]

    @property
    def online(self) -> int:
        """How many of the appliances are online."""
        return [appliance.state for appliance in self.appliances].count(Liveness.ONLINE)


def build(context: Context, rows: Rows, now: datetime) -> SiteView:
    """Return the site as its page shows it."""
    hostnames = {each.id: each.hostname for each in rows.appliances}
    used = {(bundle.site_id, bundle.log_id): None for bundle in rows.bundles} | _newest(rows.logs)
    proofs = {place: prove(context, rows.logs[place], hostnames) for place in used}
    total, newest = rows.incidents
    return SiteView(
        site=rows.site,
        score=compliance.score(rows.states, (each.id for each in rows.appliances)),
        as_of=min((state.seen_at for state in rows.states if state.counts), default=None),
        last_run=max((state.seen_at for state in rows.states), default=None),
        appliances=[_appliance(row, now) for row in rows.appliances],
        checks=sorted((_check(state, rows.waivers) for state in rows.states), key=_badness),
        checks_cut=len(rows.states) >= rows.check_limit,
        open_incidents=total,
        incidents=newest,
        waivers=rows.waivers,
        evidence=[_evidence(bundle, proofs[bundle.site_id, bundle.log_id]) for bundle in rows.bundles],
        proofs=list(proofs.values()),
        flagged=rows.flagged,
        forks=rows.forks,
        faults=rows.faults,
    )


def _newest(logs: Mapping[tuple[str, int], Log]) -> dict[tuple[str, int], None]:
    """Return the place of the newest log of each appliance, whose receipt an auditor takes away."""
    found = {}
    for place in sorted(logs, key=lambda each: each[1]):
        found[notes.parse_origin(logs[place].origin).appliance] = place
    return dict.fromkeys(found.values())


def prove(context: Context, log: Log, hostnames: Mapping[str, str]) -> Proof:
    """Return what a log's receipt proves, verified against the log's key and the server's witness keys."""
    origin = notes.parse_origin(log.origin)
    witnesses = context.keys.witnesses
    text, receipt, fault = None, None, None
    if log.witness_name is not None and log.witness_name not in witnesses:
        fault = f"this server has no key {log.witness_name}: restore its key file"
    else:
        text = appending.receipt_of(context, log)
    if text is not None:
        receipt, fault = _verify(text, log, witnesses)
    return Proof(
        log=log,
        anchor=f"receipt-{origin.appliance}-{origin.epoch}",
        hostname=hostnames.get(origin.appliance, origin.appliance),
        text=text,
        size=receipt.checkpoint.size if receipt else 0,
        cosigned_at=datetime.fromtimestamp(receipt.cosigned_at, UTC) if receipt else None,
        fault=fault,
    )


def _verify(text: str, log: Log, witnesses: dict[str, bytes]) -> tuple[notes.Receipt | None, str | None]:
    try:
        receipt = notes.read_receipt(text, log.public_key, witnesses)
    except notes.BadNoteError as error:
        return None, str(error)
    if receipt.checkpoint.origin != log.origin:
        return None, "it is another log's"
    if receipt.checkpoint.size == log.size and receipt.checkpoint.root != merkle.root_of(log.compact):
        return None, "it is not over the entries that are stored"
    return receipt, None


def _appliance(row: Appliance, now: datetime) -> ApplianceView:
    age = None
    if row.oldest_at is not None and row.last_checkin is not None:
        age = liveness.oldest_age(row.oldest_at, row.last_checkin, row.clock_offset_ms or 0)
    said = wording.clock(row.clock, row.clock_offset_ms)
    return ApplianceView(
        row=row,
        state=liveness.of(row.last_checkin, now),
        clock=said,
        clock_is_good=row.clock == Clock.SYNC and len(said) == 1,
        oldest_age=age,
    )


def _check(state: CheckState, waivers: Sequence[Waiver]) -> CheckView:
    try:
        title = controls.of(state.check_id).title
    except controls.UnmappedCheckError:
        title = state.check_id
    reasons = (each for each in waivers if each.check_id == state.check_id and each.host_id in (None, state.host_id))
    return CheckView(state, title, state.status if state.fresh else Status.UNKNOWN, next(reasons, None))


def _badness(check: CheckView) -> tuple[int, int, str, str]:
    row = check.row
    return (
        _WORST_FIRST.index(Status(check.status)),
        _GRAVEST_FIRST.index(Severity(row.severity)),
        row.host_id,
        row.check_id,
    )


def _evidence(row: Bundle, proof: Proof) -> EvidenceView:
    own = row.generated_at if row.clock == Clock.SYNC else None
    return EvidenceView(
        row=row,
        hostname=row.host_id or proof.hostname,
        proof=proof,
        moment=own or row.received_at,
        arrived_late=own is not None and abs(row.received_at - own) > _PROMPT,
    )
