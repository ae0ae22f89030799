"""Calls that run as tasks of their own: a caller that is cancelled stops waiting and cancels nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from runwire.errors import RunwireError, Unavailable

__all__ = ["Background", "Shared"]

T = TypeVar("T")


class Background:
    """The task group that calls run in, while `run` runs."""

    def __init__(self) -> None:
        self._group: asyncio.TaskGroup | None = None
        self._is_running = asyncio.Event()

    async def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run `main` with calls beside it; when it ends or is cancelled, so are they."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._is_running.set()
                await main
        finally:
            self._group = None
            self._is_running.clear()

    async def until_running(self) -> None:
        """Wait until calls can be started."""
        await self._is_running.wait()

    def start(self, work: Callable[[], Awaitable[T]]) -> asyncio.Future[T]:
        """Start a call; await the result through `asyncio.shield`. Raises Unavailable outside `run`."""
        if self._group is None:
            raise Unavailable("The auth client is not running; try again.", retry_after_s=1.0)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._group.create_task(_settle(work, future))
        return future


async def _settle(work: Callable[[], Awaitable[T]], future: asyncio.Future[T]) -> None:
    try:
        future.set_result(await work())
    except asyncio.CancelledError:
        # The client stops: its callers were not cancelled, so they must not see a cancellation.
        future.set_exception(Unavailable("The auth client is stopping; try again.", retry_after_s=1.0))
        future.exception()
        raise
    except Exception as error:  # the top of a task: the error is the caller's, and goes there
        future.set_exception(error)
        future.exception()  # seen: nobody may be waiting any more


class Shared(Generic[T]):
    """One call at a time: whoever asks while it runs gets its outcome."""

    def __init__(self, background: Background, work: Callable[[], Awaitable[T]]) -> None:
        self._background = background
        self._work = work
        self._flight: asyncio.Future[T] | None = None

    def start(self) -> asyncio.Future[T]:
        """Start the call unless it runs. Raises Unavailable when the client does not run."""
        if self._flight is None or self._flight.done():
            self._flight = self._background.start(self._work)
        return self._flight

    async def outcome(self) -> T:
        """Return the outcome of the running call, or of a new one."""
        return await asyncio.shield(self.start())

    async def next_outcome(self) -> T:
        """Return the outcome of a call that begins from now on."""
        if self._flight is not None and not self._flight.done():
            with contextlib.suppress(RunwireError):  # that one began before: its outcome is not ours
                await asyncio.shield(self._flight)
        return await self.outcome()
