"""The agent as it runs: loops that patrol, check in, deliver and mirror, each mended by itself when it breaks."""

import asyncio
import contextlib
import logging
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ccagent import (
    alarms,
    attempts,
    budget,
    clock,
    control,
    directives,
    enrolment,
    errands,
    helper_client,
    identity,
    line,
    metrics,
    mirror,
    opening,
    patrol,
    queue,
    repairing,
    report,
    retention,
    rotation,
    scrubbing,
)
from ccagent.client import Cause, Client, RequestError
from ccagent.clock import ClockWatch
from ccagent.config import Config
from ccagent.directives import Directives
from ccagent.healing import Healer
from ccagent.host import Host
from ccagent.identity import Enrolment, IdentityUnusableError
from ccagent.places import Places
from ccagent.queue import Epoch
from ccagent.report import Vitals
from ccagent.scrubbing import ScrubKeyError
from ccagent.store import (
    DamagedError,
    Store,
    StoreDamagedError,
    StoreFailedError,
    StoreInUseError,
    StoreUnusableError,
)
from ccagent.uploader import Pace, Uniform, Uploader, asked_s, wait_s
from ccshared import logs, notify
from ccshared.messages import Checkin
from ccshared.runbooks import Value

log = logging.getLogger(__name__)

RESTART_S = 10.0
LOOK_S = 3.0  # how often to look whether somebody enrolled
STOP_S = 3.0
CHECKIN_S = (5.0, 3600.0)
MIRROR_S = 60.0
KEEP_S = 30.0
METRICS_S = 60.0
PRUNE_S = 3600.0
PRUNE_BLOCKS = 16  # of 256 rows, an hour: far more than an hour makes

# What has its sentence for the log and needs no trace.
_SPOKEN = (RequestError, IdentityUnusableError, ScrubKeyError, StoreFailedError, StoreUnusableError, DamagedError)

Loop = Callable[[], Awaitable[None]]


class RecentLog(logging.Handler):
    """The last lines of the log, for whoever asks for support."""

    def __init__(self, most: int = 500) -> None:
        super().__init__()
        self.setFormatter(logs.Lines("text"))
        self.lines: deque[str] = deque(maxlen=most)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(self.format(record)[:2000])


@dataclass
class Agent:
    """What the loops share. `found` is set after each patrol, `look` asks for one now.

    `mirror_now` and `checkin_now` end a wait: there is news, or the server may be reached again. `pace` is where the
    loops take chance and time from; `hostname` and `checkin_every_s`, where given, go before this machine's name and
    the server's wish.
    """

    config: Config
    places: Places
    store: Store
    scrub_key: bytes
    vitals: Vitals
    watch: ClockWatch = field(default_factory=ClockWatch)
    look: asyncio.Event = field(default_factory=asyncio.Event)
    found: asyncio.Event = field(default_factory=asyncio.Event)
    mirror_now: asyncio.Event = field(default_factory=asyncio.Event)
    checkin_now: asyncio.Event = field(default_factory=asyncio.Event)
    recent: RecentLog = field(default_factory=RecentLog)
    uploader: Uploader | None = None
    pace: Pace = field(default_factory=Pace)
    hostname: str | None = None
    checkin_every_s: float | None = None
    healer: Healer = field(init=False)
    directives: Directives = field(init=False)

    def __post_init__(self) -> None:
        """Make what heals here; the policy that was in force is in force again."""
        self.healer = Healer(
            store=self.store,
            watch=self.watch,
            scrub_key=self.scrub_key,
            config=self.config,
            ask=partial(helper_client.ask, self.config.helper.socket),
            host=partial(Host.here, self.config.helper.socket),
            planners=errands.planners(self.config.planner),
            repaired=self.look.set,
        )
        self.directives = Directives(
            healer=self.healer,
            places=self.places,
            config=self.config,
            pace=self.pace,
            errands={
                "run_checks_now": partial(_checks_now, self),
                "collect_support_bundle": partial(_support_bundle, self),
                "clear_suppressions": partial(_clear_by_order, self),
            },
            changed=partial(_policy_changed, self),
        )
        with contextlib.suppress(IdentityUnusableError):
            self.directives.load()
        self.vitals.mode = self.healer.mode


async def run(config: Config, places: Places) -> None:
    """Run until SIGTERM or SIGINT; then stop within 5 s and leave neither socket nor lock.

    StoreInUseError, StoreUnusableError and ScrubKeyError before it begins.
    """
    with contextlib.closing(await _open_store(places)) as store:
        agent = open_agent(config, places, store)
        with _kept_log(agent.recent), _stop_signals() as stop:
            async with control.serving(places, partial(_answer, agent)), notify.ready():
                log.info("running on %s", places.state_dir)
                loops = {
                    "patrol": partial(_patrol, agent),
                    "healing": partial(repairing.work, agent.healer),
                    "network": partial(_network, agent),
                    "keep": partial(_keep, agent),
                    "line": partial(_line, agent),
                    "metrics": partial(_metrics, agent),
                }
                await together(stop.wait(), loops)
    log.info("stopped")


def open_agent(config: Config, places: Places, store: Store) -> Agent:
    """Return what one agent shares between its loops."""
    scrub_key = scrubbing.load_key(places.scrub_key)
    return Agent(config, places, store, scrub_key, Vitals(started_at_ms=clock.now_ms()))


async def patrol_once(agent: Agent) -> patrol.Summary:
    """Do one round of all checks, and tell whoever waits for what it found."""
    known = identity.load(agent.places)
    summary = await patrol.round(
        patrol.Patrol(
            store=agent.store,
            watch=agent.watch,
            host=Host.here(agent.config.helper.socket),
            checks=agent.healer.config.checks,
            scrub_key=agent.scrub_key,
            version=identity.version(),
            site_id=known.site_id if known else None,
            healer=agent.healer,
        )
    )
    agent.vitals.last_patrol_at_ms = summary.at_ms
    agent.vitals.clock = str(agent.watch.stamp()[1])
    agent.found.set()
    if summary.opened:
        agent.mirror_now.set()  # what just broke is told at once, even while the server was out of reach a moment ago
    if agent.uploader is not None:
        agent.uploader.wake.set()
    return summary


async def heal_once(agent: Agent, client: Client | None = None) -> patrol.Summary:
    """Do one round, and what it found due; where something was repaired, look again. The first round is returned."""
    await repairing.recover(agent.healer)
    if client is not None:
        await directives.once(agent.directives, client)
    summary = await patrol_once(agent)
    if await repairing.work_off(agent.healer):
        await patrol_once(agent)
    return summary


async def check_in(agent: Agent, client: Client) -> float:
    """Say once how this appliance is; return in how many seconds the server wants to hear again."""
    at_ms, watched = agent.watch.stamp()
    kept = agent.store.read(queue.status)
    answer = await client.checkin(
        Checkin(
            version=identity.version(),
            hostname=agent.hostname or enrolment.scrubbed_hostname(agent.scrub_key),
            sent_at_ms=at_ms,
            clock=watched,
            epoch=kept.epoch,
            size=kept.size,
            waiting=kept.waiting,
            waiting_bytes=kept.waiting_bytes,
            oldest_at_ms=kept.oldest_at_ms,
            alarms=sorted({alarm.name for alarm in report.standing_alarms(agent.store, agent.vitals, at_ms)})[:16],
        )
    )
    agent.watch.heard_server(answer.server_at_ms)
    agent.vitals.clock = str(agent.watch.stamp()[1])
    agent.vitals.last_checkin_at_ms = agent.pace.now_ms()
    agent.vitals.checkin_error = None
    _keep_as_long(agent.places, answer.backup_window_days)
    agent.directives.heard(answer)
    return agent.checkin_every_s or answer.next_checkin_s


def _keep_as_long(places: Places, backup_window_days: int) -> None:
    """Write down how old a backup the server may be put back from: so long evidence is kept, also after a restart."""
    known = identity.load(places)
    if known is not None and known.backup_window_days != backup_window_days:
        identity.save(places, known.model_copy(update={"backup_window_days": backup_window_days}))


def checkin_pause_s(
    error: RequestError | None, failures: int, interval_s: float, uniform: Uniform = Pace.uniform
) -> float:
    """Return when to check in again: at the interval, later where the server or a person's task asks for it."""
    if error is not None and error.cause == Cause.CONFIGURATION:
        return max(wait_s(error, failures, uniform), interval_s * 0.9)
    asked = asked_s(error, uniform) if error is not None else None
    if asked is not None:
        return max(asked, interval_s * 0.9)
    pause = min(max(interval_s, CHECKIN_S[0]), CHECKIN_S[1])
    # Whoever was cut off together, or switched on together, shall not come back together.
    return pause * (uniform(0.9, 1.1) if error is None else uniform(0.5, 1.5))


def nudge(agent: Agent, *, person: bool = False) -> None:
    """Let all that waits for the server try now: its line may be back, or a `person` asks, which ends any wait."""
    agent.mirror_now.set()
    agent.checkin_now.set()
    if agent.uploader is not None:
        agent.uploader.line_changed.set()
        if person:
            agent.uploader.try_now.set()
            agent.uploader.wake.set()


def _answer(agent: Agent, request: dict[str, Any]) -> dict[str, Any]:
    match request.get("ask"):
        case "flush":
            nudge(agent, person=True)
            return {"flushing": agent.uploader is not None}
        case "rotate-key":
            return rotation.answer(agent.store, agent.places, agent.watch.stamp())
        case "log":
            return {"lines": list(agent.recent.lines)}
        case "clear-suppressions":
            return {"cleared": _clear(agent, request.get("check"), request.get("runbook"))}
        case "end-alarm":
            return {"ended": agent.store.write_now(alarms.end, str(request.get("name")), clock.now_ms())}
        case _:
            return report.answer(request, agent.places, agent.store, agent.vitals)


def _clear(agent: Agent, check: object, runbook: object) -> int:
    """Let what is suppressed be tried again, and look at once; an alarm that told of it is over with the last."""
    named = runbook if isinstance(runbook, str) else None
    cleared = agent.store.write_now(attempts.clear, str(check), named)
    if not agent.store.read(attempts.suppressions):
        agent.store.write_now(alarms.forget, alarms.SUPPRESSED)
    agent.look.set()
    return cleared


async def _clear_by_order(agent: Agent, told: Mapping[str, Value]) -> str:
    """Let what is suppressed for a check be tried again; return in words how much that was."""
    return f"{_clear(agent, told['check'], None)} cleared"


def _policy_changed(agent: Agent) -> None:
    agent.vitals.mode = agent.healer.mode
    agent.look.set()


async def _checks_now(agent: Agent, _: object) -> str:
    """Do a round for an order; return in words what it found."""
    summary = await patrol_once(agent)
    said = [str(one.status) for one in summary.findings]
    return ", ".join(f"{said.count(word)} {word}" for word in ("pass", "fail", "unknown"))


async def _support_bundle(agent: Agent, _: object) -> str:
    """Put a support bundle where a technician finds it; return where."""
    return await errands.support_bundle(agent.places, agent.store, agent.vitals, list(agent.recent.lines))


async def _open_store(places: Places) -> Store:
    """Open the store; a command that only looks may hold it for a moment."""
    for _ in range(20):
        with contextlib.suppress(StoreInUseError):
            return opening.open_store(places, ClockWatch().stamp())
        await asyncio.sleep(0.1)
    return opening.open_store(places, ClockWatch().stamp())


async def _patrol(agent: Agent) -> None:
    while True:
        next_at = clock.boottime() + agent.healer.config.agent.patrol_interval_s
        agent.look.clear()
        await patrol_once(agent)
        await heard(agent.look, max(1.0, next_at - clock.boottime()))


def tend(agent: Agent) -> None:
    """Keep the store's files in order, and mend it when what it says is not what was put there."""
    try:
        agent.store.tend()
        trouble = "a row is not what was put there" if agent.store.is_damaged else None
    except StoreDamagedError as error:
        trouble = str(error)
    if trouble is not None:
        opening.mend(agent.store, agent.watch.stamp(), trouble)
        agent.look.set()  # the new log begins with what is known


async def prune(agent: Agent) -> int:
    """Let rows leave that were receipted long enough ago, so many at a time; return how many did.

    Neither a server's clock that ran ahead nor this machine's own may cost a payload: both must agree that it is time.
    """
    known = identity.load(agent.places)
    keep_ms = retention.keep_ms(known.backup_window_days if known else 0)
    wall_ms, _ = agent.watch.stamp()
    before_ms = agent.store.read(retention.now_ms, wall_ms) - keep_ms
    left = 0
    for _ in range(PRUNE_BLOCKS):
        gone = await agent.store.write(retention.prune, before_ms)
        if not gone:
            break
        left += gone
    with contextlib.suppress(OSError, IdentityUnusableError):  # the next round tries again
        identity.forget_earlier(agent.places, agent.store.read(retention.keys_in_use, before_ms))
    return left


async def _keep(agent: Agent) -> None:
    prune_at = clock.boottime()
    while True:
        tend(agent)
        if agent.store.read(budget.may_tell):
            agent.look.set()  # there is room again: what was refused is told of now, not at the next round
        if clock.boottime() >= prune_at:
            prune_at = clock.boottime() + PRUNE_S
            await prune(agent)
            agent.store.write_now(attempts.prune, agent.watch.stamp()[0])
        directives.hold_clock(agent.healer)
        await asyncio.sleep(KEEP_S)


async def _metrics(agent: Agent) -> None:
    """Keep the file that a collector reads, where the settings name one; a folder that refuses stops nothing else."""
    path, refused = agent.config.agent.metrics_file, ""
    while path is not None:
        try:
            metrics.write(path, report.measured(agent.places, agent.store, agent.vitals))
            refused = ""
        except OSError as error:
            if str(error) != refused:
                log.warning("the metrics file is not written: %s", error)
            refused = str(error)
        await asyncio.sleep(METRICS_S)
    await asyncio.Event().wait()


async def _network(agent: Agent) -> None:
    """Speak to the server as whoever this appliance is, from enrolment until it is enrolled anew."""
    while True:
        who = identity.load_enrolment(agent.places)
        if who is None:
            await asyncio.sleep(LOOK_S)
            continue
        log.info("appliance %s of %s", who.identity.appliance_id, who.identity.server_url)
        agent.directives.load()  # this appliance may be another than it was
        agent.vitals.mode = agent.healer.mode
        async with enrolment.connect(who, agent.config.agent.ca_file) as client:
            await together(_enrolled_anew(agent, who), server_loops(agent, who, client))


def server_loops(agent: Agent, who: Enrolment, client: Client) -> dict[str, Loop]:
    """Return the loops that speak to the server as this appliance."""
    agent.healer.planners = directives.planners(client, agent.healer.planners)
    return {
        "policy": partial(directives.follow_policy, agent.directives, client),
        "orders": partial(directives.follow_orders, agent.directives, client),
        "upload": partial(_upload, agent, who, client),
        "check-in": partial(_check_ins, agent, client),
        "mirror": partial(_mirror, agent, client),
    }


async def _enrolled_anew(agent: Agent, who: Enrolment) -> None:
    """Return once the files say that this is another appliance, or none, or that it has another key."""
    while True:
        await asyncio.sleep(LOOK_S)
        known = identity.load_enrolment(agent.places)
        if known is None or known.identity.enrolled_at_ms != who.identity.enrolled_at_ms:
            return
        if (known.keys, known.earlier) != (who.keys, who.earlier):
            return


async def _upload(agent: Agent, who: Enrolment, client: Client) -> None:
    before = agent.store.read(queue.current)
    begun = await _begin_log(agent, client)
    agent.uploader = Uploader(agent.store, client, who, replace(agent.pace, stamp=agent.watch.stamp))
    if before is None or before.epoch != begun.epoch:
        agent.look.set()  # what is known so far becomes evidence now, not at the next round
    try:
        await agent.uploader.run()
    finally:
        agent.uploader = None


async def _begin_log(agent: Agent, client: Client) -> Epoch:
    failures = 0
    while True:
        try:
            return await enrolment.ensure_epoch(agent.store, agent.places, client, agent.watch.stamp())
        except RequestError as error:
            failures += 1
            pause = wait_s(error, failures, agent.pace.uniform)
            log.warning("no log yet, next try in %.0f s: %s", pause, error)
            await asyncio.sleep(pause)


async def _check_ins(agent: Agent, client: Client) -> None:
    interval: float = agent.checkin_every_s or agent.config.agent.checkin_interval_s
    failures, silent = 0, False
    while True:
        try:
            interval = await check_in(agent, client)
        except RequestError as error:
            if str(error) != agent.vitals.checkin_error:
                log.warning("no check-in: %s", error)
            agent.vitals.checkin_error = str(error)
            failures, silent = failures + 1, error.silence
            pause = checkin_pause_s(error, failures, interval, agent.pace.uniform)
        else:
            if silent:  # it was out of reach, and answers now
                nudge(agent)
            failures, silent = 0, False
            pause = checkin_pause_s(None, failures, interval, agent.pace.uniform)
        agent.checkin_now.clear()
        await heard(agent.checkin_now, pause)


async def _mirror(agent: Agent, client: Client) -> None:
    failures, refused = 0, mirror.Refused(boottime=agent.pace.boottime)
    shown_at = -1  # the store's `changes` when all was shown
    while True:
        agent.found.clear()
        agent.mirror_now.clear()
        if (looked_at := agent.store.changes) == shown_at and not refused.until:
            await heard(agent.found, MIRROR_S)
            continue
        try:
            if not await _until(agent.mirror_now, mirror.mirror(agent.store, client, refused)):
                continue  # the line is another: what hung on the one before need not run out of time first
        except RequestError as error:
            failures += 1
            pause = wait_s(error, failures, agent.pace.uniform)
            log.warning("incidents and patterns wait, next try in %.0f s: %s", pause, error)
            await heard(agent.mirror_now, pause)
        else:
            failures, shown_at = 0, looked_at
            await heard(agent.found, MIRROR_S)


async def _line(agent: Agent) -> None:
    """Try at once when the network of this machine changes; where nothing tells of that, the probes have to do."""
    with line.opened() as told:
        if told is None:
            await asyncio.Event().wait()
        else:
            await line.watch(told, partial(nudge, agent))


async def _until(news: asyncio.Event, work: Coroutine[Any, Any, Any]) -> bool:
    """Work to the end, or until there is news, which stops it; return whether it came to its end."""
    working, hearing = asyncio.ensure_future(work), asyncio.ensure_future(news.wait())
    try:
        await asyncio.wait({working, hearing}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = working.done()
        working.cancel()
        hearing.cancel()
        await asyncio.gather(working, hearing, return_exceptions=True)
    if ended:
        working.result()
    return ended


async def heard(event: asyncio.Event, at_most_s: float | None) -> None:
    """Return once an event is set, or after so many seconds; None: wait for the event alone."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(at_most_s):
            await event.wait()


async def together(end: Coroutine[Any, Any, Any], loops: Mapping[str, Loop]) -> None:
    """Keep all loops going until `end` ends; then stop them, and wait no longer than 3 s for any that does not."""
    tasks = [asyncio.create_task(_supervised(name, loop), name=name) for name, loop in loops.items()]
    try:
        await end
    finally:
        for task in tasks:
            task.cancel()
        _, left = await asyncio.wait(tasks, timeout=STOP_S)
        for task in left:
            log.warning("%s did not stop in time", task.get_name())


async def _supervised(name: str, loop: Loop) -> None:
    """Run a loop for ever: when it breaks, say so and begin it again after a pause."""
    while True:
        try:
            await loop()
        except _SPOKEN as error:
            log.warning("%s: %s", name, error)
        except Exception:  # whatever it is, it must not end the others
            log.exception("%s broke", name)
        await asyncio.sleep(RESTART_S)


@contextlib.contextmanager
def _kept_log(recent: RecentLog) -> Iterator[None]:
    logging.getLogger().addHandler(recent)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(recent)


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """Yield an event that SIGTERM and SIGINT set."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
