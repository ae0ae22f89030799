"""What the workers of one process share: room for runs, the loop of the user's code, threads for its blocking calls.

There is a worker for each database. The user's code is one program all the same: a client that it made once belongs to
one loop, so all of them run it on the same; and a process bears so many runs, wherever they come from.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import structlog

from runwire.agents.tracing import UNTRACED, Tracing
from runwire.resilience.breakers import Breakers
from runwire.resilience.gate import Gate
from runwire.resilience.memory import resident_bytes
from runwire.runtime.call_threads import CallThreads
from runwire.runtime.limits import WorkerSettings
from runwire.runtime.loop_thread import LoopThread
from runwire.runtime.run import Run
from runwire.runtime.spending import Spending
from runwire.runtime.watchdog import Stall, Watchdog

__all__ = ["Crew", "Workshop"]

_MEMORY_OPENS: Final = 0.95  # share of the limit; what a run has taken comes back in part only

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Crew:
    """The runs of one worker, as the others see them."""

    wake: Callable[[], None]  # tells the worker that there may be room again
    runs: set[Run] = field(default_factory=set)  # also those that have yet to let go of their code
    asked: int = 0  # room for claims that are on their way
    is_full: bool = False  # there was no room when the worker looked

    @property
    def used(self) -> int:
        """Return how much room it takes."""
        return len(self.runs) + self.asked


class Workshop:
    """Shared by the workers of a process. Control loop, but for what says otherwise.

    Args:
        settings: limits and times, of all workers together.
        spending: counts what the user's code reports to have used; None: nobody does.
        breakers: of what agents ask, those of the process; None: its own.
        tracing: of attempts.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        spending: Spending | None = None,
        breakers: Breakers | None = None,
        tracing: Tracing = UNTRACED,
    ) -> None:
        self._settings = settings
        self.spending = spending or Spending(tokens=None, cost=None)
        self._memory = Gate(settings.max_memory_bytes, opens_at=_MEMORY_OPENS)
        self.breakers = breakers or Breakers()  # what fails for one worker fails for all; any thread
        self.tracing = tracing
        self._calls = CallThreads(limit=settings.max_threads)
        self._crews: list[Crew] = []
        self._open = 0  # workers that are at work
        self._threads = 0

    @property
    def thread(self) -> LoopThread:
        """Return the loop that new runs begin on."""
        return self._thread

    @property
    def tasks(self) -> int:
        """Return how many tasks of the user's code are not over."""
        return self._thread.tasks if self._open else 0

    def join(self, wake: Callable[[], None]) -> Crew:
        """Take a worker in, before any of them is at work."""
        crew = Crew(wake)
        self._crews.append(crew)
        return crew

    def room(self, crew: Crew, *, limit: int) -> int:
        """Return how many runs a worker may claim now, so that all together never have more than the limit.

        Half of each worker's share is kept for it, whatever the others have to do: a database with a long queue never
        starves the others. The rest is for whoever comes. One claim takes no more than such a half: while the answer of
        a database that is away is waited for, what was asked of it is nobody's.
        """
        if self._is_short_of_memory():
            return 0  # looked at again when it polls
        others = [other for other in self._crews if other is not crew]
        if not others:
            return limit - crew.used
        kept = max(limit // (2 * len(self._crews)), 1)
        free = limit - crew.used - sum(max(other.used, kept) for other in others)
        crew.is_full = free <= 0
        return min(free, kept)

    def _is_short_of_memory(self) -> bool:
        if self._settings.max_memory_bytes is None:
            return False
        was_short, is_short = self._memory.is_closed, self._memory.look(resident_bytes() or 0)
        if is_short and not was_short:
            _log.warning("memory_short", limit_bytes=self._settings.max_memory_bytes)
        return is_short

    def leave(self) -> None:
        """Tell the workers that found no room that a run has gone."""
        for crew in self._crews:
            if crew.is_full:
                crew.wake()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Have the loop run while any worker is at work."""
        if not self._open:
            self._control = asyncio.get_running_loop()
            self._watchdog = Watchdog(warn_s=self._settings.blocked_warn_s, report=self._report_stall)
            self._thread = self._new_thread()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._watchdog.stop()
                self._thread.retire()

    def _new_thread(self) -> LoopThread:
        self._threads += 1
        thread = LoopThread(f"runwire-agents-{self._threads}", self._calls)
        self._watchdog.watch(thread)
        return thread

    def _report_stall(self, stall: Stall) -> None:
        """Hand a report over. Watchdog thread."""
        with contextlib.suppress(RuntimeError):  # the control loop has ended
            self._control.call_soon_threadsafe(self._see_stall, stall)

    def _see_stall(self, stall: Stall) -> None:
        """Name who blocks a loop; after a while end that run and let the others go on elsewhere."""
        if stall.thread.is_retired:
            return
        beside = [run for crew in self._crews for run in crew.runs if run.thread is stall.thread]
        begun = [run for run in beside if run.has_begun]
        # A guess is allowed only where there is one to guess at.
        culprit = stall.owner if isinstance(stall.owner, Run) else begun[0] if len(begun) == 1 else None
        if stall.is_new:
            _log.warning(
                "agent_loop_blocked",
                agent=culprit.claim.agent if culprit else None,
                run=culprit.claim.run if culprit else None,
                blocked_s=round(stall.blocked_s, 1),
                where=stall.where,
            )
        is_late = culprit is not None and culprit.is_late and stall.stuck_s >= self._settings.blocked_warn_s
        if stall.stuck_s < self._settings.blocked_fail_s and not is_late:
            return
        self._thread = self._new_thread()
        for run in beside:
            if run is culprit:
                run.block()
            elif not run.has_begun:
                run.thread = self._thread
            else:
                run.move()  # nobody was lost: it does not count towards `max_attempts`
        # Last, so that no run takes what this cancels for a time limit of its author's.
        stall.thread.retire()
