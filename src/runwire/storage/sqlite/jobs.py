"""A piece of database work on its way to a thread and back to the event loop that asked for it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from runwire.errors import Unavailable

__all__ = ["Job", "deliver", "unavailable"]

T = TypeVar("T")


class Job(Generic[T]):
    """One call of `read` or `write`: made in a loop, executed in a thread, settled in that loop."""

    __slots__ = ("checks_references", "error", "future", "is_alone", "loop", "value", "work")

    def __init__(
        self, work: Callable[[sqlite3.Connection], T], *, checks_references: bool = True, is_alone: bool = False
    ) -> None:
        self.work = work
        self.checks_references = checks_references
        self.is_alone = is_alone  # outside of any transaction
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self.loop.create_future()
        self.value: T | None = None
        self.error: BaseException | None = None

    def execute(self, connection: sqlite3.Connection) -> None:
        """Do the work, keeping its value or its error; an earlier outcome is forgotten."""
        self.value = self.error = None
        try:
            self.value = self.work(connection)
        except Exception as error:  # the top of a worker loop: it is the caller's, and goes there
            self.error = error

    def settle(self) -> None:
        """Hand the outcome to the caller, unless it was cancelled; runs in the caller's loop."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.value)  # type: ignore[arg-type]  # None is the value when T allows it
        elif isinstance(self.error, sqlite3.Error):
            self.future.set_exception(unavailable(self.error))
        else:
            self.future.set_exception(self.error)


def unavailable(error: sqlite3.Error) -> Unavailable:
    """Return what a caller may see of a driver's error, which stays its `__cause__`."""
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    result = Unavailable(f"The database refused the work ({name}); try again.", retry_after_s=1.0)
    result.__cause__ = error
    return result


def deliver(jobs: Iterable[Job[Any]]) -> None:
    """Settle executed jobs, waking each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Job[Any]]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, theirs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, theirs)
        except RuntimeError:  # that loop is closed: nobody waits any more
            continue


def _settle(jobs: list[Job[Any]]) -> None:
    for job in jobs:
        job.settle()
