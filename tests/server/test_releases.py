"""Appliances whose agent is older than the server's release are told apart from the others."""

from importlib.metadata import version

import pytest

from ccserver.config import Config
from ccserver.releases import is_older
from tests.devices import Device, Running
from tests.server.test_backup import Host


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("0.9.9", "0.10.0"), ("1.2", "1.2.1"), ("1.2.0rc1", "1.2.0"), ("1.2.0.dev3", "1.2.0"), ("0.1.0", "1.0.0"),
        (None, "0.0.1"), ("", "0.0.1"), ("unknown", "0.0.1"), ("1.2.0\n", "1.2.0"), ("9" * 40 + ".1.1", "0.1.0"),
    ],
)  # fmt: skip
def test_a_release_comes_before_another(older: str | None, newer: str) -> None:
    assert is_older(older, newer)
    assert not is_older(newer, older or "")


@pytest.mark.parametrize(("one", "same"), [("1.2", "1.2.0"), ("1.2.0", "1.2.0+local"), ("0.1.0", "0.1.0")])
def test_a_release_is_not_older_than_itself(one: str, same: str) -> None:
    assert not is_older(one, same)
    assert not is_older(same, one)


async def test_outdated_appliances_are_listed_and_the_others_not(
    server: Running, settings: Config, device: Device
) -> None:
    host, new = Host(server.urls, settings), await Device.enrolled(server, "acme", "acme-clinic")
    gone = await Device.enrolled(server, "acme", "acme-clinic")
    for each, says in ((device, "0.0.9"), (new, version("ccserver")), (gone, "0.0.9")):
        said = {"version": says, "hostname": "box", "sent_at_ms": 1, "clock": "sync"}
        assert (await each.call("POST", "checkin", json=said)).status_code == 200
    await host.run("appliance", "revoke", gone.appliance_id, "--site", "acme-clinic", "--yes")
    found = await host.json("appliance", "list", "--partner", "acme", "--outdated")
    assert [row["id"] for row in found] == [device.appliance_id]
    assert len(await host.json("appliance", "list", "--partner", "acme")) == 3
    out, _ = await host.run("appliance", "list", "--partner", "acme", "--outdated")
    assert b"version 0.0.9" in out
