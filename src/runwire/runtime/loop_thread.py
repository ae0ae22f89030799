"""A thread with an event loop for the user's code, so that it can block itself but never a socket."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from types import FrameType
from typing import Any, Final, TypeVar

import structlog

from runwire.runtime.call_threads import OWNER, CallThreads

__all__ = ["LoopThread"]

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class LoopThread:
    """An event loop in a daemon thread; each task on it, and each task or callback it schedules, has an owner.

    A thread whose loop is blocked cannot be ended from outside. `retire` lets it go: its tasks are cancelled
    as soon as it runs again, and it never holds up the end of the process.

    Args:
        name: of the thread, for debuggers and logs.
        calls: the threads of blocking calls, shared with other loops.
    """

    def __init__(self, name: str, calls: CallThreads) -> None:
        self._calls = calls
        self._loop = asyncio.new_event_loop()
        self._loop.set_task_factory(self._make_task)
        self._loop.set_exception_handler(_log_stray)
        self._loop.set_default_executor(calls)
        # Of tasks that are not over. Not weakly: a run knows its tasks, and would keep itself alive as their value.
        self._owners: dict[asyncio.Future[Any], object] = {}
        # Tasks that are not over, by owner: to look at all of them at the end of each of a thousand runs blocked the
        # loop for seconds (measured).
        self._tasks: dict[object, set[asyncio.Task[Any]]] = {}
        self._is_retired = False
        self._pinged_s: float | None = None  # when the unanswered ping was sent
        self._forgiven_s = 0.0  # not answering before this counts for nothing
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    @property
    def is_retired(self) -> bool:
        """Return whether no more work may be started here."""
        return self._is_retired

    @property
    def tasks(self) -> int:
        """Return how many tasks of owners are not over. Any thread may call."""
        return len(self._owners)

    def start(self, owner: object, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine as a task of this owner. Any thread may call."""
        self._call(self._launch, owner, work)

    def cancel(self, owner: object, *, with_children: bool = False) -> None:
        """Cancel the owner's own task, or also every task that it made. Any thread may call."""
        self._call(self._cancel, owner, with_children)

    def calls_of(self, owner: object) -> int:
        """Return how many blocking calls of this owner are not over. Any thread may call."""
        return self._calls.live(owner)

    def retire(self) -> None:
        """End the loop: cancel its tasks and stop, as soon as it can. Any thread may call; returns at once."""
        self._is_retired = True
        self._call(self._loop.stop)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread of a retired loop; return whether it ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def blocked_s(self, now_s: float) -> float:
        """Return for how long the loop has not answered, and ping it if it has. Watchdog thread only."""
        pinged_s = self._pinged_s  # read once: the loop may answer between any two lines
        if pinged_s is None:
            self._pinged_s = now_s
            self._call(self._pong)
            return 0.0
        return max(now_s - max(pinged_s, self._forgiven_s), 0.0)

    def forgive(self, now_s: float) -> None:
        """Count only from now on for how long the loop has not answered. Watchdog thread only."""
        self._forgiven_s = now_s

    def running(self) -> asyncio.Handle | None:
        """Return the callback that is running at this moment: a step of a task, or any other. Any thread may call.

        None: none is, or the loop is not Python's own (uvloop shows no frames).
        """
        frame = self._frame()
        while frame is not None:
            if frame.f_code is asyncio.Handle._run.__code__:  # noqa: SLF001 - no public way
                handle: asyncio.Handle | None = frame.f_locals.get("self")
                return handle
            frame = frame.f_back
        return None

    def owner_of(self, running: asyncio.Handle | None) -> object | None:
        """Return whose code is running, given what `running` returned. Any thread may call."""
        task = asyncio.current_task(self._loop)
        owner = None if task is None else self._owners.get(task)
        if owner is None and running is not None:
            # No task's step, or of a task that somebody else made: a callback runs in the context it was scheduled in.
            context: contextvars.Context = running._context  # type: ignore[attr-defined] # noqa: SLF001 - no public way
            owner = context.get(OWNER)
        return owner

    def where(self) -> str:
        """Return the user's line that the thread is at, such as `agent.py:12 in agent`. Any thread may call."""
        frame = self._frame()
        if frame is None:
            return "nowhere"
        lines = traceback.extract_stack(frame)
        theirs = (line for line in reversed(lines) if "lib/python" not in line.filename and line.filename != __file__)
        line = next(theirs, lines[-1])
        return f"{line.filename}:{line.lineno} in {line.name}"

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 - the documented way to see another thread

    def _call(self, callback: Callable[..., object], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nothing left to start or cancel
            self._loop.call_soon_threadsafe(callback, *args)

    def _main(self) -> None:
        while not self._is_retired:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                # asyncio lets these through from any task, and the user's code may well call sys.exit().
                _log.warning("agent_loop_exit_ignored", thread=self._thread.name)
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            self._loop.run_until_complete(self._wind_up())
        with contextlib.suppress(RuntimeError):  # an async generator that will not close
            self._loop.close()

    async def _wind_up(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        await self._loop.shutdown_asyncgens()

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = asyncio.Task(coro, loop=loop, **options)
        owner = OWNER.get(None)  # of the task that makes this one
        if owner is not None:
            self._owners[task] = owner
            self._tasks.setdefault(owner, set()).add(task)
            task.add_done_callback(partial(self._forget, owner))
        return task

    def _forget(self, owner: object, task: asyncio.Task[Any]) -> None:
        del self._owners[task]
        tasks = self._tasks[owner]
        tasks.discard(task)
        if not tasks:
            del self._tasks[owner]

    def _launch(self, owner: object, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        context = contextvars.copy_context()
        context.run(OWNER.set, owner)
        # Not in a TaskGroup: it would wait for code that ignores its cancellation. The owner's run watches over it.
        context.run(self._loop.create_task, work(), name=_ROOT)

    def _cancel(self, owner: object, with_children: bool) -> None:
        for task in tuple(self._tasks.get(owner, ())):
            if with_children or task.get_name() == _ROOT:
                task.cancel()

    def _pong(self) -> None:
        self._pinged_s = None


_ROOT: Final = "agent"


def _log_stray(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what a task of the user's code raised that nobody awaited."""
    _log.warning("agent_task_failed", reason=context.get("message"), exc_info=context.get("exception"))
