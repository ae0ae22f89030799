"""The threads of the user's blocking calls: one for each, counted and bounded, and nobody waits for them at exit."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from runwire.errors import Unavailable

__all__ = ["OWNER", "CallThreads"]

T = TypeVar("T")

OWNER: Final[ContextVar[object]] = ContextVar("runwire_owner")
"""Whose code is running: set for every task and callback in a loop of the agents."""


class CallThreads(ThreadPoolExecutor):
    """The executor of the agents' loops: a daemon thread for each call, at most `limit` at a time.

    It stands behind `asyncio.to_thread`, name lookups and plain functions as tools. Python's own has a few threads
    for all, so that calls that hang would keep everybody from looking up a name; and it joins them at exit, so that
    one of them would keep the server from ending. At the limit a call is refused: `Unavailable`.

    Args:
        limit: of threads that are alive, also of those whose run has ended.
    """

    def __init__(self, *, limit: int) -> None:
        super().__init__(max_workers=1)  # never started; a loop takes no other class as its executor
        self._limit = limit
        self._lock = threading.Lock()
        self._live: Counter[object] = Counter()  # by owner
        self._count = 0

    def live(self, owner: object) -> int:
        """Return how many calls of this owner are not over. Any thread may call."""
        return self._live[owner]

    def submit(self, fn: Callable[..., T], /, *args: Any, **options: Any) -> Future[T]:
        """Call in a thread of its own, on behalf of whose code is running. Any thread may call.

        Raises:
            Unavailable: there are too many calls that are not over.
        """
        owner = OWNER.get(None)
        future: Future[T] = Future()
        self._enter(owner)

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                self._leave(owner)
                return
            try:
                result = fn(*args, **options)
            except StopIteration as error:  # a coroutine that waits cannot be given it (PEP 479)
                self._leave(owner)
                stopped = RuntimeError("the call raised StopIteration")
                stopped.__cause__ = error
                future.set_exception(stopped)
            except BaseException as raised:  # the user's code; also its SystemExit belongs to its caller
                self._leave(owner)
                future.set_exception(raised)
            else:
                self._leave(owner)
                future.set_result(result)

        try:
            threading.Thread(target=work, name="runwire-call", daemon=True).start()
        except RuntimeError as error:
            self._leave(owner)
            raise Unavailable("The system gives no more threads for blocking calls.", retry_after_s=1.0) from error
        return future

    def _enter(self, owner: object) -> None:
        with self._lock:
            if self._count >= self._limit:
                message = f"There are {self._count} blocking calls that have not returned, which is the limit."
                raise Unavailable(message, retry_after_s=1.0)
            self._count += 1
            self._live[owner] += 1

    def _leave(self, owner: object) -> None:
        with self._lock:
            self._count -= 1
            self._live[owner] -= 1
            if not self._live[owner]:
                del self._live[owner]
