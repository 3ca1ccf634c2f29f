"""The flywheel: told by appliances, proposed within a partner, decided by people, judged by numbers."""

from typing import Any

import pytest

from ccserver import promoting, promotion, retention, sweeps
from ccshared import policy
from tests.devices import Device, Running
from tests.operators import Operator, audited, type_of, with_key

SIGNATURE = "a" * 16
RUN = "run-backup"
RULE = promotion.rule_id("acme", SIGNATURE, RUN)


def totals(count: int, successes: int, runbook: str = RUN, **more: int) -> dict[str, Any]:
    spent = {"total_resolution_time_ms": count * 1000}
    return {"runbook": runbook, "total_count": count, "success_count": successes, **spent, **more}


def said(revision: int, *runbooks: dict[str, Any], signature: str = SIGNATURE, **more: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("total_count", "l2_count", "success_count", "total_resolution_time_ms"), 9)
    pattern = {
        "pattern_signature": signature,
        "incident_type": "backup_stale",
        "l1_count": 0,
        "l3_count": 0,
        "runbooks": list(runbooks),
        **counts,
    }
    return {"epoch": 1, "revision": revision, "patterns": [pattern], **more}


async def tell(device: Device, revision: int, *runbooks: dict[str, Any], **more: Any) -> None:
    answer = await device.call("PUT", "patterns", json=said(revision, *runbooks, **more))
    assert answer.status_code == 204, answer.text


async def tell_of_rule(device: Device, revision: int, count: int, successes: int) -> None:
    rules = [{"rule": RULE, "total_count": count, "success_count": successes}]
    body = {"epoch": 1, "revision": 1, "patterns": [], "rules": rules, "rules_revision": revision}
    assert (await device.call("PUT", "patterns", json=body)).status_code == 204


async def sweep(server: Running) -> None:
    for one in sweeps.SWEEPS:
        if one.name in ("candidates", "trials"):
            assert (await sweeps.run(server.db, one, retention.Terms())).error is None


async def other(server: Running, partner: str, site: str) -> Device:
    if (partner, site) != ("acme", "acme-clinic"):
        await server.add_site(partner, site)
    return await Device.enrolled(server, partner, site)


async def candidate(device: Device) -> Device:
    """Let two appliances of two sites make a candidate; return the second."""
    second = await other(device.server, "acme", "acme-two")
    await tell(device, 1, totals(3, 3))
    await tell(second, 1, totals(4, 4))
    await sweep(device.server)
    return second


async def decide(who: Operator, verb: str, **body: Any) -> Any:
    etag = (await who.call("GET", f"rules/{RULE}")).headers["etag"]
    return await who.call("POST", f"rules/{RULE}/{verb}", {"If-Match": etag}, json={"comment": "seen", **body})


async def status(who: Operator) -> str | None:
    found = await who.call("GET", f"rules/{RULE}")
    return str(found.json()["status"]) if found.status_code == 200 else None


async def ask(device: Device, *tried: str, signature: str = SIGNATURE) -> Any:
    body = {"pattern_signature": signature, "incident_type": "backup_stale", "host_id": "box", "tried": list(tried)}
    answer = await device.call("POST", "plan", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_what_helped_at_one_site_is_proposed_at_another_of_the_partner_and_never_beyond(device: Device) -> None:
    near, far = await other(device.server, "acme", "acme-two"), await other(device.server, "zeta", "zeta-one")
    await tell(device, 1, totals(4, 4))
    here, there, beyond = await ask(device), await ask(near), await ask(far)
    assert [each["runbook"] for each in (here, there, beyond)] == [RUN, RUN, None]
    assert [each["evidence"].get("level") for each in (here, there, beyond)] == ["appliance", "partner", None]
    assert there["why"] == "it helped 4 of 4 times for this pattern, at 1 site"
    assert (await ask(near, RUN))["runbook"] is None
    assert (await ask(near, signature="b" * 16))["runbook"] is None


async def test_a_candidate_comes_of_two_sites_of_one_partner_and_not_of_two_partners(device: Device) -> None:
    await device.server.add_site("zeta", "zeta-one")
    far = await Device.enrolled(device.server, "zeta", "zeta-one")
    viewer, stranger = await with_key(device.server, "viewer"), await with_key(device.server, "viewer", "zeta")
    await tell(device, 1, totals(3, 3))
    await tell(far, 1, totals(3, 3))
    await sweep(device.server)
    assert [await who.walk("rules") for who in (viewer, stranger)] == [[], []]
    await tell(await other(device.server, "acme", "acme-two"), 1, totals(2, 2))
    await sweep(device.server)
    (rule,) = await viewer.walk("rules")
    assert (rule["id"], rule["status"], rule["runbook_id"]) == (RULE, "candidate", RUN)
    assert (rule["evidence"]["count"], rule["evidence"]["sites"]) == (5, 2)
    assert await stranger.walk("rules") == []


@pytest.mark.parametrize(("loud", "quiet"), [(500, 0), (500, 1)])
async def test_a_noisy_single_host_makes_no_candidate(device: Device, loud: int, quiet: int) -> None:
    await tell(device, 1, totals(loud, loud))
    await tell(await other(device.server, "acme", "acme-two"), 1, totals(quiet, quiet))
    await sweep(device.server)
    assert await (await with_key(device.server, "viewer")).walk("rules") == []


async def test_the_latest_totals_replace_and_an_older_report_changes_nothing(device: Device) -> None:
    await tell(device, 2, totals(4, 4))
    await tell(device, 2, totals(9, 9))
    await tell(device, 1, totals(1, 1))
    assert (await ask(device))["evidence"]["count"] == 4
    await tell(device, 3, totals(6, 5))
    assert (await ask(device))["evidence"]["count"] == 6


async def test_a_candidate_is_taken_back_when_the_numbers_no_longer_speak_for_it(device: Device) -> None:
    await candidate(device)
    viewer = await with_key(device.server, "viewer")
    assert await status(viewer) == "candidate"
    await tell(device, 2, totals(6, 3))
    await sweep(device.server)
    assert await status(viewer) is None
    assert [action for action, _ in await audited(device.server)] == ["rule.propose", "rule.withdraw"]


@pytest.mark.parametrize("runbook", ["encrypt-volume", "start-logging", "none"])
async def test_what_may_not_run_by_itself_makes_no_candidate(device: Device, runbook: str) -> None:
    await tell(device, 1, totals(5, 5, runbook))
    await tell(await other(device.server, "acme", "acme-two"), 1, totals(5, 5, runbook))
    await sweep(device.server)
    assert await (await with_key(device.server, "viewer")).walk("rules") == []
    assert (await ask(device))["runbook"] is None


async def test_an_approved_rule_is_tried_on_one_appliance_and_then_runs_on_all(device: Device) -> None:
    second = await candidate(device)
    technician = await with_key(device.server, "technician")
    approved = (await decide(technician, "approve", appliance_id=second.appliance_id)).json()
    assert (approved["status"], approved["canary_site_id"], approved["comment"]) == ("canary", "acme-two", "seen")
    early = await decide(technician, "approve")
    assert (early.status_code, type_of(early)) == (409, "rule-state")
    await tell_of_rule(device, 1, 9, 9)  # another than its canary
    await sweep(device.server)
    assert await status(technician) == "canary"
    await tell_of_rule(second, 1, 3, 3)
    await sweep(device.server)
    assert await status(technician) == "active"
    assert [action for action, _ in await audited(device.server)][-3:] == [
        "rule.propose",
        "rule.approve",
        "rule.activate",
    ]


async def test_a_rule_that_is_approved_reaches_its_canary_alone_and_an_active_one_all(device: Device) -> None:
    second = await candidate(device)
    technician, seen = await with_key(device.server, "technician"), []
    await decide(technician, "approve", appliance_id=second.appliance_id)
    for count in (0, 3):
        await tell_of_rule(second, count + 1, count, count)
        await sweep(device.server)
        for each in (device, second):
            envelope = (await each.call("GET", "policy")).json()
            learned = policy.read(envelope, [device.server.keys.order.public_key])
            seen.append(RULE in {rule.id for rule in learned.rules})
    assert seen == [False, True, True, True]


async def test_a_trial_that_went_well_is_ended_by_a_person_too(device: Device) -> None:
    second = await candidate(device)
    technician = await with_key(device.server, "technician")
    await decide(technician, "approve", appliance_id=second.appliance_id)
    await tell_of_rule(second, 1, 4, 4)
    assert (await decide(technician, "approve")).json()["status"] == "active"


async def test_a_rule_that_fails_is_taken_back_and_counts_anew_once_it_is_approved_again(device: Device) -> None:
    second = await candidate(device)
    technician = await with_key(device.server, "technician")
    await decide(technician, "approve", appliance_id=second.appliance_id)
    await tell_of_rule(second, 1, 3, 3)
    await sweep(device.server)
    await tell_of_rule(device, 1, 3, 1)
    await sweep(device.server)
    assert await status(technician) == "demoted"
    assert (await decide(technician, "approve", appliance_id=second.appliance_id)).json()["status"] == "canary"
    await tell_of_rule(second, 2, 5, 5)
    await sweep(device.server)
    assert await status(technician) == "canary"
    await tell_of_rule(second, 3, 6, 6)
    await sweep(device.server)
    assert await status(technician) == "active"
    assert (await decide(technician, "demote")).json()["status"] == "demoted"


async def test_what_was_rejected_is_not_proposed_again(device: Device) -> None:
    await candidate(device)
    technician = await with_key(device.server, "technician")
    assert (await decide(technician, "reject")).json()["status"] == "rejected"
    await tell(device, 2, totals(9, 9))
    await sweep(device.server)
    assert await status(technician) == "rejected"
    assert (await decide(technician, "reject")).status_code == 409
    assert (await audited(device.server))[-1] == ("rule.reject", RULE)


async def test_a_decision_needs_a_comment_the_newest_revision_and_someone_who_operates(device: Device) -> None:
    await candidate(device)
    technician, viewer = await with_key(device.server, "technician"), await with_key(device.server, "viewer")
    assert (await decide(technician, "approve", comment="")).status_code == 422
    assert (await decide(viewer, "approve")).status_code == 403
    assert (await decide(technician, "demote")).status_code == 409
    assert (await decide(technician, "approve", appliance_id="nobody")).status_code == 404
    stale = await technician.call("POST", f"rules/{RULE}/approve", {"If-Match": '"7"'}, json={"comment": "x"})
    assert stale.status_code == 412
    assert await status(technician) == "candidate"


async def test_no_other_partner_explains_or_decides(device: Device) -> None:
    await candidate(device)
    far = await other(device.server, "zeta", "zeta-one")
    stranger, technician = await with_key(device.server, "owner", "zeta"), await with_key(device.server, "technician")
    for verb in ("approve", "reject", "demote"):
        answer = await stranger.call("POST", f"rules/{RULE}/{verb}", {"If-Match": '"1"'}, json={"comment": "x"})
        assert answer.status_code == 404
    assert (await stranger.call("GET", f"rules/{RULE}/explain")).status_code == 404
    assert (await decide(technician, "approve", appliance_id=far.appliance_id)).status_code == 404
    await tell_of_rule(far, 1, 9, 0)
    await sweep(device.server)
    assert await status(technician) == "candidate"


async def test_a_rule_is_explained_by_its_numbers_and_what_it_would_have_done(device: Device) -> None:
    second = await candidate(device)
    for number, (who, ended) in enumerate(((device, "success"), (device, None), (second, "success"))):
        incident = {
            "id": f"i-{number}",
            "epoch": 1,
            "revision": 1,
            "host_id": "box",
            "incident_type": "backup_stale",
            "severity": "high",
            "raw_data": {"check": "backup"},
            "pattern_signature": SIGNATURE,
            "created_at_ms": 1,
            "last_seen_at_ms": 1,
            **({"resolved_at_ms": 2, "resolution_level": "L2", "outcome": ended} if ended else {}),
        }
        assert (await who.call("PUT", "incidents", json={"incidents": [incident]})).status_code == 200
    shown = (await (await with_key(device.server, "viewer")).call("GET", f"rules/{RULE}/explain")).json()
    assert shown["evidence"]["count"] == sum(source["count"] for source in shown["sources"]) == 7
    replayed = shown["replay"]
    assert (replayed["matched"], replayed["hosts"], replayed["sites"]) == (3, 2, 2)
    assert replayed["ended"] == {"L2 success": 2, "open": 1}


@pytest.mark.parametrize(
    "runbooks",
    [[totals(1, 2)], [totals(1, 1, order_count=0, order_success_count=1)], [totals(10**10, 0)], [totals(1, 1)] * 2],
)
async def test_totals_that_cannot_be_are_refused(device: Device, runbooks: list[dict[str, Any]]) -> None:
    assert (await device.call("PUT", "patterns", json=said(1, *runbooks))).status_code == 422


async def test_an_agent_of_before_reports_without_them(device: Device) -> None:
    body = said(1)
    del body["patterns"][0]["runbooks"]
    assert (await device.call("PUT", "patterns", json=body)).status_code == 204
    assert (await ask(device))["runbook"] is None


async def test_a_sweep_of_candidates_that_is_only_tried_leaves_everything_as_it_was(device: Device) -> None:
    await tell(device, 1, totals(3, 3))
    await tell(await other(device.server, "acme", "acme-two"), 1, totals(3, 3))
    (one,) = [each for each in sweeps.SWEEPS if each.name == "candidates"]
    dry = await sweeps.run(device.server.db, one, retention.Terms(), dry_run=True)
    assert (dry.rows, await status(await with_key(device.server, "viewer"))) == (1, None)
    assert (await sweeps.run(device.server.db, one, retention.Terms())).rows == 1
    assert promoting.MAX_PAST >= 1000
