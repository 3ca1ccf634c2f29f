"""Being told: who hears of what, when, by real receivers; once each, at least once when a sender dies."""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from ccserver import context, deadman, keys, marks, notices, secret_rotation, sweeps, targets, telling
from ccserver.config import Config, Smtp
from ccserver.keys import KeyFile
from ccserver.live import Streams
from ccserver.queries import notifications
from ccserver.retention import Terms
from ccserver.targets import Target
from ccserver.telling import Sender
from ccshared.vocabulary import ChannelKind
from tests.architecture.rows import sql
from tests.devices import Device, Running
from tests.operators import audited, with_key
from tests.receivers import HttpReceiver, SmtpReceiver, http_receiver, smtp_receiver
from tests.server.api.test_bad_input import INCIDENT

CHANNELS = "channels"


@pytest.fixture
async def smtp() -> AsyncIterator[SmtpReceiver]:
    async with smtp_receiver(unknown=("nobody@example.org",)) as receiver:
        yield receiver


@pytest.fixture
def settings(settings: Config, smtp: SmtpReceiver) -> Config:
    """Loopback receivers are allowed, and mail goes to a real one."""
    mail = Smtp("127.0.0.1", smtp.port, "none", "cc@example.org")
    return replace(settings, notify_allow=(ipaddress.ip_network("127.0.0.1/32"),), smtp=mail)


@pytest.fixture
async def hook() -> AsyncIterator[HttpReceiver]:
    async with http_receiver() as receiver:
        yield receiver


@pytest.fixture
def sender(server: Running, settings: Config) -> Sender:
    return Sender(server.db, lambda: server.keys.derive_all("cc seal v1"), settings, server.keys.server)


def channel(receiver: HttpReceiver, **changes: Any) -> dict[str, Any]:
    return {"kind": "webhook", "name": "ops", "url": receiver.url, "grace_s": 0, "resend_s": 0} | changes


async def made(server: Running, body: dict[str, Any], partner: str = "acme") -> dict[str, Any]:
    owner = await with_key(server, "owner", partner)
    answer = await owner.call("POST", CHANNELS, json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def report(device: Device, **changes: Any) -> None:
    answer = await device.call("PUT", "incidents", json={"incidents": [INCIDENT | changes]})
    assert answer.status_code == 200, answer.text


async def noticed(server: Running) -> None:
    assert (await sweeps.run(server.db, sweeps.NOTICING, Terms())).error is None


async def told(sender: Sender) -> int:
    """Notice, and send all that is due; return how many messages were tried."""
    assert (await sweeps.run(sender.db, sweeps.NOTICING, Terms())).error is None
    count = 0
    while done := await telling.send_due(sender, lambda _kind, _result: None):
        count += done
    return count


async def rows(server: Running, sql: str, *values: Any) -> list[Any]:
    async with server.db.platform() as scope:
        return list(await scope.conn.fetch(sql, *values))


async def later(server: Running, seconds: int) -> None:
    """Let everything that was written have been written so many seconds ago."""
    for table, columns in {
        "problems": ("noticed_at", "snoozed_until", "ended_at"),
        "notifications": ("created_at", "next_try_at", "claimed_until", "remind_at"),
        "notification_channels": ("tells_from", "snoozed_until"),
    }.items():
        await rows(server, sql("UPDATE {table} SET {moved}", table=table, moved=moved(columns, seconds)))


def moved(columns: tuple[str, ...], seconds: int) -> str:
    return ", ".join(f"{each} = {each} - interval '{seconds} seconds'" for each in columns)


def events(receiver: HttpReceiver) -> list[str]:
    return [each.json["type"].removeprefix("problem.") for each in receiver.told]


async def test_an_incident_is_told_when_it_opens_and_when_it_ends_once_each(
    device: Device, sender: Sender, hook: HttpReceiver
) -> None:
    await made(device.server, channel(hook))
    await report(device)
    assert [await told(sender) for _ in range(3)] == [1, 0, 0]
    await report(device, revision=2, resolved_at_ms=INCIDENT["created_at_ms"], resolution_level="L1", outcome="success")
    assert [await told(sender) for _ in range(2)] == [1, 0]
    assert events(hook) == ["opened", "ended"]
    said = hook.told[0].json["data"]
    assert (said["severity"], said["site"], said["incident"]) == ("high", "acme-clinic", "i1")
    assert said["url"].endswith("/sites/acme-clinic")
    assert hook.told[0].json["data"]["problem"] == hook.told[1].json["data"]["problem"]


async def test_a_webhook_is_signed_as_standard_webhooks_says(
    device: Device, sender: Sender, hook: HttpReceiver
) -> None:
    secret = (await made(device.server, channel(hook)))["secret"]
    await report(device)
    await told(sender)
    (one,) = hook.told
    content = f"{one.headers['webhook-id']}.{one.headers['webhook-timestamp']}.".encode() + one.body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    wanted = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    assert one.headers["webhook-signature"] == f"v1,{wanted}"
    assert one.json["id"] == one.headers["webhook-id"]


def test_the_signature_is_the_one_of_the_conventions_own_example() -> None:
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    made_headers = notices.signed("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body, [secret])
    assert made_headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_what_ends_within_the_grace_is_not_told(device: Device, sender: Sender, hook: HttpReceiver) -> None:
    await made(device.server, channel(hook, grace_s=300))
    await report(device)
    assert await told(sender) == 0
    await later(device.server, 200)
    await report(device, revision=2, resolved_at_ms=INCIDENT["created_at_ms"], resolution_level="L1", outcome="success")
    assert await told(sender) == 0
    await later(device.server, 200)
    assert (await told(sender), hook.told) == (0, [])


async def test_what_outlasts_the_grace_is_told(device: Device, sender: Sender, hook: HttpReceiver) -> None:
    await made(device.server, channel(hook, grace_s=300))
    await report(device)
    await told(sender)
    await later(device.server, 301)
    assert await told(sender) == 1


async def test_a_channel_hears_of_its_severity_and_its_sites_only(
    device: Device, sender: Sender, hook: HttpReceiver
) -> None:
    server = device.server
    await server.add_site("acme", "acme-two")
    await made(server, channel(hook, name="loud", min_severity="critical"))
    await made(server, channel(hook, name="other", site_ids=["acme-two"]))
    await made(server, channel(hook, name="mine", site_ids=["acme-clinic"], min_severity="high"))
    await report(device)
    assert await told(sender) == 1
    await report(device, revision=2, severity="critical")
    assert await told(sender) == 1  # it became what the first one waits for


async def test_an_escalation_is_told_once_and_not_when_the_first_message_said_it(
    device: Device, sender: Sender, hook: HttpReceiver
) -> None:
    await made(device.server, channel(hook))
    await report(device)
    await report(device, id="i2", escalated_at_ms=INCIDENT["created_at_ms"])
    assert await told(sender) == 2
    await report(device, revision=2, escalated_at_ms=INCIDENT["created_at_ms"])
    assert [await told(sender), await told(sender)] == [1, 0]
    assert sorted(events(hook)) == ["escalated", "opened", "opened"]
    assert hook.told[-1].json["data"]["incident"] == "i1"


async def test_it_is_told_again_until_somebody_acknowledges(device: Device, sender: Sender, hook: HttpReceiver) -> None:
    await made(device.server, channel(hook, resend_s=600, resend_max=50))
    await report(device)
    await told(sender)
    for _ in range(2):
        await later(device.server, 601)
        assert await told(sender) == 1
    technician = await with_key(device.server, "technician")
    path = "sites/acme-clinic/incidents/i1"
    etag = (await technician.call("GET", path)).headers["etag"]
    assert (await technician.call("POST", f"{path}/acknowledge", {"If-Match": etag})).status_code == 200
    await told(sender)
    await later(device.server, 601)
    assert await told(sender) == 0
    assert events(hook) == ["opened", "reminder", "reminder", "acknowledged"]


async def test_reminders_are_bounded(device: Device, sender: Sender, hook: HttpReceiver) -> None:
    await made(device.server, channel(hook, resend_s=600, resend_max=2))
    await report(device)
    for _ in range(6):
        await told(sender)
        await later(device.server, 601)
    assert events(hook) == ["opened", "reminder", "reminder"]


async def test_a_new_channel_is_not_flooded_with_what_stands_already(
    device: Device, sender: Sender, hook: HttpReceiver
) -> None:
    await report(device)
    await noticed(device.server)
    await made(device.server, channel(hook))
    assert await told(sender) == 0


async def test_a_snoozed_problem_is_told_when_the_snooze_ends_if_it_still_stands(
    device: Device, sender: Sender, hook: HttpReceiver
) -> None:
    await made(device.server, channel(hook, grace_s=60))
    await report(device)
    await noticed(device.server)
    technician = await with_key(device.server, "technician")
    (problem,) = (await technician.call("GET", "problems", params={"open": True})).json()["items"]
    until = {"until": (await rows(device.server, "SELECT now() + interval '1 hour' AS at"))[0]["at"].isoformat()}
    path = f"problems/{problem['id']}/snooze"
    assert (await technician.call("POST", path, json=until)).status_code == 428
    assert (await technician.call("POST", path, {"If-Match": '"9"'}, json=until)).status_code == 412
    assert (await technician.call("POST", path, {"If-Match": '"1"'}, json=until)).status_code == 200
    await later(device.server, 3000)
    assert await told(sender) == 0
    await later(device.server, 601)
    assert await told(sender) == 1


async def test_a_snoozed_channel_tells_nothing_until_then(device: Device, sender: Sender, hook: HttpReceiver) -> None:
    new = (await made(device.server, channel(hook)))["channel"]
    technician = await with_key(device.server, "technician")
    until = {"until": (await rows(device.server, "SELECT now() + interval '1 hour' AS at"))[0]["at"].isoformat()}
    assert (await technician.call("POST", f"channels/{new['id']}/snooze", json=until)).is_success
    await report(device)
    assert await told(sender) == 0
    await later(device.server, 3601)
    assert await told(sender) == 1
    too_long = {"until": "2999-01-01T00:00:00Z"}
    refused = await technician.call("POST", f"channels/{new['id']}/snooze", json=too_long)
    assert refused.status_code == 422


async def test_an_appliance_that_falls_silent_and_comes_back_is_told(
    device: Device, sender: Sender, hook: HttpReceiver
) -> None:
    server = device.server
    await made(server, channel(hook))
    await rows(server, "UPDATE appliances SET last_checkin = now() - interval '20 minutes'")
    assert await told(sender) == 1
    await rows(server, "UPDATE appliances SET last_checkin = now(), silent_since = now() - interval '3 days'")
    assert await told(sender) == 2
    await rows(server, "UPDATE appliances SET silent_since = NULL, alarms = '{clone_suspected,rollback}'")
    await told(sender)
    kinds = [f"{each.json['data']['kind']} {event}" for each, event in zip(hook.told, events(hook), strict=True)]
    both = [f"{kind} {event}" for kind in ("offline", "silent") for event in ("opened", "ended")]
    assert sorted(kinds) == sorted([*both, "alarm opened", "alarm opened"])
    clone = next(t.json["data"] for t in hook.told if "clone" in t.json["data"]["says"])
    assert clone["severity"] == "critical"


async def test_a_closed_site_and_a_revoked_appliance_are_no_problem(device: Device) -> None:
    server = device.server
    await report(device)
    await rows(server, "UPDATE appliances SET last_checkin = now() - interval '20 minutes'")
    await noticed(server)
    assert len(await rows(server, "SELECT FROM problems WHERE ended_at IS NULL")) == 2
    await rows(server, "UPDATE appliances SET revoked_at = now()")
    await rows(server, "UPDATE sites SET closed_at = now()")
    await noticed(server)
    assert await rows(server, "SELECT FROM problems WHERE ended_at IS NULL") == []


async def test_the_servers_own_troubles_are_told_to_the_platform(
    server: Running, sender: Sender, hook: HttpReceiver
) -> None:
    admin = await with_key(server, "platform_admin", "platform")
    assert (await admin.call("POST", "platform/channels", json=channel(hook))).status_code == 201
    await rows(server, "INSERT INTO sweeps (name, last_error) VALUES ('snapshots', 'OSError')")
    assert await told(sender) == 1
    assert hook.told[0].json["data"]["says"] == "The sweep snapshots failed"
    listed = (await admin.call("GET", "platform/problems")).json()["items"]
    assert [each["kind"] for each in listed] == ["sweep"]
    assert (await (await with_key(server, "owner")).call("GET", "problems")).json()["items"] == []


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_2xx_is_success(device: Device, sender: Sender, status: int) -> None:
    async with http_receiver(status) as receiver:
        await made(device.server, channel(receiver))
        await report(device)
        assert [await told(sender), await told(sender)] == [1, 0]
        await later(device.server, 4000)
        assert await told(sender) == 0
        assert len(receiver.told) == 1


@pytest.mark.parametrize("status", [301, 400, 404, 429, 500, 503])
async def test_anything_else_is_tried_again_under_the_same_id(device: Device, sender: Sender, status: int) -> None:
    async with http_receiver(status, 200) as receiver:
        await made(device.server, channel(receiver))
        await report(device)
        assert [await told(sender), await told(sender)] == [1, 0]
        await later(device.server, 30)
        assert await told(sender) == 1
        assert len({each.headers["webhook-id"] for each in receiver.told}) == 1
    viewer = await with_key(device.server, "viewer")
    (sent,) = (await viewer.call("GET", "deliveries")).json()["items"]
    assert (sent["attempts"], sent["last_status"], sent["last_error"], sent["next_try_at"]) == (2, 200, None, None)
    tries = (await viewer.call("GET", f"deliveries/{sent['id']}/attempts")).json()
    assert [each["status"] for each in tries] == [status, 200]


async def test_tries_are_bounded_and_the_end_is_told_by_the_other_channel(
    device: Device, sender: Sender, hook: HttpReceiver
) -> None:
    async with http_receiver(500) as broken:
        await made(device.server, channel(broken, name="broken"))
        await made(device.server, channel(hook, name="good"))
        await report(device)
        for _ in range(telling.MAX_ATTEMPTS + 3):
            await told(sender)
            await later(device.server, 3700)
        assert len(broken.told) == telling.MAX_ATTEMPTS
    (dead,) = await rows(device.server, "SELECT last_error, attempts FROM notifications WHERE dead_at IS NOT NULL")
    assert tuple(dead) == ("The receiver answered 500.", telling.MAX_ATTEMPTS)
    assert [each.json["data"]["kind"] for each in hook.told] == ["incident", "channel"]
    assert hook.told[1].json["data"]["says"] == "The channel broken does not deliver"


async def test_a_receiver_that_is_gone_is_not_tried_again(device: Device, sender: Sender) -> None:
    async with http_receiver(410) as receiver:
        await made(device.server, channel(receiver))
        await report(device)
        await told(sender)
        await later(device.server, 4000)
        assert (await told(sender), len(receiver.told)) == (0, 1)


async def test_waits_grow_to_an_hour_and_are_never_all_the_same() -> None:
    assert all(5 <= telling.wait_s(1, None) <= 10 for _ in range(50))
    assert all(1800 <= telling.wait_s(attempts, None) <= 3600 for attempts in range(10, 15))
    assert len({telling.wait_s(6, None) for _ in range(10)}) == 10
    assert telling.wait_s(1, 900) == 900


async def test_the_end_waits_for_the_beginning(device: Device, sender: Sender) -> None:
    async with http_receiver(500, 200) as receiver:
        await made(device.server, channel(receiver))
        await report(device)
        await told(sender)
        await report(
            device, revision=2, resolved_at_ms=INCIDENT["created_at_ms"], resolution_level="L1", outcome="success"
        )
        assert await told(sender) == 0  # the beginning is not delivered yet
        await later(device.server, 30)
        assert await told(sender) == 2
        assert events(receiver) == ["opened", "opened", "ended"]


async def test_two_senders_at_once_send_once(device: Device, sender: Sender, hook: HttpReceiver) -> None:
    await made(device.server, channel(hook))
    for number in range(1, 21):
        await report(device, id=f"i{number}")
    await noticed(device.server)

    async def send() -> None:
        while await telling.send_due(sender, lambda _kind, _result: None):
            pass

    await asyncio.gather(*(send() for _ in range(4)))
    seen = [each.headers["webhook-id"] for each in hook.told]
    assert (len(seen), len(set(seen))) == (20, 20)


async def test_a_sender_that_dies_between_sending_and_recording_is_followed_under_the_same_id(
    device: Device, sender: Sender, hook: HttpReceiver
) -> None:
    await made(device.server, channel(hook))
    await report(device)
    await noticed(device.server)
    async with device.server.db.platform() as scope:
        (claimed,) = await notifications.claim(scope, 8, 2, telling.LEASE)
    assert await telling.send_due(sender, lambda _kind, _result: None) == 0  # it is claimed
    await telling._send(sender, claimed)  # sent, and nothing recorded
    await later(device.server, int(telling.LEASE.total_seconds()) + 1)
    assert await told(sender) == 1
    assert len(hook.told) == 2
    assert len({each.headers["webhook-id"] for each in hook.told}) == 1
    assert hook.told[0].body == hook.told[1].body
    assert await told(sender) == 0


async def test_a_slow_receiver_does_not_hold_up_another(
    device: Device, sender: Sender, hook: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with http_receiver(0) as slow:
        await made(device.server, channel(slow, name="slow"))
        await made(device.server, channel(hook, name="quick"))
        for number in range(1, 12):
            await report(device, id=f"i{number}")
        await noticed(device.server)
        task = asyncio.create_task(telling.keep_sending(sender, lambda _kind, _result: None))
        async with asyncio.timeout(9):
            while len(hook.told) < 11:  # noqa: ASYNC110  what a receiver keeps is no event
                await asyncio.sleep(0.05)
        assert slow.connections <= telling.EACH
        task.cancel()
        await asyncio.wait([task])


async def test_mail_is_handed_over_as_one_thread_a_problem(device: Device, sender: Sender, smtp: SmtpReceiver) -> None:
    body = {"kind": "email", "name": "on call", "to": ["a@example.org", "b@example.org"], "grace_s": 0, "resend_s": 0}
    assert (await made(device.server, body))["channel"]["target"] == "example.org"
    await report(device)
    assert await told(sender) == 1
    ((recipients, mail),) = smtp.mails
    assert recipients == ["a@example.org", "b@example.org"]
    assert mail["Subject"] == "[high] backup_stale on box at Acme-Clinic"
    assert (mail["Auto-Submitted"], str(mail["From"])) == ("auto-generated", "Central Command <cc@example.org>")
    assert "/sites/acme-clinic" in mail.get_content()
    await report(device, revision=2, resolved_at_ms=INCIDENT["created_at_ms"], resolution_level="L1", outcome="success")
    await told(sender)
    assert smtp.mails[1][1]["References"] == mail["References"]
    assert smtp.mails[1][1]["Subject"].startswith("[high] Over: ")


async def test_mail_that_a_recipient_refuses_has_failed(server: Running, smtp: SmtpReceiver) -> None:
    new = await made(server, {"kind": "email", "name": "on call", "to": ["nobody@example.org"]})
    tried = await (await with_key(server, "technician")).call("POST", f"channels/{new['channel']['id']}/test")
    assert (tried.json()["delivered"], "nobody" in tried.text, "550" in tried.text) == (False, False, True)


async def test_slack_gets_text_with_its_letters_escaped(device: Device, sender: Sender, hook: HttpReceiver) -> None:
    await made(device.server, channel(hook, kind="slack"))
    await rows(device.server, "UPDATE sites SET name = '<!channel> & co'")
    await report(device)
    await told(sender)
    text = hook.told[0].json["text"]
    assert text.startswith("[high] backup_stale on box at &lt;!channel&gt; &amp; co\nhttp://")


async def test_pagerduty_is_triggered_acknowledged_and_resolved_under_one_key(
    device: Device, sender: Sender, hook: HttpReceiver
) -> None:
    key = "a" * 32
    await made(device.server, channel(hook, kind="pagerduty", routing_key=key))
    await report(device)
    await told(sender)
    await rows(device.server, "UPDATE incidents SET acknowledged_at = now(), acknowledged_by = 'user:ann'")
    await told(sender)
    await report(device, revision=2, resolved_at_ms=INCIDENT["created_at_ms"], resolution_level="L1", outcome="success")
    await told(sender)
    said = [each.json for each in hook.told]
    assert [each["event_action"] for each in said] == ["trigger", "acknowledge", "resolve"]
    assert ({each["dedup_key"] for each in said}, {each["routing_key"] for each in said}) == (
        {said[0]["dedup_key"]},
        {key},
    )
    assert said[0]["payload"]["severity"] == "error"
    assert set(said[0]["payload"]) >= {"summary", "source", "severity"}


async def test_a_test_message_says_what_came_of_it_and_is_listed(server: Running, hook: HttpReceiver) -> None:
    new = (await made(server, channel(hook)))["channel"]
    technician = await with_key(server, "technician")
    hook.statuses = [403, 200]
    for delivered, status in ((False, 403), (True, 200)):
        tried = await technician.call("POST", f"channels/{new['id']}/test")
        assert (tried.json()["delivered"], tried.json()["status"]) == (delivered, status)
    assert events(hook) == ["test", "test"]
    listed = await technician.walk("deliveries", channel=new["id"])
    assert [(each["event"], each["dead_at"] is None) for each in listed] == [("test", True), ("test", False)]
    assert await telling.send_due(Sender(server.db, list, None, ""), lambda _kind, _result: None) == 0  # type: ignore[arg-type]  # nothing is sent


async def test_a_sender_that_runs_all_along_opens_channels_while_and_after_all_secrets_are_rotated(
    server: Running, settings: Config, hook: HttpReceiver
) -> None:
    new = (await made(server, channel(hook)))["channel"]
    ctx = context.make(server.db, KeyFile(settings.key_file), settings, marks.load(settings.key_file), Streams())
    running = telling.sender(ctx)
    keys.rotate_all(settings.key_file)  # the seals are still by the key of before

    async def tried() -> str | None:
        async with server.db.partner("acme") as scope:
            claimed = await telling.write_test(scope, new["id"])
        return (await telling.deliver(running, claimed)).error

    assert await tried() is None
    async with server.db.platform() as scope:
        await secret_rotation.renew(scope, ctx.keys, "test")
    assert await tried() is None


async def test_a_channel_is_changed_while_all_secrets_are_rotated(
    server: Running, settings: Config, hook: HttpReceiver
) -> None:
    new = (await made(server, channel(hook)))["channel"]
    keys.rotate_all(settings.key_file)
    owner = await with_key(server, "owner")
    changed = await owner.call("PATCH", f"channels/{new['id']}", {"If-Match": '"1"'}, json={"url": hook.url})
    assert changed.status_code == 200, changed.text
    keys.rotate_all(settings.key_file)
    renewed = await owner.call("POST", f"channels/{new['id']}/secret", {"If-Match": changed.headers["etag"]})
    assert renewed.status_code == 200, renewed.text


async def test_a_secret_is_shown_once_the_same_for_the_same_key_and_nowhere_else(
    server: Running, hook: HttpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    owner, again = await with_key(server, "owner"), {"Idempotency-Key": "k1"}
    body = channel(hook, url=f"http://127.0.0.1:{hook.port}/T000/sesame")
    answers = [await owner.call("POST", CHANNELS, again, json=body) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    secret, channel_id = answers[0].json()["secret"], answers[0].json()["channel"]["id"]
    assert len(notices.secret_bytes(secret)) == 32
    await owner.call("POST", f"channels/{channel_id}/test")
    shown = [(await owner.call("GET", path)).text for path in (CHANNELS, f"channels/{channel_id}", "deliveries")]
    kept = [str(row[0]) for row in await rows(server, "SELECT t::text FROM notification_channels t")]
    kept += [row[0] for row in await rows(server, "SELECT convert_from(answer, 'UTF8') FROM idempotency_keys")]
    for text in (*shown, *kept, caplog.text, repr(Target(url="sesame"))):
        assert secret not in text
        assert "sesame" not in text
    assert hook.told[0].path == "/T000/sesame"


async def test_a_sealed_target_opens_in_its_own_row_only(server: Running, hook: HttpReceiver, sender: Sender) -> None:
    one, two = [(await made(server, channel(hook)))["channel"]["id"] for _ in range(2)]
    await rows(
        server,
        "UPDATE notification_channels SET target_sealed = (SELECT target_sealed FROM notification_channels"
        " WHERE id = $1) WHERE id = $2",
        one,
        two,
    )
    tried = await (await with_key(server, "technician")).call("POST", f"channels/{two}/test")
    assert (tried.json()["delivered"], "sealed" in tried.json()["error"], hook.told) == (False, True, [])


async def test_a_renewed_secret_signs_beside_the_old_one_for_a_day(server: Running, hook: HttpReceiver) -> None:
    first = await made(server, channel(hook))
    owner, path = await with_key(server, "owner"), f"channels/{first['channel']['id']}"
    second = await owner.call("POST", f"{path}/secret", {"If-Match": '"1"'})
    assert (second.status_code, second.json()["secret"] != first["secret"]) == (200, True)
    await owner.call("POST", f"{path}/test")
    one = hook.told[0]
    wanted = notices.signed(
        one.headers["webhook-id"],
        int(one.headers["webhook-timestamp"]),
        one.body,
        [second.json()["secret"], first["secret"]],
    )
    assert one.headers["webhook-signature"] == wanted["webhook-signature"]
    assert len(wanted["webhook-signature"].split()) == 2


async def test_a_channel_is_changed_by_who_read_it_and_what_is_not_given_stays(
    device: Device, sender: Sender, hook: HttpReceiver
) -> None:
    server = device.server
    new = (await made(server, channel(hook)))["channel"]
    owner, path = await with_key(server, "owner"), f"channels/{new['id']}"
    assert (await owner.call("PATCH", path, json={"name": "x"})).status_code == 428
    assert (await owner.call("PATCH", path, {"If-Match": '"7"'}, json={"name": "x"})).status_code == 412
    off = await owner.call("PATCH", path, {"If-Match": '"1"'}, json={"disabled": True, "min_severity": "low"})
    assert off.json() | {"disabled_at": None} == new | {"min_severity": "low", "revision": 2}
    await report(device)
    assert await told(sender) == 0
    on = await owner.call("PATCH", path, {"If-Match": off.headers["etag"]}, json={"disabled": False})
    assert (on.json()["disabled_at"], await told(sender)) == (None, 0)
    await report(device, id="i2", severity="low")
    assert await told(sender) == 1
    actions = [action for action, _ in await audited(server)]
    assert actions == ["channel.create", "channel.change", "channel.change"]


async def test_what_waits_for_a_channel_that_is_disabled_is_given_up(device: Device, sender: Sender) -> None:
    async with http_receiver(500) as receiver:
        new = (await made(device.server, channel(receiver)))["channel"]
        await report(device)
        await told(sender)
        owner = await with_key(device.server, "owner")
        assert (
            await owner.call("PATCH", f"channels/{new['id']}", {"If-Match": '"1"'}, json={"disabled": True})
        ).is_success
        await later(device.server, 30)
        assert await told(sender) == 0
    (dead,) = (await owner.call("GET", "deliveries")).json()["items"]
    assert dead["last_error"] == "The channel was disabled."


WRONG: list[dict[str, Any]] = [
    {"kind": "webhook"},
    {"kind": "webhook", "url": "https://example.org/", "to": ["a@example.org"]},
    {"kind": "webhook", "url": "https://example.org/", "secret": "whsec_short"},
    {"kind": "webhook", "url": "https://169.254.169.254/latest"},
    {"kind": "webhook", "url": "https://10.0.0.1/"},
    {"kind": "slack", "url": "ftp://example.org/"},
    {"kind": "pagerduty", "routing_key": "short"},
    {"kind": "email", "to": ["no address"]},
    {"kind": "email", "to": ["a@example.org\r\nBcc: b@example.org"]},
    {"kind": "email", "to": []},
    {"kind": "slack", "url": "https://example.org/", "site_ids": ["zeta-one"]},
    {"kind": "slack", "url": "https://example.org/", "resend_s": 5},
    {"kind": "slack", "url": "https://example.org/", "name": "a\nb"},
]


@pytest.mark.parametrize("body", WRONG, ids=str)
async def test_a_channel_that_cannot_work_is_refused(server: Running, body: dict[str, Any]) -> None:
    await server.add_site("zeta", "zeta-one")
    owner = await with_key(server, "owner")
    assert (await owner.call("POST", CHANNELS, json={"name": "x"} | body)).status_code == 422
    assert (await owner.call("GET", CHANNELS)).json()["items"] == []


async def test_another_partner_sees_and_moves_nothing(device: Device, sender: Sender, hook: HttpReceiver) -> None:
    server = device.server
    await server.add_site("zeta", "zeta-one")
    new = (await made(server, channel(hook)))["channel"]
    async with http_receiver() as theirs:
        await made(server, channel(theirs), "zeta")
        await report(device)
        await told(sender)
        assert theirs.told == []
    (problem,) = await rows(server, "SELECT id FROM problems")
    stranger, one = await with_key(server, "owner", "zeta"), f"channels/{new['id']}"
    (sent,) = (await (await with_key(server, "viewer")).call("GET", "deliveries")).json()["items"]
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", one, {}),
        ("PATCH", one, {"json": {"disabled": True}}),
        ("POST", f"{one}/secret", {}),
        ("POST", f"{one}/test", {}),
        ("POST", f"{one}/snooze", {"json": {"until": None}}),
        ("GET", f"deliveries/{sent['id']}/attempts", {}),
        ("GET", f"problems/{problem['id']}", {}),
        ("POST", f"problems/{problem['id']}/acknowledge", {}),
        ("POST", f"problems/{problem['id']}/snooze", {"json": {"until": None}}),
    ]
    answers = [await stranger.call(method, path, {"If-Match": '"1"'}, **more) for method, path, more in calls]
    assert [answer.status_code for answer in answers] == [404] * len(calls)
    assert (await stranger.call("GET", "deliveries", params={"channel": new["id"]})).json()["items"] == []
    assert len(hook.told) == 1


async def test_the_platforms_channels_are_not_a_partners(server: Running, hook: HttpReceiver) -> None:
    owner = await with_key(server, "owner")
    assert (await owner.call("GET", "platform/channels")).status_code == 403
    admin = await with_key(server, "platform_admin", "platform")
    await admin.call("POST", "platform/channels", json=channel(hook))
    assert (await owner.call("GET", CHANNELS)).json()["items"] == []
    assert len((await admin.call("GET", "platform/channels")).json()["items"]) == 1


async def test_an_address_that_turned_private_is_not_told(server: Running, sender: Sender, hook: HttpReceiver) -> None:
    new = (await made(server, channel(hook, url=f"http://localhost:{hook.port}/")))["channel"]
    strict = replace(sender, config=replace(sender.config, notify_allow=(ipaddress.ip_network("192.0.2.1/32"),)))
    async with server.db.partner("acme") as scope:
        claimed = await telling.write_test(scope, new["id"])
    assert "not public" in str((await telling.deliver(strict, claimed)).error) or not hook.connections
    assert hook.connections == 0


async def test_a_dead_mans_ping_is_sent_while_sweeps_run_and_not_otherwise(
    server: Running, settings: Config, hook: HttpReceiver
) -> None:
    config = replace(settings, deadman_url=f"http://127.0.0.1:{hook.port}/ping/sesame")
    assert not await deadman.ping(server.db, config)
    await rows(server, "INSERT INTO sweeps (name, done_at) VALUES ('liveness', now())")
    assert await deadman.ping(server.db, config)
    assert [(each.method, each.path) for each in hook.told] == [("GET", "/ping/sesame")]
    await rows(server, "UPDATE sweeps SET done_at = now() - interval '6 minutes'")
    assert not await deadman.ping(server.db, config)


async def test_old_problems_go_with_what_was_told_of_them(device: Device, sender: Sender, hook: HttpReceiver) -> None:
    server = device.server
    new = (await made(server, channel(hook)))["channel"]
    await report(device)
    await told(sender)
    await (await with_key(server, "technician")).call("POST", f"channels/{new['id']}/test")
    await rows(server, "UPDATE problems SET ended_at = now() - interval '91 days'")
    await rows(server, "UPDATE notifications SET created_at = now() - interval '91 days'")
    by_name = {each.name: each for each in sweeps.SWEEPS}
    assert [(await sweeps.run(server.db, by_name[name], Terms())).rows for name in ("told", "tests")] == [1, 1]
    assert await rows(server, "SELECT FROM notification_attempts") == []
    assert await rows(server, "SELECT FROM notifications") == []


def test_every_kind_of_channel_needs_something() -> None:
    assert set(targets._NEEDED) == set(ChannelKind)
