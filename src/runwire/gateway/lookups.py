"""Whose thread is it, and where does it end: asked by everybody who subscribes, answered for all of them at once.

When a node dies, all its clients subscribe at another one within a second. What is asked while a query runs goes into
the next one, so that a storm costs a few queries and no client waits for a pause made on purpose.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import structlog

from runwire.errors import NotFound, RunwireError, Unavailable
from runwire.protocol.ids import ID_PATTERN
from runwire.storage.base import Storage, ThreadRow

__all__ = ["Found", "Lookups"]

_log: Final = structlog.get_logger(__name__)
_AT_ONCE: Final = 1_000  # threads of one query, as the port allows
_QUERIES: Final = 2  # at a time: one that hangs does not hold up all
_WAITING: Final = 20_000  # look-ups that wait; one more is refused
_IS_ID: Final = re.compile(ID_PATTERN)

_Pair = tuple[str, str]


class Found(NamedTuple):
    """A thread of the user who asked."""

    row: ThreadRow
    log: str  # the history that tells so: by the time the answer is heard there may be another


class Lookups:
    """Look up threads within their users.

    Limit: `_WAITING` threads wait to be looked up; who asks for another one gets `Unavailable`.

    Args:
        storage: where they are.
        query_s: a query that takes longer is given up.
    """

    def __init__(self, storage: Storage, *, query_s: float) -> None:
        self._query_s = query_s
        self._storage = storage
        self._waiting: dict[_Pair, asyncio.Future[Found]] = {}  # in the order in which they came
        self._has_waiting = asyncio.Event()

    async def get(self, user: str, thread: str) -> Found:
        """Return a thread of this user, as it is after this call.

        Raises:
            NotFound: unknown, deleted, or somebody else's.
            Unavailable: the database does not answer, or too many wait for it.
        """
        if not _IS_ID.match(thread):
            raise _no_thread()  # never asked for: what a database refuses would cost the others their answer
        answer = self._waiting.get((user, thread))
        if answer is None:
            if len(self._waiting) >= _WAITING:
                raise Unavailable("Too many wait for the database; try again.", retry_after_s=1.0)
            answer = self._waiting[user, thread] = asyncio.get_running_loop().create_future()
            self._has_waiting.set()
        try:
            # The query before it, then its own.
            async with asyncio.timeout(2.5 * self._query_s):
                return await asyncio.shield(answer)  # others may wait for it too
        except TimeoutError:
            raise Unavailable("The database does not answer; try again.", retry_after_s=1.0) from None

    async def run(self) -> None:
        """Answer until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_QUERIES):
                group.create_task(self._answer_all())

    async def _answer_all(self) -> None:
        while True:
            await self._has_waiting.wait()
            # Who asks from here on wants to know what is true from here on: that is the next query's.
            batch, self._waiting = _split(self._waiting)
            if not self._waiting:
                self._has_waiting.clear()
            if batch:
                await self._answer(batch)

    async def _answer(self, batch: dict[_Pair, asyncio.Future[Found]]) -> None:
        try:
            async with asyncio.timeout(self._query_s):
                rows = await self._storage.threads.get_many(batch.keys())
        except Exception as error:  # top of a worker loop: those who wait are told
            if not isinstance(error, (RunwireError, TimeoutError)):
                _log.exception("lookup_failed", threads=len(batch), error=type(error).__name__)
            _refuse(batch.values())
            return
        log = self._storage.log
        for pair, answer in batch.items():
            row = rows.get(pair)
            if row is None:
                _fail(answer, _no_thread())
            else:
                answer.set_result(Found(row, log))


def _split(
    waiting: dict[_Pair, asyncio.Future[Found]],
) -> tuple[dict[_Pair, asyncio.Future[Found]], dict[_Pair, asyncio.Future[Found]]]:
    """Return those that go into one query, and the others."""
    if len(waiting) <= _AT_ONCE:
        return waiting, {}
    pairs = list(waiting.items())
    return dict(pairs[:_AT_ONCE]), dict(pairs[_AT_ONCE:])


def _refuse(answers: Iterable[asyncio.Future[Found]]) -> None:
    for answer in answers:
        _fail(answer, Unavailable("The database does not answer; try again.", retry_after_s=1.0))


def _fail(answer: asyncio.Future[Found], error: RunwireError) -> None:
    answer.set_exception(error)
    answer.exception()  # seen: whoever waited may be gone


def _no_thread() -> NotFound:
    return NotFound("There is no such thread.", field="thread")
