"""How long a loop has been stuck in one callback, told from looks at it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.unit.runtime.bench import PATIENCE_S, Gate

from runwire.runtime.call_threads import CallThreads
from runwire.runtime.loop_thread import LoopThread
from runwire.runtime.watchdog import Stall, Watchdog, Watched


def test_only_the_time_in_the_present_callback_counts() -> None:
    watch = Watched()
    looks = [(None, 0.0), ("a", 0.5), ("a", 1.0), ("b", 1.5), ("b", 2.0), ("b", 2.5)]
    stuck = [watch.look(running, blocked_s=at_s, now_s=100 + at_s) for running, at_s in looks]
    assert stuck == [0.0, 0.0, 0.5, 0.0, 0.5, 1.0]


def test_a_loop_that_changes_its_callback_with_each_look_is_never_stuck() -> None:
    watch = Watched()
    assert {watch.look(object(), blocked_s=at_s, now_s=float(at_s)) for at_s in range(1, 100)} == {0.0}


def test_an_answer_begins_the_count_anew() -> None:
    watch = Watched()
    watch.look("a", blocked_s=0.5, now_s=1.0)
    watch.is_known = True
    assert watch.look("a", blocked_s=5.0, now_s=6.0) == 5.0
    assert watch.look(None, blocked_s=0.0, now_s=7.0) == 0.0
    assert not watch.is_known
    assert watch.look("a", blocked_s=0.5, now_s=8.0) == 0.0


def test_where_callbacks_cannot_be_seen_the_whole_block_counts() -> None:
    watch = Watched()
    assert [watch.look(None, blocked_s=at_s, now_s=at_s) for at_s in (0.5, 1.0, 1.5)] == [0.0, 0.5, 1.0]


@contextmanager
def _blocked_loop() -> Iterator[LoopThread]:
    wall = Gate()

    async def block() -> None:
        wall.block()

    thread = LoopThread("runwire-test", CallThreads(limit=1))
    thread.start("owner", block)
    assert wall.arrived(1)
    try:
        yield thread
    finally:
        wall.open()
        thread.retire()
        assert thread.join(PATIENCE_S)


@contextmanager
def _watchdog(thread: LoopThread, report: Callable[[Stall], None], *, warn_s: float) -> Iterator[Watchdog]:
    watchdog = Watchdog(warn_s=warn_s, report=report)
    watchdog.watch(thread)
    try:
        yield watchdog
    finally:
        watchdog.stop()


def test_a_time_in_which_the_watchdog_itself_stood_still_blames_nobody() -> None:
    stalls: list[Stall] = []
    # So slow that it does not look by itself during the test.
    with _blocked_loop() as thread, _watchdog(thread, stalls.append, warn_s=4000) as watchdog:
        now_s = time.monotonic()
        for at_s in (0, 1000, 2000, 3000):
            watchdog._look(now_s + at_s)
        watchdog._look(now_s + 3_600_000)  # stopped by SIGSTOP, or in a container that was paused
        for at_s in (1000, 2000, 3000):
            watchdog._look(now_s + 3_600_000 + at_s)
        assert stalls == []
        watchdog._look(now_s + 3_600_000 + 4000)
        assert [(stall.owner, stall.blocked_s, stall.stuck_s) for stall in stalls] == [("owner", 4000.0, 3000.0)]


def test_an_error_in_one_look_does_not_end_the_watching() -> None:
    reports: list[Stall] = []
    second = threading.Event()

    def report(stall: Stall) -> None:
        reports.append(stall)
        if len(reports) == 1:
            raise LookupError("a fault of ours")
        second.set()

    with _blocked_loop() as thread, _watchdog(thread, report, warn_s=0.02):
        assert second.wait(PATIENCE_S)
