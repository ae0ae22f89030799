"""Watch the loops of the user's code from a thread of its own: a blocked loop cannot report itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from runwire.runtime.loop_thread import LoopThread

__all__ = ["Stall", "Watchdog", "Watched"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """A loop that has not answered for a while."""

    thread: LoopThread
    owner: object | None  # whose code it is stuck in; None: nobody can be named
    blocked_s: float  # since it answered last
    stuck_s: float  # how long of that in one and the same callback: the owner's share
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
        self._watched: dict[LoopThread, Watched] = {}
        self._looked_s = time.monotonic()
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
        while not self._is_over.wait(self._warn_s / 4):
            try:
                self._look(time.monotonic())
            except Exception:  # the top of a loop: nobody else watches
                _log.exception("watchdog_failed")

    def _look(self, now_s: float) -> None:
        slept_s, self._looked_s = now_s - self._looked_s, now_s
        threads = [thread for thread in self._threads if not thread.is_retired]
        if slept_s > self._warn_s:
            # This thread stood still, and with it the whole process: SIGSTOP, a paused container, a sleeping laptop.
            for thread in threads:
                thread.forgive(now_s)
            self._watched = {}
            return
        self._watched = {thread: self._watched.get(thread, Watched()) for thread in threads}
        for thread, watch in self._watched.items():
            blocked_s = thread.blocked_s(now_s)
            running = thread.running() if blocked_s else None
            stuck_s = watch.look(running, blocked_s=blocked_s, now_s=now_s)
            if blocked_s < self._warn_s:
                continue
            stall = Stall(
                thread=thread,
                owner=thread.owner_of(running),
                blocked_s=blocked_s,
                stuck_s=stuck_s,
                where=thread.where(),
                is_new=not watch.is_known,
            )
            watch.is_known = True
            self._report(stall)


class Watched:
    """What the looks at one loop saw since it answered last.

    A loop that is busy with a thousand short callbacks, or that one blocked for a while before it came to the next,
    is not to be charged to the one that happens to be running when its patience ends.
    """

    def __init__(self) -> None:
        self.is_known = False  # its stall has been reported
        self._running: object | None = None
        self._since_s: float | None = None

    def look(self, running: object | None, *, blocked_s: float, now_s: float) -> float:
        """Return for how long the loop has been seen in this callback; never more than it has been in it."""
        if not blocked_s:
            self.is_known, self._running, self._since_s = False, None, None
        elif self._since_s is None or running is not self._running:
            self._running, self._since_s = running, now_s
        return now_s - self._since_s if self._since_s is not None else 0.0
