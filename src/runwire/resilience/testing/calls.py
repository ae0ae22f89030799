"""Calls through a breaker under test, one after the other or many at once. What the checks are made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from runwire.resilience.testing.subject import KitTerms, Made, Refused, Subject

__all__ = ["Broken", "Calls", "Down", "asked", "calling", "check", "down", "fine", "opened", "ready"]

_TURNS: Final = 50  # of the loop, in which whatever can go on does


class Broken(Exception):
    """A promise is not kept."""


class Down(ConnectionError):
    """What a service raises that is down."""


class Calls:
    """Calls through one breaker that are under way, until they are told how to end."""

    def __init__(self, subject: Subject, tasks: asyncio.TaskGroup) -> None:
        self._subject = subject
        self._tasks = tasks
        self._begun: list[asyncio.Future[None]] = []
        self._started: list[asyncio.Task[None]] = []
        self.refused = 0

    async def begin(self, count: int) -> int:
        """Make so many calls at once; return how many were let through. They wait for `end` or `cancel`."""
        before = len(self._begun)
        self._started += [self._tasks.create_task(self._call()) for _ in range(count)]
        await _turns()
        return len(self._begun) - before

    async def end(self, *, error: Exception | None = None, count: int | None = None) -> None:
        """End those that were let through first, all or so many."""
        for each in self._begun[:count]:
            if error is None:
                each.set_result(None)
            else:
                each.set_exception(error)
        del self._begun[: len(self._begun) if count is None else count]
        await _turns()

    async def cancel(self) -> None:
        """Cancel all that are under way."""
        for task in self._started:
            task.cancel()
        self._begun.clear()
        await _turns()

    async def _call(self) -> None:
        async def work() -> None:
            end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._begun.append(end)
            await end

        try:
            await self._subject.call(work)
        except Refused:
            self.refused += 1
        except (Down, TimeoutError, ValueError):
            pass


@asynccontextmanager
async def calling(subject: Subject) -> AsyncIterator[Calls]:
    """Yield calls through a breaker; whatever is under way at the end is cancelled."""
    async with asyncio.TaskGroup() as tasks:
        calls = Calls(subject, tasks)
        yield calls
        await calls.cancel()


async def _turns() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)


async def fine() -> None:
    """Answer."""


async def down() -> None:
    """Raise what a service does that is down."""
    raise Down("down")


async def asked(subject: Subject, work: Callable[[], Awaitable[object]] = fine, *, times: int = 1) -> int:
    """Call one after the other; return how many were let through."""
    through = 0
    for _ in range(times):
        try:
            await subject.call(work)
        except Refused:
            continue
        except (Down, TimeoutError, ValueError):
            pass
        through += 1
    return through


def check(is_kept: bool, found: str) -> None:
    """Raise Broken if a promise is not kept."""
    if not is_kept:
        raise Broken(found)


async def opened(made: Made, terms: KitTerms) -> Subject:
    """Return one that is open."""
    subject = made(terms)
    await asked(subject, down, times=terms.failures_in_row or 0)
    check(await asked(subject) == 0, f"not open after {terms.failures_in_row} failures")
    return subject


async def ready(made: Made, terms: KitTerms) -> Subject:
    """Return one that was open and will let probes through."""
    subject = await opened(made, terms)
    await subject.pass_time(terms.open_s * 1.01)
    return subject
