"""What the user's code sees of its run: one `Context`, given to `agent(ctx, message)`.

Whatever is said here goes, in order: checked and made plain (`payload`), matched against the log of earlier
attempts (`protocol.replay`), into the run's bounded buffer (`runtime.outbox`). The runtime stands behind the
small port `Attempt`, so that this room knows no worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar, TypeVarTuple

import msgspec
import structlog

from runwire.agents.payload import MAX_VALUE_BYTES, check_text, plain, put_aside, told
from runwire.errors import Fenced, PayloadError, RunFailed, RunwireError
from runwire.protocol.events import EventError
from runwire.protocol.ids import new_id
from runwire.protocol.replay import TOOL_CANCELLED, Emit, Replay, Step

__all__ = ["Attempt", "Context", "RunEnded", "ToolFailed", "User", "closing"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# A delta is never put aside (PROTOCOL §2), so its text is cut below 64 KiB of JSON: at most six bytes a character.
_PIECE_CHARS: Final = 8192

_log = structlog.get_logger(__name__)


class ToolFailed(RunwireError):
    """Tell the agent that a tool failed.

    A tool may raise it itself: then its sentence is shown to the person and kept for a replay. Of any other
    exception only the type's name and an error id are; the text stays in the server's log.
    """

    code = "tool_error"


class RunEnded(Fenced):
    """Tell code that outlived its run: nothing it says counts any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who started the run, as it was when the run started."""

    id: str
    name: str = ""
    roles: frozenset[str] = field(default_factory=frozenset)


class Attempt(Protocol):
    """What a Context needs of the attempt it belongs to; `runtime.run.Run` is one. Agent loop only."""

    async def say(
        self, speech: Callable[[Replay, *Ts], list[Emit]], *args: *Ts, blobs: Mapping[str, bytes] | None = None
    ) -> None:
        """Emit what the speech adds to the log; waits only for room in the run's buffer.

        Args:
            speech: a method of the run's matcher.
            *args: its arguments.
            blobs: values that these events name by `$ref`.

        Raises:
            RunEnded: the run is over for this code.
            RunFailed: used from another task, or it differs where it may not.
        """
        ...

    async def begin_step(self, scope: str, name: str, args: Any, blobs: Mapping[str, bytes]) -> Step:
        """Begin a step; returns once its beginning is committed, or at once if its result is recorded."""
        ...

    async def end_step(
        self, speech: Callable[[Replay], list[Emit]], *, blobs: Mapping[str, bytes] | None = None
    ) -> None:
        """Emit the end of a step."""
        ...

    def cut_step(self, step: Step, *, duration_ms: int) -> None:
        """End a step that the agent stopped waiting for, unless it has ended or the run is being unwound."""
        ...

    @property
    def is_stopping(self) -> bool:
        """Return whether the run is being unwound: then a cancellation is the server's, not the author's."""
        ...

    async def resolve(self, value: Any) -> Any:
        """Return a recorded field as it was given, read back if it was put aside."""
        ...

    def seconds_left(self) -> float:
        """Return how long the run may still run."""
        ...


class Context:
    """Everything an agent can do in its run. Use it from the agent's own task only.

    ::

        async def agent(ctx, message):
            await ctx.thinking("Let me look that up")
            found = await ctx.tool(search, query=message)
            yield f"I found {found}"
    """

    def __init__(
        self, attempt: Attempt, *, run: str, thread: str, user: User, history: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self._attempt = attempt
        self._run = run
        self._thread = thread
        self._user = user
        self._history = [dict(message) for message in history]
        self._scope = ""  # "" the run, else the try of the tool that is running
        self._step: Step | None = None
        self._open_bytes = 0  # of the message that `write` streams into

    @property
    def run(self) -> str:
        """Id of this run."""
        return self._run

    @property
    def thread(self) -> str:
        """Id of the conversation."""
        return self._thread

    @property
    def user(self) -> User:
        """Who started the run: `.id`, `.name`, `.roles`, as they were when it started."""
        return self._user

    @property
    def history(self) -> list[dict[str, Any]]:
        """The conversation up to and with this run's message: `[{"role": "user", "content": "…"}, …]`."""
        return self._history

    @property
    def deadline(self) -> float:
        """Seconds this run may still run before it fails."""
        return self._attempt.seconds_left()

    @property
    def idempotency_key(self) -> str:
        """Within a tool: a key that stays the same when a crash repeats the call; outside: the run's id."""
        return self._run if self._step is None else f"{self._run}:{self._step.key}"

    async def thinking(self, text: str | AsyncIterable[str]) -> None:
        """Show a thought: a whole text, or a stream of pieces.

        Raises:
            PayloadError: not text, NUL, a lone surrogate, over 8 MiB.
        """
        self._open_bytes = 0
        scope = self._scope
        if not isinstance(text, AsyncIterable):
            blobs: dict[str, bytes] = {}
            thought = put_aside(_text(text), blobs)
            await self._attempt.say(Replay.thinking, scope, thought, blobs=blobs)
            return
        size = 0
        async with closing(text) as parts:
            async for part in parts:
                size = _grown(size, _text(part))
                for piece in _pieces(part):
                    await self._attempt.say(Replay.thinking_delta, scope, piece)
        await self._attempt.say(Replay.end_thinking, scope)

    async def message(self, text: str | AsyncIterable[str]) -> None:
        """Write one message: a whole text, or a stream of pieces.

        Raises:
            PayloadError: not text, NUL, a lone surrogate, over 8 MiB.
        """
        scope = self._scope
        self._open_bytes = 0
        if not isinstance(text, AsyncIterable):
            await self._attempt.say(Replay.message, scope, _text(text))
            return
        await self._close_message(scope)
        try:
            async with closing(text) as parts:
                async for part in parts:
                    await self.write(part)
        except Exception:  # the user's own stream broke: what it said stays one message
            await self._close_message(scope)
            raise
        await self._close_message(scope)

    async def write(self, text: str) -> None:
        """Go on with the open message, or open one: what a `yield` of text does.

        Raises:
            PayloadError: not text, NUL, a lone surrogate, over 8 MiB together.
        """
        self._open_bytes = _grown(self._open_bytes, _text(text))
        for piece in _pieces(text):
            await self._attempt.say(Replay.write, self._scope, piece)

    async def custom(self, name: str, value: Any) -> None:
        """Show whatever the agent's author wants to show, e.g. `ctx.custom("progress", {"done": 3})`.

        Raises:
            PayloadError: the value has no JSON form, or is over 8 MiB.
        """
        self._open_bytes = 0
        blobs: dict[str, bytes] = {}
        label, shown = _text(name), put_aside(plain(value), blobs)
        await self._attempt.say(Replay.custom, self._scope, label, shown, blobs=blobs)

    async def tool(self, fn: Callable[..., Any], /, **args: Any) -> Any:
        """Call a function as a tool, once: after a crash a finished call returns its recorded result.

        An async function runs in the agent's task; any other runs in its own thread, which goes on until it
        returns even if the run is cancelled: give what it waits for a time limit. The call is committed to the
        log before the function is called. A time limit of the agent's own around it (`asyncio.timeout`) ends the
        call for good: a replay does not repeat it, and waits there for the same limit.

        Returns:
            The function's result as JSON gives it back (a tuple is a list).

        Raises:
            ToolFailed: the function raised, or its result has no JSON form.
            PayloadError: the arguments have no JSON form.
        """
        self._open_bytes = 0
        blobs: dict[str, bytes] = {}
        given = put_aside(plain(args), blobs)
        step = await self._attempt.begin_step(self._scope, _tool_name(fn), given, blobs)
        if step.recorded is None:
            return await self._call(step, fn, args)
        if step.recorded.ok:
            result = step.recorded.result
            return None if result is msgspec.UNSET else await self._attempt.resolve(result)
        error = step.recorded.error
        if error is msgspec.UNSET:  # cannot happen: a failed step is stored with its error
            raise ToolFailed("the tool failed")
        if error.code == TOOL_CANCELLED:
            await asyncio.get_running_loop().create_future()  # for ever: until the limit that ended it ends it again
        raise ToolFailed(error.message, code=error.code)

    async def _call(self, step: Step, fn: Callable[..., Any], args: dict[str, Any]) -> Any:
        """Run the function inside its try's scope and journal how it ended, however it is left."""
        began_s = time.monotonic()
        try:
            return await self._perform(step, fn, args, began_s=began_s)
        except asyncio.CancelledError:  # of the agent's task, wherever in there
            self._attempt.cut_step(step, duration_ms=_since_ms(began_s))
            raise

    async def _perform(self, step: Step, fn: Callable[..., Any], args: dict[str, Any], *, began_s: float) -> Any:
        outer = self._scope, self._step
        self._scope, self._step = step.scope, step
        blobs: dict[str, bytes] = {}
        try:
            value = plain(await _invoke(fn, args))
            result = put_aside(value, blobs)
        except BaseException as raised:  # the user's tool; also its SystemExit is a failure of the tool alone
            if self._is_unwinding(raised):
                raise
            failure = self._describe(step, raised)
            spent_ms = _since_ms(began_s)
            await self._attempt.end_step(
                lambda replay: replay.end_step(step, ok=False, error=failure, duration_ms=spent_ms)
            )
            raise ToolFailed(failure.message, code=failure.code) from raised
        finally:
            self._scope, self._step = outer
        spent_ms = _since_ms(began_s)
        await self._attempt.end_step(
            lambda replay: replay.end_step(step, ok=True, result=result, duration_ms=spent_ms), blobs=blobs
        )
        return value

    def _is_unwinding(self, raised: BaseException) -> bool:
        """Return whether an exception is about the agent or the run that waits here, and no failure of the tool."""
        if isinstance(raised, asyncio.CancelledError):
            # Of the task: by us, or by a time limit of the author's. Else the tool awaited something cancelled.
            task = asyncio.current_task()
            return task is not None and task.cancelling() > 0
        if isinstance(raised, Fenced | RunFailed):
            return self._attempt.is_stopping
        return isinstance(raised, GeneratorExit)

    def _describe(self, step: Step, raised: BaseException) -> EventError:
        """Return what the person may see of a tool's exception; the rest goes to the server's log."""
        if isinstance(raised, ToolFailed | PayloadError):
            code = told(raised.code)
            # Its author may have given anything as text, or have made a class that keeps none.
            message = told(getattr(raised, "message", raised))
            return EventError(code=ToolFailed.code if code == TOOL_CANCELLED else code, message=message)
        error_id = new_id("err")
        _log.warning("tool_failed", run=self._run, tool=step.name, error_id=error_id, exc_info=raised)
        return EventError(code=ToolFailed.code, message=f"{type_name(raised)} in the tool (error {error_id})")

    async def _close_message(self, scope: str) -> None:
        self._open_bytes = 0
        await self._attempt.say(Replay.close_message, scope)


@contextlib.asynccontextmanager
async def closing(stream: AsyncIterable[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Read a stream; if its reader stops early, close it, so that the author's `finally` runs here and now."""
    reading = aiter(stream)
    try:
        yield reading
    finally:
        close = getattr(reading, "aclose", None)
        if close is not None:
            await close()


def type_name(raised: BaseException) -> str:
    """Return an exception's type as it may be shown to anybody: ASCII, at most 80 characters."""
    return ascii(type(raised).__name__)[1:-1][:80]


def _text(value: object) -> str:
    if not isinstance(value, str):
        sentence = f"text is wanted here, not a value of type {type(value).__name__}; ctx.custom shows other values"
        raise PayloadError(sentence, code="agent_error")
    return check_text(str(value))


def _grown(size: int, text: str) -> int:
    size += len(text) if text.isascii() else len(text.encode())
    if size > MAX_VALUE_BYTES:
        raise PayloadError("a message is over 8 MiB; begin another one, or store it elsewhere and give its address")
    return size


def _pieces(text: str) -> Sequence[str]:
    if 0 < len(text) <= _PIECE_CHARS:  # most are a word
        return (text,)
    return [text[start : start + _PIECE_CHARS] for start in range(0, len(text), _PIECE_CHARS)]


def _since_ms(began_s: float) -> int:
    return round((time.monotonic() - began_s) * 1000)


def _tool_name(fn: Callable[..., Any]) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return told(getattr(fn, "__name__", None) or type(fn).__name__)


async def _invoke(fn: Callable[..., Any], args: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None)):  # noqa: B004 - the question is not whether it can be called, but how
        return await fn(**args)
    # A thread of its own, by the executor of the agents' loop (`runtime.call_threads`), which counts and bounds them.
    # The thread of a tool that hangs outlives its run: nobody can end it.
    made = await asyncio.to_thread(fn, **args)
    return await made if inspect.isawaitable(made) else made
