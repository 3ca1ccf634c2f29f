"""The clock watch, driven by hands of its own."""

import time
from dataclasses import dataclass

from ccagent import clock
from ccagent.clock import Clocks, ClockWatch
from ccshared.vocabulary import Clock


@dataclass
class Hands:
    """Clocks that a test sets."""

    wall_ms: int = 1_700_000_000_000
    boot_s: float = 100.0
    kernel: bool = True

    def watch(self) -> ClockWatch:
        return ClockWatch(Clocks(lambda: self.wall_ms, lambda: self.boot_s, lambda: self.kernel))

    def pass_s(self, seconds: float) -> None:
        self.wall_ms += round(seconds * 1000)
        self.boot_s += seconds


def test_the_real_clocks_answer_and_run_forward() -> None:
    before = clock.boottime()
    assert abs(clock.now_ms() - time.time() * 1000) < 1_000
    assert clock.boottime() >= before > 0
    assert clock.kernel_synchronised() in (True, False)


def test_a_clock_that_the_server_never_confirmed_is_not_in_sync() -> None:
    assert Hands().watch().stamp() == (1_700_000_000_000, Clock.UNSYNC)


def test_kernel_and_server_together_make_it_sync() -> None:
    hands = Hands()
    watch = hands.watch()
    watch.heard_server(hands.wall_ms + 59_000)
    hands.pass_s(3_600)
    assert watch.stamp() == (hands.wall_ms, Clock.SYNC)


def test_a_server_time_more_than_a_minute_off_is_not_sync() -> None:
    hands = Hands()
    watch = hands.watch()
    watch.heard_server(hands.wall_ms - 61_000)
    assert watch.stamp()[1] is Clock.UNSYNC


def test_a_kernel_that_is_not_synchronised_is_not_sync() -> None:
    hands = Hands(kernel=False)
    watch = hands.watch()
    watch.heard_server(hands.wall_ms)
    assert watch.stamp()[1] is Clock.UNSYNC


def test_a_wall_clock_that_moves_five_seconds_is_no_step() -> None:
    hands = Hands()
    watch = hands.watch()
    hands.wall_ms += 5_000
    assert watch.step() is None


def test_a_wall_clock_that_moved_says_stepped_until_it_is_on_record() -> None:
    hands = Hands()
    watch = hands.watch()
    watch.heard_server(hands.wall_ms - 7_000)
    hands.pass_s(10)
    hands.wall_ms -= 7_000
    assert (watch.step(), watch.stamp()[1]) == (-7_000, Clock.STEPPED)
    hands.pass_s(10)
    assert watch.step() == -7_000
    watch.took_step(-7_000)
    assert (watch.step(), watch.stamp()[1]) == (None, Clock.SYNC)
