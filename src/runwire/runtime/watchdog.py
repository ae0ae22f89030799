"""Watch the loops of the user's code from a thread of its own: a blocked loop cannot report itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from runwire.runtime.loop_thread import LoopThread

__all__ = ["Stall", "Watchdog"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """A loop that has not answered for a while."""

    thread: LoopThread
    owner: object | None  # whose task it is stuck in; None: in no task
    blocked_s: float
    where: str  # the line it is at
    is_new: bool  # the first report since it answered last


class Watchdog:
    """Ping the loops and report those that have been blocked for `warn_s`, again with each look.

    Args:
        warn_s: from when on a loop counts as blocked; it looks four times as often.
        report: called in the watchdog's thread.
    """

    def __init__(self, *, warn_s: float, report: Callable[[Stall], None]) -> None:
        self._warn_s = warn_s
        self._report = report
        self._threads: tuple[LoopThread, ...] = ()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._main, name="runwire-watchdog", daemon=True)
        self._thread.start()

    def watch(self, thread: LoopThread) -> None:
        """Watch this loop too, and forget those that are retired."""
        self._threads = (*(each for each in self._threads if not each.is_retired), thread)

    def stop(self) -> None:
        """Stop watching."""
        self._is_over.set()

    def _main(self) -> None:
        stalled: set[LoopThread] = set()
        while not self._is_over.wait(self._warn_s / 4):
            for thread in self._threads:
                blocked_s = thread.blocked_s(time.monotonic())
                if blocked_s < self._warn_s or thread.is_retired:
                    stalled.discard(thread)
                    continue
                stall = Stall(
                    thread=thread,
                    owner=thread.running_owner(),
                    blocked_s=blocked_s,
                    where=thread.where(),
                    is_new=thread not in stalled,
                )
                stalled.add(thread)
                self._report(stall)
