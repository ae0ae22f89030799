"""Who of an attempt's tasks may speak, and whether any of them is busy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from runwire.agents.attempt import Place

__all__ = ["Leaves"]


class Leaves:
    """The tasks of an attempt and their places; the busy ones are counted. Agent loop, but for what says otherwise.

    A leaf is a task that waits for no branches of its own. It is busy unless it waits for a person or a time, or at a
    boundary: whatever else it awaits, a thread, a socket, a sleep of asyncio's, counts as work.

    Args:
        on_idle: told whether every leaf waits, when that changes.
    """

    def __init__(self, on_idle: Callable[[bool], None]) -> None:
        self.places: dict[asyncio.Task[Any] | None, Place] = {}  # the agent's own task, and at most 1,000 per `gather`
        self._on_idle: Callable[[bool], None] | None = on_idle
        self._busy = 0
        self._idle_since_s: float | None = None
        self._idle_s = 0.0

    @property
    def is_idle(self) -> bool:
        """Return whether every leaf waits. Any thread."""
        return self._idle_since_s is not None

    @property
    def is_alone(self) -> bool:
        """Return whether every leaf but the running one waits."""
        return self._busy == 1

    def idle_s(self) -> float:
        """Return for how long together every leaf has waited. Any thread."""
        since_s, idle_s = self._idle_since_s, self._idle_s
        return idle_s if since_s is None else idle_s + time.monotonic() - since_s

    def enter(self) -> None:
        """Make the running task the agent's own."""
        self.places[asyncio.current_task()] = Place()
        self._busy = 1

    def fork(self, places: Mapping[asyncio.Task[Any], Place]) -> None:
        """Let branches of the running task speak until they are done; it waits for them and is no leaf meanwhile."""
        left = len(places)

        def leave(task: asyncio.Task[Any]) -> None:
            nonlocal left
            left -= 1
            del self.places[task]
            if left:  # the last one's part goes to the task that waited for it
                self.pause()

        self._busy += left - 1
        for task, place in places.items():
            self.places[task] = place
            # A callback and not a `finally` of its own: a task that is cancelled before it begins has none.
            task.add_done_callback(leave)

    def pause(self) -> None:
        """Count a leaf as waiting."""
        self._busy -= 1
        if self._busy == 0:
            self._idle_since_s = time.monotonic()
            self._tell(True)

    def go_on(self) -> None:
        """Count a leaf as busy again."""
        self._busy += 1
        if self._idle_since_s is not None:
            self._idle_s += time.monotonic() - self._idle_since_s
            self._idle_since_s = None
            self._tell(False)

    def part(self) -> None:
        """Tell nobody any more. Any thread."""
        self._on_idle = None

    def _tell(self, is_idle: bool) -> None:
        if on_idle := self._on_idle:  # read once: the run may end between any two lines
            on_idle(is_idle)
