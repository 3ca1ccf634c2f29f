"""Orders as an appliance takes them: a small server on a real socket, a real helper in a process of its own."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ccagent import (
    alarms,
    directives,
    evidence,
    helper_client,
    identity,
    opening,
    order_book,
    order_clock,
    orders_in,
    queue,
    scrubbing,
)
from ccagent.alarms import Alarm
from ccagent.client import Client, RequestError
from ccagent.clock import ClockWatch
from ccagent.config import BackupSettings, ChecksSettings, Config
from ccagent.directives import Directives
from ccagent.evidence import Beginning
from ccagent.healing import Healer
from ccagent.helper import pinning
from ccagent.helper.pinned import Pin
from ccagent.host import Host
from ccagent.identity import Identity
from ccagent.order_judging import Orders
from ccagent.places import Places
from ccagent.policy import InForce
from ccagent.queue import Epoch, HeldReceipt
from ccagent.store import Store
from ccagent.uploader import Pace
from ccshared import ed25519, notes, orders
from ccshared.messages import ServerKey
from ccshared.orders import SignedOrder
from ccshared.runbooks import Runbook
from tests.agent import root_helper
from tests.agent.directing import (
    NAME,
    give_order,
    give_policy,
    now_ms,
    order_of,
    policy_of,
    runbook,
    sign_order,
    sign_policy,
)
from tests.agent.root_helper import RootHelper
from tests.agent.witness_app import APPLIANCE, SERVER, SITE, Log, Witness, running

EPOCH = "1-0a0b0c0d"


class Appliance:
    """An enrolled appliance with a receipted log, whose runbook leaves a line and a fresh backup's status."""

    def __init__(self, folder: Path, server: Witness, helper: RootHelper) -> None:
        self.folder, self.server, self.helper = folder, server, helper
        self.places = Places(folder / "state")
        self.store = Store.open(self.places)
        self.watch = ClockWatch()
        self.device = device = server.known_device()
        keys = [ServerKey.model_validate(key) for key in server.server_keys()]
        known = Identity(
            server=SERVER,
            server_url=server.url,
            site_id=SITE,
            appliance_id=APPLIANCE,
            public_key=server.device_key.hex(),
            keys=keys,
            enrolled_at_ms=1,
        )
        identity.save(self.places, known)
        self.client = Client(server.url, device)
        self.status = folder / "backup.json"
        self.status.write_text(self.said("2020-01-01T00:00:00Z"))
        mended = folder / "mended.json"
        mended.write_text(self.said(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())))
        self.book = runbook("run-backup", "/bin/sh", "-c", f"echo ran >> {helper.ran}; cp {mended} {self.status}")
        self.healer = Healer(
            store=self.store,
            watch=self.watch,
            scrub_key=scrubbing.load_key(folder / "scrub.key"),
            config=Config(checks=ChecksSettings(backup=BackupSettings(status_file=self.status))),
            ask=partial(helper_client.ask, helper.socket),
            host=lambda: Host("clinic-1", Path("/"), path=os.environ["PATH"], privileged=False),
        )
        made = policy_of(self.book, runbook("look", action="run_checks_now", families=[], proves=None))
        self.healer.in_force = InForce(made, sign_policy(server, made))
        self.orders = Orders(self.healer, self.client, self.places, {"run_checks_now": self.look}, self.policy_now)
        self.policies = 0

    def said(self, moment: str) -> str:
        return json.dumps({"last_backup": moment, "last_restore_test": moment, "checksum": "ab" * 32})

    async def look(self, _: object) -> str:
        return "6 pass"

    async def policy_now(self) -> None:
        self.policies += 1

    def begin_log(self, cosigned_at_s: int | None) -> None:
        began = Beginning("enrolment", "ab" * 32, None, 1, "0.1.0")
        epoch = Epoch(EPOCH, f"{SERVER}/log/{APPLIANCE}/{EPOCH}", "ab" * 32, 1)
        self.store.write_now(queue.open_epoch, epoch, evidence.genesis(self.watch.stamp(), began))
        if cosigned_at_s is not None:
            line = self.store.read(queue.lines, EPOCH, 0, 1, 10**6)[0]
            checkpoint = notes.Checkpoint(epoch.origin, 1, self.store.read(queue.root_at, EPOCH, 1))
            held = self.server.cosign(notes.sign_checkpoint(checkpoint, self.device.seed))
            self.server.logs[EPOCH] = Log(self.server.device_key, epoch.origin, [line], held)
            self.store.write_now(queue.acknowledge, EPOCH, HeldReceipt(1, held, cosigned_at_s, 1))

    async def attend(self) -> None:
        await orders_in.attend(self.orders)

    def results(self, order_id: str) -> list[dict[str, Any]]:
        return [said for name, said in self.server.results if name == order_id]

    def sealed(self) -> list[dict[str, Any]]:
        lines = self.store.read(queue.lines, EPOCH, 1, 1000, 10**9)
        entries = [json.loads(line) for line in lines if isinstance(line, bytes)]
        return [one["body"] for one in entries if one["kind"] == "order_result"]


@pytest.fixture
def server() -> Iterator[Witness]:
    with running(Witness()) as made:
        yield made


@pytest.fixture
async def appliance(tmp_path: Path, server: Witness) -> AsyncIterator[Appliance]:
    with root_helper.standing() as helper:
        keys = [ServerKey.model_validate(key) for key in server.server_keys()]
        pinning.pin(helper.state_dir, Pin(server=SERVER, site=SITE, appliance=APPLIANCE, keys=keys), replace=True)
        helper.start()
        made = Appliance(tmp_path, server, helper)
        made.begin_log(int(time.time()) - 60)
        with contextlib.closing(made.store):
            async with made.client:
                yield made


async def test_an_order_runs_once_is_proved_by_its_check_and_told(appliance: Appliance) -> None:
    order = give_order(appliance.server, order_of(appliance.book))
    await appliance.attend()
    await appliance.attend()
    assert appliance.helper.lines() == ["ran"]
    done = appliance.results(order)[-1]
    assert (done["status"], done["proved"], done["steps"][0]["exit_code"]) == ("succeeded", "pass", 0)
    (proof,) = appliance.sealed()
    assert (proof["order"], proof["status"], proof["proved"]) == (order, "succeeded", "pass")
    assert appliance.server.order_status[order] == "succeeded"


async def test_an_order_whose_check_still_fails_has_failed(appliance: Appliance) -> None:
    book = runbook("run-backup", "/bin/true")
    made = policy_of(book)
    appliance.healer.in_force = InForce(made, sign_policy(appliance.server, made))
    order = give_order(appliance.server, order_of(book))
    await appliance.attend()
    done = appliance.results(order)[-1]
    assert (done["status"], done["proved"]) == ("failed", "fail")


async def test_what_the_agent_does_itself_needs_no_helper(appliance: Appliance) -> None:
    appliance.helper.end()
    assert appliance.healer.in_force is not None
    order = give_order(appliance.server, order_of(appliance.healer.in_force.policy.runbooks[1]))
    await appliance.attend()
    done = appliance.results(order)[-1]
    assert (done["status"], done["steps"][0]["output"]) == ("succeeded", "6 pass")


async def refused(appliance: Appliance, name: str, envelope: dict[str, Any], why: str) -> None:
    """Offer something as an order; nothing of it runs, nothing is told to the server, and it is in evidence once."""
    appliance.server.orders[name] = envelope
    await appliance.attend()
    await appliance.attend()
    assert appliance.helper.lines() == []
    assert appliance.results(name) == []
    (proof,) = appliance.sealed()
    assert (proof["order"], proof["status"]) == (None, "rejected")
    assert why in proof["reason"]
    assert alarms.ORDER_REFUSED in {one.name for one in appliance.store.read(alarms.standing, now_ms())}


async def test_a_forged_order_is_refused_and_does_not_end_the_one_that_it_imitates(appliance: Appliance) -> None:
    made = order_of(appliance.book)
    await refused(appliance, made.id, sign_order(appliance.server, made, ed25519.new_seed()), "not signed")
    appliance.server.orders[made.id] = sign_order(appliance.server, made)
    await appliance.attend()
    assert appliance.server.order_status[made.id] == "succeeded"


async def test_an_order_by_a_key_that_was_rotated_away_is_refused(appliance: Appliance) -> None:
    known = identity.load(appliance.places)
    assert known is not None
    newer = ServerKey(use="order", name=f"{SERVER}/server/o2", public_key=ed25519.public_key(b"2" * 32).hex())
    identity.save(appliance.places, known.model_copy(update={"keys": [*known.keys, newer]}))
    made = order_of(appliance.book)
    await refused(appliance, made.id, sign_order(appliance.server, made), "not by the order key that signs now")


@pytest.mark.parametrize("changes", [{"appliance": "appliance-2"}, {"site": "site-2"}])
async def test_a_retargeted_order_is_refused(appliance: Appliance, changes: dict[str, str]) -> None:
    made = replace(order_of(appliance.book), **changes)  # type: ignore[arg-type]
    await refused(appliance, made.id, sign_order(appliance.server, made), "another appliance")


async def test_a_policy_is_no_order(appliance: Appliance) -> None:
    await refused(appliance, "x", sign_policy(appliance.server, policy_of()), "no order of our server's")


@pytest.mark.parametrize("field", ["payload", "payloadType", "signatures"])
async def test_a_truncated_or_altered_envelope_is_refused(appliance: Appliance, field: str) -> None:
    made = sign_order(appliance.server, order_of(appliance.book))
    made[field] = made[field][:-4] if isinstance(made[field], str) else []
    await refused(appliance, "x", made, "no order of our server's")


def mutations(value: Any) -> Iterator[Any]:
    """Yield a JSON value with each byte of its text changed, each member gone, and one more put in, one at a time."""
    if isinstance(value, str):
        for at, letter in enumerate(value):
            yield value[:at] + ("B" if letter == "A" else "A") + value[at + 1 :]
            yield value[:at] + value[at + 1 :]
    elif isinstance(value, list):
        yield []
        yield value * 2
        for other in mutations(value[0]):
            yield [other]
    else:
        yield {**value, "more": 1}
        for name in value:
            yield {other: value[other] for other in value if other != name}
            for other in mutations(value[name]):
                yield {**value, name: other}


def test_an_order_with_any_byte_or_member_changed_is_none(appliance: Appliance) -> None:
    known = identity.load(appliance.places)
    assert known is not None
    signed = sign_order(appliance.server, order_of(appliance.book))
    assert orders.read(signed, known.signers(signed)).runbook == "run-backup"
    count = 0
    for other in mutations(signed):
        with pytest.raises(orders.BadOrderError):
            orders.read(other, known.signers(other))
        count += 1
    assert count > 900


async def rejected(appliance: Appliance, made: SignedOrder, why: str) -> None:
    """Give an order that is signed and for us, and see that it is not run, told to the server, and in evidence."""
    order = give_order(appliance.server, made)
    await appliance.attend()
    await appliance.attend()
    assert appliance.helper.lines() == []
    assert [said["status"] for said in appliance.results(order)] == ["rejected"]
    (proof,) = appliance.sealed()
    assert (proof["order"], proof["status"]) == (order, "rejected")
    assert why in proof["reason"]


async def test_an_expired_order_is_rejected_by_the_order_clock_whatever_the_wall_clock_says(
    appliance: Appliance,
) -> None:
    at_ms = now_ms() + 7_200_000
    appliance.store.write_now(order_clock.hold, appliance.watch.boot(), at_ms)
    await rejected(appliance, order_of(appliance.book), "expired")


async def acknowledged(appliance: Appliance, order: str) -> None:
    while appliance.server.order_status.get(order) != "acknowledged":  # noqa: ASYNC110  it is another thread's
        await asyncio.sleep(0.01)


async def test_an_order_that_expires_while_another_repair_goes_on_is_rejected(appliance: Appliance) -> None:
    order = give_order(appliance.server, order_of(appliance.book))
    async with appliance.healer.hands:
        attending = asyncio.create_task(appliance.attend())
        async with asyncio.timeout(20):
            await acknowledged(appliance, order)
        appliance.store.write_now(order_clock.hold, appliance.watch.boot(), now_ms() + 7_200_000)
    await attending
    assert [said["status"] for said in appliance.results(order)] == ["rejected"]
    assert (appliance.helper.lines(), appliance.sealed()[0]["reason"]) == ([], "expired")


async def test_an_order_from_before_the_log_began_is_rejected(appliance: Appliance) -> None:
    before = now_ms() - 120_000
    await rejected(appliance, order_of(appliance.book, issued_ms=before), "before this appliance's log began")


async def test_nothing_runs_while_a_clone_is_suspected(appliance: Appliance) -> None:
    appliance.store.write_now(alarms.sound, Alarm(alarms.CLONE, "two logs", 1), None)
    await rejected(appliance, order_of(appliance.book), "another copy")


async def test_an_unknown_runbook_or_digest_is_rejected_after_a_look_at_the_newest_policy(
    appliance: Appliance,
) -> None:
    await rejected(appliance, order_of(runbook("run-backup", "/bin/false")), "not in the catalogue")
    assert appliance.policies == 1


async def test_while_healing_is_stopped_an_order_that_runs_steps_is_rejected(appliance: Appliance) -> None:
    made = policy_of(mode="stop")
    appliance.healer.in_force = InForce(made, sign_policy(appliance.server, made))
    await rejected(appliance, order_of(runbook()), "stopped")


async def test_a_runbook_for_people_is_rejected(appliance: Appliance) -> None:
    book = runbook("encrypt", people_only=True)
    made = policy_of(book)
    appliance.healer.in_force = InForce(made, sign_policy(appliance.server, made))
    await rejected(appliance, order_of(book), "people only")


@pytest.mark.parametrize("value", ["x; rm -rf /", True, 7, "-o", "$(id)", "a/b"])
async def test_parameters_of_the_wrong_type_or_with_a_shells_characters_are_rejected(
    appliance: Appliance, value: Any
) -> None:
    unit = {"name": "unit", "kind": "word", "about": "a unit"}
    steps = [{"argv": ["/bin/echo", "{unit}"], "time_limit_s": 5, "about": "say"}]
    book = runbook("run-backup", parameters=[unit], variants=[{"platform": "any", "steps": steps}])
    made = policy_of(book)
    appliance.healer.in_force = InForce(made, sign_policy(appliance.server, made))
    signed = order_of(book, parameters={"unit": "good"})
    order = give_order(appliance.server, signed)
    appliance.server.orders[order] = resigned(appliance.server, signed, value)
    await appliance.attend()
    assert appliance.helper.lines() == []
    assert [proof["status"] for proof in appliance.sealed()] == ["rejected"]


def resigned(server: Witness, made: SignedOrder, value: Any) -> dict[str, Any]:
    """Return an order with a parameter that our own code would not sign."""
    from ccshared import envelope

    body = orders.make(made) | {"parameters": {"unit": value}}
    return envelope.sign(envelope.PayloadType.ORDER, body, server.order_seed, NAME).to_json()


async def test_an_order_is_kept_back_until_the_log_has_a_receipt(tmp_path: Path, server: Witness) -> None:
    with root_helper.standing() as helper:
        made = Appliance(tmp_path, server, helper)
        made.begin_log(None)
        with contextlib.closing(made.store):
            made.store.write_now(order_clock.hold, made.watch.boot(), now_ms())
            async with made.client:
                give_order(server, order_of(made.book))
                await made.attend()
                assert server.order_status == {}
                assert made.sealed() == []


async def test_an_order_issued_later_than_anything_signed_waits(appliance: Appliance) -> None:
    late = now_ms() + 3_000_000
    give_order(appliance.server, order_of(appliance.book, issued_ms=late, expires_ms=late + 3_600_000))
    await appliance.attend()
    assert appliance.server.order_status == {}
    assert appliance.helper.lines() == []


@pytest.mark.parametrize("how", ["ahead", "other", "stranger", "double"])
async def test_nothing_runs_while_the_server_holds_entries_that_were_not_made_here(
    appliance: Appliance, how: str
) -> None:
    """A store put back from a copy, or a clone: the upload finds it out, and until then orders wait."""
    held = appliance.server.logs[EPOCH]
    if how == "ahead":
        held.lines.append(held.lines[0])
    elif how == "other":
        wrong = notes.Checkpoint(held.origin, 1, b"\x07" * 32)
        held.receipt = appliance.server.cosign(notes.sign_checkpoint(wrong, appliance.device.seed))
    else:
        number = {"stranger": 2, "double": 1}[how]
        appliance.server.logs[f"{number}-0badc0de"] = Log(held.key, held.origin, held.lines, held.receipt)
    give_order(appliance.server, order_of(appliance.book))
    await appliance.attend()
    assert appliance.helper.lines() == []
    assert appliance.server.order_status == {}


async def test_a_cancellation_is_heard_at_the_latest_when_it_is_acknowledged(appliance: Appliance) -> None:
    made = order_of(appliance.book)
    appliance.server.orders["delivered"] = sign_order(appliance.server, made)
    appliance.server.orders[made.id] = {}
    appliance.server.order_status[made.id] = "cancelled"
    await appliance.attend()
    assert appliance.helper.lines() == []


async def test_of_two_copies_the_one_that_took_an_order_runs_it(appliance: Appliance) -> None:
    made = order_of(appliance.book)
    give_order(appliance.server, made)
    appliance.server.takers[made.id] = "f" * 32  # a copy took it that was made before the order came
    await appliance.attend()
    assert (appliance.helper.lines(), appliance.store.read(order_book.known, made.id)) == ([], None)
    appliance.server.takers[made.id] = appliance.store.write_now(order_book.taker, made)
    await appliance.attend()
    assert len(appliance.helper.lines()) == 1


async def test_an_order_that_an_earlier_copy_began_is_not_begun_again(appliance: Appliance) -> None:
    made = order_of(appliance.book)
    appliance.server.order_status[made.id] = "running"
    await rejected(appliance, made, "earlier copy")


async def test_a_result_is_told_until_it_is_answered_and_the_order_not_run_again(appliance: Appliance) -> None:
    order = give_order(appliance.server, order_of(appliance.book))
    appliance.server.tricks["result"].extend(["503"] * 4)
    with pytest.raises(RequestError):
        await appliance.attend()
    assert len(appliance.store.read(order_book.unanswered)) == 1
    appliance.server.tricks["result"].clear()
    await appliance.attend()
    assert appliance.server.order_status[order] == "succeeded"
    assert appliance.store.read(order_book.unanswered) == []
    assert appliance.helper.lines() == ["ran"]


async def test_a_result_that_the_server_lost_is_told_again(appliance: Appliance) -> None:
    order = give_order(appliance.server, order_of(appliance.book))
    await appliance.attend()
    appliance.server.order_status[order] = "acknowledged"  # as a database put back would have it
    await appliance.attend()
    assert appliance.server.order_status[order] == "succeeded"
    assert appliance.helper.lines() == ["ran"]
    assert len(appliance.sealed()) == 1


async def test_another_order_by_a_known_id_is_refused(appliance: Appliance) -> None:
    made = order_of(appliance.book)
    give_order(appliance.server, made)
    await appliance.attend()
    appliance.server.orders["again"] = sign_order(appliance.server, replace(made, expires_ms=made.expires_ms + 1))
    await appliance.attend()
    assert appliance.helper.lines() == ["ran"]
    assert [proof["status"] for proof in appliance.sealed()] == ["succeeded", "rejected"]


async def test_without_a_helper_an_order_is_rejected_after_a_while(
    appliance: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders_in, "NO_HELPER_S", 0.0)
    appliance.helper.end()
    await rejected(appliance, order_of(appliance.book), "no helper runs here")


async def test_an_ordered_repair_settles_the_incident_and_teaches_the_planner(appliance: Appliance) -> None:
    from ccagent import incidents, patrol

    config = appliance.healer.config.checks
    summary = await patrol.round(
        patrol.Patrol(
            appliance.store, appliance.watch, appliance.healer.host(), config, appliance.healer.scrub_key, "1"
        )
    )
    assert summary.opened
    incident = next(one for one in appliance.store.read(incidents.open_rows) if one.check == "backup")
    give_order(appliance.server, order_of(appliance.book))
    await appliance.attend()
    assert "backup" not in {one.check for one in appliance.store.read(incidents.open_rows)}
    assert appliance.store.read(incidents.planned_before, incident.pattern_signature) == [("run-backup", 1, 1)]


def cut(appliance: Appliance, book: Runbook) -> SignedOrder:
    """Return an order that is recorded as begun, and no more: what a crash right then leaves."""
    made = order_of(book)
    appliance.store.write_now(order_book.start, made, "ab" * 32, now_ms())
    return made


async def test_an_order_cut_short_before_the_helper_heard_of_it_has_failed_for_good(appliance: Appliance) -> None:
    made = cut(appliance, appliance.book)
    give_order(appliance.server, made)
    await orders_in.finish_interrupted(appliance.orders)
    await appliance.attend()
    assert appliance.helper.lines() == []
    assert appliance.server.order_status[made.id] == "failed"
    assert "interrupted" in appliance.sealed()[0]["reason"]


async def test_an_order_that_the_helper_finished_while_the_agent_was_away_has_its_outcome(
    appliance: Appliance,
) -> None:
    made = cut(appliance, appliance.book)
    envelope = sign_order(appliance.server, made)
    from ccshared import runbooks

    answer = await appliance.healer.ask(
        {"ask": "order", "envelope": envelope, "runbook": runbooks.to_dict(appliance.book)}
    )
    assert answer["status"] == "succeeded"
    give_order(appliance.server, made)
    await orders_in.finish_interrupted(appliance.orders)
    await appliance.attend()
    assert appliance.helper.lines() == ["ran"]
    assert appliance.server.order_status[made.id] == "succeeded"


async def test_ids_are_kept_until_thirty_days_past_expiry(appliance: Appliance) -> None:
    made = order_of(appliance.book)
    give_order(appliance.server, made)
    await appliance.attend()
    day = 24 * 3_600_000
    prune: Callable[[int], int] = lambda at_ms: appliance.store.write_now(order_book.prune, at_ms)  # noqa: E731
    assert prune(made.expires_ms + 30 * day) == 0
    assert prune(made.expires_ms + 30 * day + 1) == 1


def test_a_salvaged_store_still_knows_what_ran(appliance: Appliance) -> None:
    made = cut(appliance, appliance.book)
    appliance.store.write_now(order_clock.hold, appliance.watch.boot(), 2_000_000_000_000)
    opening.mend(appliance.store, appliance.watch.stamp(), "as a damaged page would have it")
    kept = appliance.store.read(order_book.known, made.id)
    assert kept is not None
    assert kept.status == "running"
    assert appliance.store.read(order_clock.now_ms, appliance.watch.boot()) >= 2_000_000_000_000


async def test_a_policy_that_could_not_be_fetched_is_fetched_again_before_the_next_check_in(
    appliance: Appliance,
) -> None:
    healer, taken = appliance.healer, asyncio.Event()
    pace = Pace(uniform=lambda _least, _most: 0.05)
    these = Directives(healer, appliance.places, healer.config, pace, {}, changed=taken.set)
    these.policy_wanted.set()
    following = asyncio.create_task(directives.follow_policy(these, appliance.client))
    await asyncio.sleep(0.3)  # the server has none to give
    give_policy(appliance.server, policy_of(appliance.book, mode="stop"))
    async with asyncio.timeout(20):
        await taken.wait()
    following.cancel()
    assert healer.in_force is not None
    assert healer.in_force.policy.mode == "stop"
