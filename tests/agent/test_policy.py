"""The policy in force: only what the server signed for this appliance, never an older one, kept over restarts."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ccagent import evidence, identity, order_clock, policy, queue
from ccagent.clock import ClockWatch
from ccagent.config import BackupSettings, ChecksSettings, Config
from ccagent.evidence import Beginning
from ccagent.identity import Identity
from ccagent.places import Places
from ccagent.policy import InForce, PolicyRefusedError
from ccagent.queue import Epoch
from ccagent.store import Store
from ccshared import ed25519
from ccshared.messages import ServerKey
from ccshared.policy import Policy
from tests.agent.directing import policy_of, sign_policy
from tests.agent.witness_app import APPLIANCE, SERVER, SITE, Witness


class Scene:
    """A server's key, an appliance that pinned it, and a store."""

    def __init__(self, folder: Path) -> None:
        self.server = Witness()
        self.places = Places(folder)
        self.store = Store.open(self.places)
        self.watch = ClockWatch()
        keys = [ServerKey.model_validate(key) for key in self.server.server_keys()]
        self.known = Identity(
            server=SERVER,
            server_url="https://cc.example",
            site_id=SITE,
            appliance_id=APPLIANCE,
            public_key="ab" * 32,
            keys=keys,
            enrolled_at_ms=1,
        )
        identity.save(self.places, self.known)
        began = Beginning("enrolment", "ab" * 32, None, 1, "0.1.0")
        epoch = Epoch("1-0a0b0c0d", f"{SERVER}/log/{APPLIANCE}/1-0a0b0c0d", "ab" * 32, 1)
        self.store.write_now(queue.open_epoch, epoch, evidence.genesis(self.watch.stamp(), began))

    def check(self, made: Policy, seed: bytes | None = None) -> InForce:
        return policy.check(sign_policy(self.server, made, seed), self.known, self.store)

    async def take(self, made: Policy) -> bool:
        now = (self.watch.stamp(), self.watch.boot())
        return await policy.take(self.check(made), self.places, self.store, now)

    def load(self) -> InForce | None:
        return policy.load(self.places, self.store, self.known)

    def sealed(self) -> list[dict[str, object]]:
        lines = self.store.read(queue.lines, "1-0a0b0c0d", 1, 100, 10**9)
        return [json.loads(line)["body"] for line in lines if isinstance(line, bytes)]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    with contextlib.closing(made.store):
        yield made


def test_a_policy_by_another_key_is_refused(scene: Scene) -> None:
    with pytest.raises(PolicyRefusedError):
        scene.check(policy_of(), ed25519.new_seed())


@pytest.mark.parametrize("changes", [{"appliance": "appliance-2"}, {"site": "site-2"}])
def test_a_policy_for_another_appliance_is_refused(scene: Scene, changes: dict[str, str]) -> None:
    with pytest.raises(PolicyRefusedError, match="another site or appliance"):
        scene.check(replace(policy_of(), **changes))  # type: ignore[arg-type]


async def test_a_policy_by_a_key_that_was_rotated_away_is_no_new_one_and_stays_the_last_good_one(scene: Scene) -> None:
    await scene.take(policy_of())
    newer = ServerKey(use="order", name=f"{SERVER}/server/o2", public_key=ed25519.public_key(b"2" * 32).hex())
    scene.known = scene.known.model_copy(update={"keys": [*scene.known.keys, newer]})
    with pytest.raises(PolicyRefusedError, match="signs now"):
        scene.check(policy_of(mode="stop"))
    assert scene.load() is not None
    scene.places.policy.write_text(json.dumps(sign_policy(scene.server, policy_of(mode="stop"))))
    assert scene.load() is None


async def test_a_version_never_goes_back(scene: Scene) -> None:
    assert await scene.take(policy_of(version=2_000, mode="stop"))
    for old in (policy_of(version=1_999), policy_of(version=2_000, mode="heal")):
        with pytest.raises(PolicyRefusedError, match="not newer"):
            scene.check(old)


async def test_an_older_file_put_back_is_not_followed(scene: Scene) -> None:
    await scene.take(policy_of(version=1_000))
    old = scene.places.policy.read_bytes()
    await scene.take(policy_of(version=2_000, mode="stop"))
    scene.places.policy.write_bytes(old)
    assert scene.load() is None


async def test_the_last_good_one_stays_in_force_over_restarts_for_its_owner_only(scene: Scene) -> None:
    await scene.take(policy_of(version=1_000))
    assert scene.places.policy.stat().st_mode & 0o777 == 0o600
    loaded = scene.load()
    assert loaded is not None
    assert (loaded.policy.version, policy.mode(loaded)) == (1_000, "heal")


async def test_a_file_that_was_written_into_counts_for_nothing(scene: Scene) -> None:
    await scene.take(policy_of(version=1_000))
    data = bytearray(scene.places.policy.read_bytes())
    data[data.index(b'"payload"') + 30] ^= 1
    scene.places.policy.write_bytes(data)
    assert scene.load() is None
    scene.places.policy.write_bytes(os.urandom(1000))
    assert scene.load() is None


async def test_a_change_is_in_evidence_once_with_what_changed(scene: Scene) -> None:
    await scene.take(policy_of(version=1_000, settings={"checks.backup.max_age_hours": 24}))
    made = policy_of(version=2_000, settings={"checks.backup.max_age_hours": 12}, mode="observe")
    assert await scene.take(made)
    assert not await scene.take(made)
    first, second = scene.sealed()
    assert (first["version"], first["previous"]) == (1_000, None)
    assert (second["version"], second["previous"], second["mode"]) == (2_000, 1_000, "observe")
    assert second["changed"] == ["checks.backup.max_age_hours"]


async def test_a_policy_whose_record_a_crash_prevented_is_known_as_not_recorded(scene: Scene) -> None:
    found = scene.check(policy_of(version=1_000))
    assert not policy.is_recorded(found, scene.store)
    await scene.take(found.policy)
    assert policy.is_recorded(found, scene.store)


async def test_a_policys_version_moves_the_order_clock(scene: Scene) -> None:
    made = policy_of()
    await scene.take(made)
    assert scene.store.read(order_clock.now_ms, scene.watch.boot()) >= made.version


def test_without_a_policy_nothing_is_repaired_but_said() -> None:
    assert policy.mode(None) == "observe"


def test_its_settings_win_over_the_files_but_never_say_where_things_are(scene: Scene) -> None:
    status = Path("/var/backup.json")
    config = Config(checks=ChecksSettings(backup=BackupSettings(status_file=status, max_age_hours=99)))
    found = scene.check(
        policy_of(
            settings={
                "checks.backup.max_age_hours": 12,
                "agent.patrol_interval_s": 60,
                "agent.state_dir": "/tmp/elsewhere",
                "checks.firewall.baseline_sha256": "ab" * 32,
                "checks.antivirus.binary_sha256": "",
                "checks.of.tomorrow": 1,
                "healing.mode": "heal",
            }
        )
    )
    made = policy.applied(config, found)
    assert (made.checks.backup.max_age_hours, made.checks.backup.status_file) == (12, status)
    assert made.agent.patrol_interval_s == 60
    assert made.agent.state_dir == config.agent.state_dir
    assert (made.checks.firewall.baseline_sha256, made.checks.antivirus.binary_sha256) == ("ab" * 32, None)


def test_a_setting_with_a_value_that_does_not_fit_is_left_out_alone(scene: Scene) -> None:
    settings = {"checks.backup.max_age_hours": 0, "checks.patching.max_age_days": 14}
    made = policy.applied(Config(), scene.check(policy_of(settings=settings)))
    assert (made.checks.backup.max_age_hours, made.checks.patching.max_age_days) == (24, 14)
