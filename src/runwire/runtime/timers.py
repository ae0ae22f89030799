"""The times that runs wait for: those of this worker's runs are met on time, those of parked runs by looking."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import Callable, Iterable
from typing import Final

from runwire.runtime.clock import now_ms
from runwire.runtime.renewal import Renewal
from runwire.storage.base import Answered, Bus, Storage, Wake

__all__ = ["Timers"]

_LIMIT: Final = 100  # waits resumed by one call
_AGAIN_S: Final = 0.25  # a time has come by our clock and not yet by the database's


class Timers:
    """Fires what is due, for any run and any worker: the first one wins. Control loop.

    It knows the times of the next two polls only, at most one for each open wait of the worker's runs: a parked run
    costs nothing, and an hour's sleep is looked for again when it is near.

    Args:
        storage: the database.
        bus: told of what was resumed, and who must look.
        renewal: makes the calls.
        due: the times that this worker's runs wait for, ms UTC.
        poll_s: how often to look for the parked runs of everybody.
    """

    def __init__(
        self, storage: Storage, bus: Bus, renewal: Renewal, *, due: Callable[[], Iterable[int]], poll_s: float
    ) -> None:
        self._storage = storage
        self._bus = bus
        self._renewal = renewal
        self._due = due
        self._poll_s = poll_s
        self._times: list[int] = []  # a heap
        self._wake = asyncio.Event()

    def expect(self, due_at: int) -> None:
        """Learn of a time that a run of this worker begins to wait for."""
        if due_at > self._horizon():
            return
        if not self._times or due_at < self._times[0]:
            self._wake.set()
        heapq.heappush(self._times, due_at)

    async def run(self) -> None:
        """Fire until cancelled."""
        loop = asyncio.get_running_loop()
        poll_at_s = 0.0
        while True:
            self._wake.clear()  # armed before looking
            if loop.time() >= poll_at_s:
                poll_at_s = loop.time() + self._poll_s
                horizon = self._horizon()
                self._times = sorted(due_at for due_at in self._due() if due_at <= horizon)
            elif not self._times or self._times[0] > now_ms():
                await self._pause(poll_at_s - loop.time())
                continue
            answered = await self._renewal.call(lambda: self._storage.runs.fire_timers(limit=_LIMIT))
            self._tell(answered)
            if len(answered) >= _LIMIT:
                poll_at_s = 0.0  # there may be more, also of runs that nobody holds: look at once
                continue
            now, was_due = now_ms(), False
            while self._times and self._times[0] <= now:
                heapq.heappop(self._times)
                was_due = True
            if was_due and not answered:
                poll_at_s = min(poll_at_s, loop.time() + _AGAIN_S)

    async def _pause(self, longest_s: float) -> None:
        pause_s = longest_s
        if self._times:
            pause_s = min(pause_s, (self._times[0] - now_ms()) / 1000 + 0.001)  # not a moment before it is due
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(pause_s, 0)):
                await self._wake.wait()

    def _horizon(self) -> int:
        return now_ms() + round(2 * self._poll_s * 1000)

    def _tell(self, answered: Iterable[Answered]) -> None:
        wakes: set[Wake] = set()
        for each in answered:
            if each.committed:
                self._bus.publish(each.committed)
            wakes.add(Wake(topic="runs" if each.is_parked else "signals"))
        for wake in wakes:
            self._bus.publish(wake)
