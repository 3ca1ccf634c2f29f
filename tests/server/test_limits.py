"""Limits: buckets that are bounded, who an address is, and 429 with Retry-After before anything is written."""

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from ccserver import config, limits
from ccserver.errors import BadConfigError
from ccserver.limits import Buckets, Rate, Rates, Told
from tests import operators
from tests.devices import Running

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
TIGHT = Rates(**{name: Rate(0.01, 3) for name in vars(Rates())})


def test_a_bucket_lets_its_burst_through_and_then_says_how_long_to_wait() -> None:
    buckets = Buckets(Rate(2, 3))
    assert [buckets.take("a", 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert buckets.take("b", 0.0) == 0.0
    assert [buckets.take("a", 1.0) for _ in range(3)] == [0.0, 0.0, 0.5]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    buckets = Buckets(Rate(1, 1))
    assert buckets.take("a", 100.0) == 0.0
    assert buckets.take("a", 50.0) == 1.0


def test_a_million_addresses_take_bounded_memory() -> None:
    buckets = Buckets(Rate(1, 1), most=1000)
    for number in range(100_000):
        buckets.take(str(number), 0.0)
    assert len(buckets) == 1000


def test_asking_takes_nothing() -> None:
    buckets = Buckets(Rate(1, 1))
    assert [buckets.take("a", 0.0, 0) for _ in range(3)] == [0.0] * 3


def test_ipv6_addresses_of_one_network_share_a_bucket() -> None:
    keys = {limits.key_of(limits.client(f"2001:db8:1:2::{tail}", [], ())) for tail in ("1", "ffff:1", "2:3:4")}
    assert keys == {"2001:0db8:0001:0002"}
    assert limits.key_of(limits.client("::ffff:192.0.2.1", [], ())) == "192.0.2.1"


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("192.0.2.7", ["203.0.113.9"], "192.0.2.7"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["nonsense"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
    ],
)
def test_only_a_listed_proxy_says_who_calls(peer: str, forwarded: list[str], found: str) -> None:
    assert str(limits.client(peer, forwarded, PROXIES)) == found


def test_events_that_flood_are_counted_and_told_together() -> None:
    told = Told(Buckets(Rate(0.1, 2)))
    assert [told.tell("a", 0.0) for _ in range(5)] == [0, 0, None, None, None]
    assert told.tell("a", 10.0) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"CCSERVER_LIMIT_APPLIANCE": "many"},
        {"CCSERVER_LIMIT_PASSWORD": "0/5"},
        {"CCSERVER_TRUSTED_PROXIES": "10.0.0.1/8"},
        {"CCSERVER_METRICS_LISTEN": "0.0.0.0:9000"},
        {"CCSERVER_METRICS_LISTEN": "metrics.example:9000"},
        {"CCSERVER_KEEP_EVIDENCE_DAYS": "2191"},
        {"CCSERVER_KEEP_INCIDENTS_DAYS": "89"},
    ],
)
def test_a_setting_that_cannot_be_is_named(wrong: dict[str, str]) -> None:
    with pytest.raises(BadConfigError, match=next(iter(wrong))):
        config.from_environ(wrong)


def test_metrics_on_another_address_are_allowed_on_purpose() -> None:
    asked = {"CCSERVER_METRICS_LISTEN": "0.0.0.0:9000", "CCSERVER_METRICS_ANY_ADDRESS": "yes"}
    assert config.from_environ(asked).metrics is not None
    assert config.from_environ({"CCSERVER_METRICS_LISTEN": ""}).metrics is None


@pytest.fixture
def settings(settings: config.Config) -> config.Config:
    """A server whose every limit is three calls."""
    return replace(settings, rates=TIGHT)


def is_refused(answer: Any) -> bool:
    if answer.status_code != 429:
        return False
    assert answer.headers["content-type"] == "application/problem+json"
    assert operators.type_of(answer) == "too-many-requests"
    return int(answer.headers["retry-after"]) >= 1


async def test_unauthenticated_calls_are_limited_by_address(server: Running) -> None:
    answers = [await server.client.get("/agent/v1/nonce") for _ in range(4)]
    assert [is_refused(answer) for answer in answers] == [False, False, False, True]


async def test_a_limited_call_writes_nothing(server: Running) -> None:
    owner = await operators.with_key(server, "owner")
    answers = [await owner.call("POST", "sites", json={"name": f"Clinic {n}"}) for n in range(5)]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 429, 429]
    assert is_refused(answers[4])
    async with server.db.platform() as scope:
        assert await scope.conn.fetchval("SELECT count(*) FROM sites") == 4


async def test_credentials_that_are_none_are_limited_by_address(server: Running) -> None:
    headers = {"Authorization": f"Bearer cck_{'x' * 43}"}
    answers = [await server.client.get("/api/v1/sites", headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
    assert is_refused(answers[3])


async def test_passwords_are_limited_by_address_before_they_are_looked_at(server: Running) -> None:
    form = {"Sec-Fetch-Site": "same-origin"}
    answers = [
        await server.client.post("/login", data={"login": f"u{n}", "password": "x"}, headers=form) for n in range(4)
    ]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
    assert await operators.audited(server) == []


async def test_health_is_never_limited(server: Running) -> None:
    assert {(await server.client.get("/healthz")).status_code for _ in range(10)} == {200}
