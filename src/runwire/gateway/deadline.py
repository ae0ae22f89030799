"""An answer begins in time, or is an error: no request outlives a database that hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from runwire.errors import Unavailable
from runwire.gateway.request import problem_response

__all__ = ["Deadline", "extend"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_LIMIT: Final = "runwire.deadline"  # name in the scope


class Deadline:
    """Answer 503 in place of an app whose answer has not begun after so many seconds.

    What was asked may still happen: a write that waits for the disk is not taken back. A repetition with the
    same `Idempotency-Key` is harmless.

    Args:
        app: is cancelled at the deadline.
        answer_s: until its answer begins; streams have their own deadlines from there on.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], *, answer_s: float) -> None:
        self._app = app
        self._answer_s = answer_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        limit = asyncio.timeout(self._answer_s)

        async def sending(message: MutableMapping[str, Any]) -> None:
            if not limit.expired():
                limit.reschedule(None)  # it has begun
            await send(message)

        try:
            async with limit:
                scope[_LIMIT] = limit
                await self._app(scope, receive, sending)
        except TimeoutError:
            if not limit.expired():
                raise
            error = Unavailable("The database did not answer in time; ask again.", retry_after_s=1.0)
            await problem_response(error)(scope, receive, send)


def extend(scope: Scope, more_s: float) -> None:
    """Let an answer begin so much later: it waits for events, not for the database."""
    limit: asyncio.Timeout | None = scope.get(_LIMIT)
    if limit and not limit.expired() and (at_s := limit.when()) is not None:
        limit.reschedule(at_s + more_s)
