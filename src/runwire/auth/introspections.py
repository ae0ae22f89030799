"""What are these API keys good for: asked by everybody who comes with one, answered for many at once.

When a gateway dies, its clients come to one that knows none of their keys. What is asked while a request goes on goes
into the next one, so that a crowd costs a few requests and nobody waits for a pause made on purpose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from runwire.auth.background import Background
from runwire.auth.remote import BATCH, Introspected, NoBatches, Remote
from runwire.errors import RunwireError, Unavailable

__all__ = ["Introspections"]

_REQUESTS: Final = 2  # at a time: one that hangs does not hold up all
_WAITING: Final = 10_000  # keys that wait to be asked about; one more is refused
_WAIT_S: Final = 9.0  # for an answer; a socket waits for its identity for 10 s


class Introspections:
    """Ask about keys, many at once.

    Limit: `_WAITING` keys wait; who brings another one gets `Unavailable`.

    Args:
        remote: the service.
        background: where requests run.
    """

    def __init__(self, remote: Remote, *, background: Background) -> None:
        self._remote = remote
        self._background = background
        self._waiting: dict[str, asyncio.Future[Introspected]] = {}  # in the order in which they came
        self._open = 0

    async def ask(self, key: str) -> Introspected:
        """Return what a key is good for, by a request that begins after this call.

        Raises:
            Unavailable: the service does not answer, or too many wait for it.
        """
        answer = self._waiting.get(key)
        if answer is None:
            if len(self._waiting) >= _WAITING:
                raise _too_many()
            answer = self._waiting[key] = asyncio.get_running_loop().create_future()
            self._go_on()
        try:
            async with asyncio.timeout(_WAIT_S):
                return await asyncio.shield(answer)  # others may wait for it too
        except TimeoutError:
            raise _too_many() from None

    def _go_on(self) -> None:
        if self._open < _REQUESTS and self._waiting:
            self._background.start(self._ask_waiting)  # raises Unavailable when the client does not run
            self._open += 1

    async def _ask_waiting(self) -> None:
        try:
            while self._waiting:
                # Whoever asks from here on wants to know what is true from here on: that is the next request's.
                batch = {key: self._waiting.pop(key) for key in list(self._waiting)[:BATCH]}
                try:
                    await self._answer(batch)
                finally:
                    _fail(batch.values(), Unavailable("The auth client is stopping; try again.", retry_after_s=1.0))
        finally:
            self._open -= 1

    async def _answer(self, batch: dict[str, asyncio.Future[Introspected]]) -> None:
        if len(batch) > 1:
            try:
                answers = await self._remote.introspect_many(list(batch))
            except NoBatches:
                pass
            except RunwireError as error:
                _fail(batch.values(), error)
                return
            else:
                for future, answer in zip(batch.values(), answers, strict=True):
                    future.set_result(answer)
                return
        async with asyncio.TaskGroup() as group:
            for key, future in batch.items():
                group.create_task(self._answer_one(key, future))

    async def _answer_one(self, key: str, future: asyncio.Future[Introspected]) -> None:
        try:
            future.set_result(await self._remote.introspect(key))
        except RunwireError as error:
            _fail((future,), error)


def _fail(answers: Iterable[asyncio.Future[Introspected]], error: RunwireError) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)
            answer.exception()  # seen: whoever waited may be gone


def _too_many() -> Unavailable:
    return Unavailable("Too many sign-ins at the moment; try again.", retry_after_s=1.0)
