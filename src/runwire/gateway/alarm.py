"""One timer, set anew with each turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Alarm"]


class Alarm:
    """Call back at a time or before it: who is called looks at the clock, and sets the alarm anew.

    Args:
        loop: its clock counts.
        call: what to call.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call = call
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at_s: float, *, now_s: float) -> None:
        """Move the alarm to this time, monotonic; infinity: never."""
        timer = self._timer
        if timer:
            if now_s < timer.when() <= at_s:
                return  # early is good enough: most who set it need no timer of their own
            timer.cancel()
        self._timer = self._loop.call_at(at_s, self._call) if at_s < float("inf") else None

    def cancel(self) -> None:
        """Call no more, and let go of who was called: it holds this, and nothing that has ended may hold itself."""
        self._call = _nobody
        if self._timer:
            self._timer.cancel()
            self._timer = None


def _nobody() -> None:
    return
