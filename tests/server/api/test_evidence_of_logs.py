"""Evidence over the API: what is shown is what was hashed, and the proof proves it to anybody."""

import pytest

from ccshared import merkle, notes
from ccshared.batch import Batch, Stub
from ccshared.vocabulary import StubReason
from tests.devices import Device
from tests.operators import Operator, type_of, with_key, with_session

LOGS = "sites/acme-clinic/logs"


async def send(device: Device, count: int) -> None:
    for _ in range(count):
        device.seal()
    assert (await device.send(device.batch(0))).status_code == 200


async def path_of(who: Operator) -> str:
    (log,) = (await who.call("GET", LOGS)).json()["items"]
    return f"{LOGS}/{log['id']}/evidence"


async def test_a_cursor_walks_all_entries_newest_first(device: Device) -> None:
    await send(device, 7)
    auditor = await with_session(device.server, "auditor", "acme-clinic")
    path = await path_of(auditor)
    found = await auditor.walk(path)
    assert [entry["seq"] for entry in found] == [6, 5, 4, 3, 2, 1, 0]
    assert [entry["bundle_hash"] for entry in found] == [leaf.hex() for leaf in device.leaves()[::-1]]
    page = (await auditor.call("GET", path + "?limit=2&offset=6&total=true")).json()
    assert ([entry["seq"] for entry in page["items"]], page["next"], page["total"]) == ([0], None, 7)
    assert (await auditor.call("GET", path + "?offset=100")).json()["items"] == []


async def test_a_payload_is_the_bytes_that_the_device_sealed(device: Device) -> None:
    await send(device, 3)
    viewer = await with_key(device.server, "viewer")
    path = await path_of(viewer)
    assert (await viewer.call("GET", path + "/1/payload")).content == device.payloads[1]
    assert (await viewer.call("GET", path + "/1")).json()["bundle_hash"] == device.leaves()[1].hex()


async def test_a_proof_leads_from_each_entry_to_a_receipt_that_verifies(device: Device) -> None:
    await send(device, 6)
    viewer = await with_key(device.server, "viewer")
    path = await path_of(viewer)
    for seq, payload in enumerate(device.payloads):
        proof = (await viewer.call("GET", f"{path}/{seq}/proof")).json()
        hashes = [bytes.fromhex(each) for each in proof["hashes"]]
        receipt = notes.read_receipt(proof["receipt"], device.public_key, device.server.keys.witnesses)
        root = merkle.root_from_inclusion(merkle.leaf_hash(payload), seq, receipt.checkpoint.size, hashes)
        assert (root, receipt.checkpoint.origin) == (receipt.checkpoint.root, device.origin)


async def test_a_withheld_payload_is_not_there_but_proved(device: Device) -> None:
    for _ in range(2):
        device.seal()
    stub = Stub(device.leaves()[1], StubReason.WITHHELD)
    assert (await device.send(Batch(device.checkpoint(2), 0, None, [device.payloads[0], stub]))).status_code == 200
    viewer = await with_key(device.server, "viewer")
    path = await path_of(viewer)
    assert (await viewer.call("GET", path + "/1")).json()["missing_reason"] == "withheld"
    assert (await viewer.call("GET", path + "/1/payload")).status_code == 404
    assert (await viewer.call("GET", path + "/1/proof")).status_code == 200


@pytest.mark.parametrize("seq", ["3", "-1", "x", "999999999999999999", "9999999999999999999999", "1%00"])
async def test_an_entry_that_is_not_there_is_not_found(device: Device, seq: str) -> None:
    await send(device, 3)
    viewer = await with_key(device.server, "viewer")
    path = await path_of(viewer)
    for end in ("", "/payload", "/proof"):
        assert (await viewer.call("GET", f"{path}/{seq}{end}")).status_code == 404


async def test_another_partners_or_sites_evidence_is_not_there(device: Device) -> None:
    server = device.server
    await send(device, 2)
    path = await path_of(await with_key(server, "viewer"))
    await server.add_site("zeta", "zeta-one")
    await server.add_site("acme", "acme-other")
    stranger, auditor = await with_key(server, "owner", "zeta"), await with_session(server, "auditor", "acme-other")
    for who, site in (
        (stranger, "acme-clinic"),
        (stranger, "zeta-one"),
        (auditor, "acme-clinic"),
        (auditor, "acme-other"),
    ):
        for end in ("", "/0", "/0/payload", "/0/proof"):
            answer = await who.call("GET", path.replace("acme-clinic", site) + end)
            assert (answer.status_code, type_of(answer)) == (404, "not-found")


async def test_a_forged_cursor_and_a_far_offset_are_refused(device: Device) -> None:
    await send(device, 2)
    viewer = await with_key(device.server, "viewer")
    for path in (LOGS, await path_of(viewer)):
        for query in ("cursor=AAAA", "offset=10001"):
            assert (await viewer.call("GET", f"{path}?{query}")).status_code == 422


async def test_nobody_without_a_credential_reads_evidence(device: Device) -> None:
    await send(device, 2)
    path = await path_of(await with_key(device.server, "viewer"))
    for end in ("", "/0", "/0/payload", "/0/proof"):
        assert (await device.server.client.get(f"/api/v1/{path}{end}")).status_code == 401
