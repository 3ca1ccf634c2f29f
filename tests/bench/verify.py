"""The verifier on payloads of 2 KB: complete, and without the canonical check, beside the bare hashing of the lines."""

import hashlib
import io
import random
import statistics
import time
from collections.abc import Callable

from ccserver import verify
from tests import exports
from tests.bench.measure import Result

ENTRIES = 10_000
ROUNDS = 5


def run() -> list[Result]:
    """Return entries a second: the floor (inflate and hash), the verifier complete, and without the canonical check."""
    site = _site()
    data = exports.packed(site)
    floor = _rate(lambda: _bare(data))
    whole = _rate(lambda: _verify(site, data, canonical=True))
    quick = _rate(lambda: _verify(site, data, canonical=False))
    return [
        _row(f"unpack and hash alone, the floor: {floor:,.0f} entries/s", 1.0, "-", reached=True),
        _row(f"complete: {whole:,.0f} entries/s", whole / floor, "25,000 entries/s", reached=whole >= 25_000),
        _row(f"not canonical: {quick:,.0f} entries/s", quick / floor, "100,000 entries/s", reached=quick >= 100_000),
    ]


def _row(what: str, ratio: float, target: str, *, reached: bool) -> Result:
    return Result("verify", what, ratio, None, None, target, reached)


def _site() -> exports.Site:
    rng = random.Random(1)
    site = exports.Site(rng, exports.server_keys(rng, 0))
    epoch = site.open("box", 1, rng.randbytes(32), None)
    for _ in range(ENTRIES - 1):
        site.seal(epoch, exports.Kind.CHECK_RUN, _body(rng), 1000)
    site.cosign(epoch)
    return site


def _body(rng: random.Random) -> dict[str, object]:
    """Some 1.7 KB as a check writes it: a reason, facts, a digest or two."""
    facts = {f"package_{number}": rng.randbytes(16).hex() for number in range(24)}
    reason = "twenty-four packages with pending security updates; the oldest for " + str(rng.randrange(90)) + " days"
    controls = ["164.308(a)(5)(ii)(B)", "164.312(b)"]
    body: dict[str, object] = {"check": "patching", "host": "box", "status": "fail", "severity": "high"}
    text = {"reason": reason, "since": 1_790_000_000_000, "facts": facts, "hipaa_controls": controls}
    return body | text | {"details": rng.randbytes(180).hex()}


def _rate(act: Callable[[], None]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return ENTRIES / statistics.median(times)


def _bare(data: bytes) -> None:
    archive = verify.Archive(io.BytesIO(data))
    for member in archive.members:
        content, _ = archive.read(member.name, verify.MAX_MANIFEST)
        if member.name.startswith("logs/"):
            for line in content.splitlines():
                hashlib.sha256(b"\x00" + line).digest()


def _verify(site: exports.Site, data: bytes, canonical: bool) -> None:
    verify.ed25519_verify.cache_clear()
    options = verify.Options(canonical=canonical, now_ms=exports.NOW_MS)
    found = verify.verify(io.BytesIO(data), site.trust(), [], options)
    assert found.verdict == (verify.INTACT if canonical else verify.INCOMPLETE), found.text()
