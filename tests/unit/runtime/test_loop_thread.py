"""The thread of the user's code: what ends one run must not cost the others."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from runwire.runtime.call_threads import CallThreads
from runwire.runtime.loop_thread import LoopThread


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    thread = LoopThread("runwire-test", CallThreads(limit=1))
    yield thread
    thread.retire()
    assert thread.join(10)


class _Owner:
    """One run: a task of its own, and one that it made; both wait for ever."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.is_up = threading.Event()
        self.is_over = threading.Event()

    async def work(self) -> None:
        child = asyncio.get_running_loop().create_task(self._wait("child"))
        self.is_up.set()
        await self._wait("root")
        await asyncio.wait([child])
        self.is_over.set()

    async def _wait(self, name: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.append(name)


def _start(thread: LoopThread, count: int) -> list[_Owner]:
    owners = [_Owner() for _ in range(count)]
    for owner in owners:
        thread.start(owner, owner.work)
    assert all(owner.is_up.wait(10) for owner in owners)
    return owners


def _timed(thread: LoopThread, call: Callable[[], None]) -> float:
    """Return how much CPU time a call takes on the loop's thread."""
    took: list[float] = []
    is_done = threading.Event()

    def measure() -> None:
        began_s = time.thread_time()
        call()
        took.append(time.thread_time() - began_s)
        is_done.set()

    thread._call(measure)
    assert is_done.wait(10)
    return took[0]


def test_a_run_is_cancelled_without_what_it_made_or_with_it(thread: LoopThread) -> None:
    first, second = _start(thread, 2)
    thread.cancel(first)
    thread.cancel(second, with_children=True)
    assert second.is_over.wait(10)
    assert sorted(second.cancelled) == ["child", "root"]
    assert first.cancelled == ["root"]
    thread.cancel(first, with_children=True)
    for _ in range(2):  # the cancel, and the step of the task that it reaches
        _timed(thread, lambda: None)
    assert first.cancelled == ["root", "child"]


def test_to_end_a_run_costs_the_same_however_many_there_are(thread: LoopThread) -> None:
    # At the end of a thousand runs, a look at every task for each of them stopped the loop for seconds.
    def cost(owners: list[_Owner]) -> float:
        return min(_timed(thread, partial(thread._cancel, owner, False)) for owner in owners[:20])

    alone = cost(_start(thread, 20))
    in_a_crowd = cost(_start(thread, 2_000))
    assert in_a_crowd < alone * 10 + 0.000_05, (alone, in_a_crowd)


def test_a_run_that_is_over_is_forgotten(thread: LoopThread) -> None:
    owners = _start(thread, 3)
    for owner in owners:
        thread.cancel(owner, with_children=True)
        assert owner.is_over.wait(10)
    for _ in range(2):  # what was called back for the end of the last task has been called then
        _timed(thread, lambda: None)
    assert not thread._tasks


def test_an_owner_that_knows_its_task_is_let_go_when_the_task_is_over(thread: LoopThread) -> None:
    class Knowing:
        async def work(self) -> None:
            self.task = asyncio.current_task()  # as a run's context does
            over.set()

    over = threading.Event()
    owner = Knowing()
    thread.start(owner, owner.work)
    assert over.wait(10)
    is_let_go = weakref.ref(owner)
    del owner
    until_s = time.monotonic() + 10
    while is_let_go() is not None and time.monotonic() < until_s:
        time.sleep(0.001)  # the task's last callback runs in its loop
        gc.collect()
    assert is_let_go() is None
