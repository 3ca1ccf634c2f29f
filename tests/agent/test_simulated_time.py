"""Time that jumps: days pass at once, in the order of their timers, and not while something real is awaited."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, cast

from ccagent.simulation.simulated_time import SimulatedLoop

DAY_S = 86_400.0


def simulated(main: Coroutine[Any, Any, Any], speed: float | None = None) -> Any:
    with asyncio.Runner(loop_factory=lambda: SimulatedLoop(speed)) as runner:
        return runner.run(main)


def test_days_pass_at_once_and_in_order() -> None:
    async def main() -> list[str]:
        woken: list[str] = []

        async def sleeper(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            woken.append(name)

        await asyncio.gather(sleeper("third", 3 * DAY_S), sleeper("first", 5), sleeper("second", DAY_S))
        assert asyncio.get_running_loop().time() == 3 * DAY_S
        return woken

    began = time.monotonic()
    assert simulated(main()) == ["first", "second", "third"]
    assert time.monotonic() - began < 3600


def test_what_runs_in_a_thread_elsewhere_takes_no_time_here() -> None:
    async def main() -> float:
        asyncio.get_running_loop().call_later(DAY_S, lambda: None)
        await asyncio.to_thread(time.sleep, 0.01)
        return asyncio.get_running_loop().time()

    assert simulated(main()) == 0


def test_time_does_not_jump_while_something_real_is_awaited() -> None:
    async def main() -> float:
        loop = cast("SimulatedLoop", asyncio.get_running_loop())
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        loop.call_later(DAY_S, lambda: None)
        with loop.held():
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            assert await reader.read() == b""
            writer.close()
        server.close()
        return loop.time()

    assert simulated(main()) < DAY_S / 2


def test_time_passes_no_faster_than_the_speed_allows() -> None:
    async def main() -> None:
        await asyncio.sleep(50)

    began = time.monotonic()
    simulated(main(), speed=1000)
    assert time.monotonic() - began >= 0.045
