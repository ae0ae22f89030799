"""The user's code of one attempt, seen from the control loop: started, told to stop, waited for, let go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final

from runwire.runtime.endings import Ending
from runwire.runtime.loop_thread import LoopThread

__all__ = ["Code"]

_LOOK_S: Final = 0.05  # how often it is looked whether threads have ended


class Code:
    """What goes on in the agents' loop for one attempt. Control loop, but for what says otherwise.

    Args:
        owner: of its tasks and blocking calls.
        thread: where it is to run.
        grace_s: how long it may clean up when it was told to stop, and how long its blocking calls are waited for.
        on_over: called when it has ended.
    """

    def __init__(self, owner: object, thread: LoopThread, *, grace_s: float, on_over: Callable[[], None]) -> None:
        self.thread = thread  # may be another one until it begins
        self.has_begun = False
        self.is_over = False
        self.result: Ending | None = None  # how it ended by itself
        self.abandoned = 0  # of it and its blocking calls, what goes on although the run has ended
        self._owner: object = owner
        self._grace_s = grace_s
        self._on_over: Callable[[], None] | None = on_over
        self._is_blocked = False
        self._has_waited = False  # it had its grace
        self._unwound = asyncio.Event()  # it has ended, or is not waited for

    @property
    def calls(self) -> int:
        """Return how many of its blocking calls are not over."""
        return self.thread.calls_of(self._owner)

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start it; `finish` must be called when it ends."""
        self.has_begun = True
        self.thread.start(self._owner, work)

    def finish(self, result: Ending | None) -> None:
        """Learn that it has ended, and how if by itself."""
        self.is_over = True
        self.result = result
        self._unwound.set()
        if self._on_over:
            self._on_over()

    def block(self) -> None:
        """Learn that it blocks its loop: it cannot be told anything, and is not waited for."""
        self._is_blocked = True
        self._unwound.set()

    async def unwind(self) -> None:
        """Cancel it, and wait until it has ended, for its grace at most."""
        self.thread.cancel(self._owner)
        if not self.has_begun:
            return
        self._has_waited = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                await self._unwound.wait()

    async def leave(self) -> None:
        """Unwind it so that another attempt may go on: also its blocking calls are waited for.

        Else that attempt would begin a tool beside what is left of the same one here.
        """
        if self.thread.is_retired:  # there nothing comes to its end; it ends where it is
            self.thread.cancel(self._owner)
        else:
            await self.unwind()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                while self.calls:  # noqa: ASYNC110 - the end of a thread is no event of this loop
                    await asyncio.sleep(_LOOK_S)

    async def let_go(self) -> None:
        """Make sure that it has ended, or count it as abandoned; its Context is dead already."""
        if not self.has_begun:
            return
        if not self.thread.is_retired or self._is_blocked:  # else it ends with its thread
            if not self.is_over and not self._has_waited:
                await self.unwind()
            self.thread.cancel(self._owner, with_children=True)
            self.abandoned += not self.is_over
        self.abandoned += self.calls

    def part(self) -> None:
        """Forget the run, which is over; what goes on may still come to its end."""
        self._owner = self._on_over = None
