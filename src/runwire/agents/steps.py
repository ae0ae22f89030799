"""A call of the user's code that is journalled: begun in the log, performed, and ended in the log however it is left.

::

    begin ─┬─ recorded ─▶ its result, or its failure, again
           └─ perform ─┬─ returned ─▶ end (ok) ─▶ the result as JSON gives it back
                       ├─ raised ───▶ end (final=False) ─▶ pause ─▶ next try … ─▶ end (failed) ─▶ ToolFailed
                       └─ the agent stopped waiting ─▶ cut
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import structlog

from runwire.agents.attempt import Attempt, Place
from runwire.agents.failures import CallFailed, OutcomeUnknown, ToolFailed
from runwire.agents.options import ToolOptions, name_of
from runwire.agents.payload import plain, put_aside, told
from runwire.agents.typed import Mismatch, declared, typed
from runwire.errors import Fenced, PayloadError, RunFailed
from runwire.protocol.codes import RunFailure
from runwire.protocol.events import EventError
from runwire.protocol.ids import new_id
from runwire.protocol.replay import TOOL_CANCELLED, Replay, Step
from runwire.resilience.breaker import Breaker, CircuitOpen
from runwire.resilience.outcome import is_outage, retry_after_of
from runwire.resilience.retry_budget import RetryBudget

__all__ = ["IDEMPOTENCY_KEY", "LEFT", "MISMATCH", "Call", "type_name", "unwinds"]

IDEMPOTENCY_KEY: Final[ContextVar[str]] = ContextVar("runwire_idempotency_key")
"""Of the step that is running; threads and tasks that its function starts have it too."""

LEFT: Final = EventError(code=TOOL_CANCELLED, message="The agent stopped waiting for the tool.")
MISMATCH: Final = "result_type"
"""Code of a step whose function returned something else than it says it returns."""

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_LONGEST_RETRY_AFTER_S: Final = 60.0  # for which another side may have a try wait

_log = structlog.get_logger(__name__)


class _Raised(Exception):
    """The function raised, and not what came of its result: another try may succeed."""

    def __init__(self, raised: BaseException) -> None:
        self.raised = raised


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a function as a step."""

    fn: Callable[..., Any]
    args: Sequence[Any] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    kind: Any = "tool"  # or "step": internal
    options: ToolOptions
    breaker: Breaker | None = None  # of what it asks
    budget: RetryBudget | None = None  # of its retries

    @property
    def name(self) -> str:
        """Return the step's name."""
        return self.options.name or name_of(self.fn)

    async def journalled(self, attempt: Attempt, place: Place, run: str) -> Any:
        """Call the function unless its result is recorded; return the result as JSON gives it back.

        Raises:
            ToolFailed: it raised each time, or its result cannot be stored or is not what it says it returns.
            CircuitOpen: what it asks has failed too often.
            PayloadError: the arguments have no JSON form.
        """
        place.open_bytes = 0
        blobs: dict[str, bytes] = {}
        given = put_aside(_given(self), blobs)
        kind, options, scope = self.kind, self.options, place.scope
        step = await attempt.begin_step(
            lambda replay: replay.begin_step(scope, self.name, given, kind=kind, on_crash=options.on_crash), blobs=blobs
        )
        key = f"{run}:{step.key}"
        if self.budget and step.recorded is None:
            self.budget.call()
        asked_s = 0.0  # to be left alone by whom it asks
        while step.recorded is None:
            if step.lost is not None:
                sentence = f"A crash cut off {step.name}. Whether it took effect is unknown ({step.lost.message})"
                raise OutcomeUnknown(sentence, idempotency_key=key)
            is_last = step.raised + 1 >= options.retry
            with _journalled_end(attempt, step) as began_s:
                try:
                    return await self._perform(attempt, place, step, key, began_s=began_s)
                except _Raised as failed:
                    is_last = is_last or isinstance(failed.raised, OutcomeUnknown | CircuitOpen)
                    is_last = is_last or not (self.budget is None or self.budget.retry())
                    if self.breaker:
                        asked_s = min(retry_after_of(failed.raised) or 0.0, _LONGEST_RETRY_AFTER_S)
                    await self._fail(attempt, step, run, failed.raised, began_s=began_s, is_final=is_last)
                except (Mismatch, PayloadError) as failed:
                    await self._fail(attempt, step, run, failed, began_s=began_s, is_final=True)
            step = await attempt.begin_step(_next_try(step), pause_s=asked_s + _pause_s(key, step.raised + 1))
        return await self._recorded(attempt, step)

    async def _perform(self, attempt: Attempt, place: Place, step: Step, key: str, *, began_s: float) -> Any:
        """Run the function inside its try's scope, and end the step if it returned."""
        outer, place.scope = place.scope, step.scope
        asked = place.permit
        token = IDEMPOTENCY_KEY.set(key)
        try:
            with (
                attempt.trace.step(
                    step, asks=self.breaker.name if self.breaker else None, given=self._shown()
                ) as traced,
                self.breaker.acquire() if self.breaker else nullcontext() as place.permit,
            ):
                made = await _invoke(self.fn, self.args, self.named)
                traced.returned(made)
        except BaseException as raised:  # the user's tool; also its SystemExit is a failure of the tool alone
            if unwinds(attempt, raised):
                raise
            raise _Raised(raised) from raised
        finally:
            place.scope, place.open_bytes, place.permit = outer, 0, asked
            IDEMPOTENCY_KEY.reset(token)
        blobs: dict[str, bytes] = {}
        value = plain(made)
        result, given_back = put_aside(value, blobs), self._typed(value)
        spent_ms = _since_ms(began_s)
        await attempt.end_step(
            lambda replay: replay.end_step(step, ok=True, result=result, duration_ms=spent_ms), blobs=blobs
        )
        return given_back

    async def _fail(
        self, attempt: Attempt, step: Step, run: str, raised: BaseException, *, began_s: float, is_final: bool
    ) -> None:
        """End a try that failed; return if there is to be another one."""
        failure = self._describe(raised, run)
        spent_ms = _since_ms(began_s)
        await attempt.end_step(
            lambda replay: replay.end_step(step, ok=False, error=failure, duration_ms=spent_ms, final=is_final),
            is_final=is_final,
        )
        if is_final:
            raise _failed(failure) from raised

    def _shown(self) -> Any:
        return self.named if self.kind == "tool" else self.args

    def _typed(self, value: Any) -> Any:
        asked = self.options.returns
        return typed(value, declared(self.fn) if asked is None else asked, is_asked_for=asked is not None)

    async def _recorded(self, attempt: Attempt, step: Step) -> Any:
        recorded = step.recorded
        assert recorded is not None, "asked before"
        if recorded.ok:
            result = recorded.result
            value = None if result is msgspec.UNSET else await attempt.resolve(result)
            try:
                return self._typed(value)
            except Mismatch as changed:  # the code has, since
                raise _failed(self._describe(changed, "")) from None
        error = recorded.error
        if error is msgspec.UNSET:  # cannot happen: a failed step is stored with its error
            raise ToolFailed("the tool failed")
        if error.code == TOOL_CANCELLED:
            await asyncio.get_running_loop().create_future()  # for ever: until the limit that ended it ends it again
        raise _failed(error)

    def _describe(self, raised: BaseException, run: str) -> EventError:
        """Return what the person may see of a tool's exception; the rest goes to the server's log."""
        if isinstance(raised, Mismatch):
            sentence = f"What {self.name} returned is not what it says it returns: {raised}"
            return EventError(code=MISMATCH, message=told(sentence))
        if isinstance(raised, CallFailed | PayloadError):
            code = told(raised.code)
            # Its author may have given anything as text, or have made a class that keeps none.
            message = told(getattr(raised, "message", raised))
            return EventError(code=ToolFailed.code if code == TOOL_CANCELLED else code, message=message)
        if isinstance(raised, CircuitOpen):
            return EventError(code=raised.code, message=told(raised.message), retry_after_s=raised.retry_after_s)
        if self.kind == "step" and self.breaker and is_outage(raised):
            retry_after_s = retry_after_of(raised)
            when = f" in {math.ceil(retry_after_s)} s" if retry_after_s else ""
            sentence = f"{self.breaker.name} gives no answer ({type_name(raised)}); try again{when}."
            _log.warning("model_unavailable", run=run, model=self.breaker.name, error=type_name(raised))
            code = str(RunFailure.PROVIDER_UNAVAILABLE)
            return EventError(code=code, message=told(sentence), retry_after_s=retry_after_s)
        error_id = new_id("err")
        what = "tool" if self.kind == "tool" else "step"
        _log.warning("tool_failed", run=run, tool=self.name, error_id=error_id, exc_info=raised)
        return EventError(code=ToolFailed.code, message=f"{type_name(raised)} in the {what} (error {error_id})")


def unwinds(attempt: Attempt, raised: BaseException) -> bool:
    """Return whether an exception is about the task or the run that waits here, and no failure of what it called."""
    if isinstance(raised, asyncio.CancelledError):
        # Of the task: by us, or by a time limit of the author's. Else it awaited something cancelled.
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    if isinstance(raised, Fenced | RunFailed):
        return attempt.is_stopping
    return isinstance(raised, GeneratorExit)


def type_name(raised: BaseException) -> str:
    """Return an exception's type as it may be shown to anybody: ASCII, at most 80 characters."""
    return ascii(type(raised).__name__)[1:-1][:80]


@contextmanager
def _journalled_end(attempt: Attempt, step: Step) -> Iterator[float]:
    """Yield the time; if the agent stops waiting, wherever in there, the try has ended in the log."""
    began_s = time.monotonic()
    try:
        yield began_s
    except asyncio.CancelledError:
        spent_ms = _since_ms(began_s)
        attempt.cut(lambda replay: replay.end_step(step, ok=False, error=LEFT, duration_ms=spent_ms))
        raise


def _given(call: Call) -> Any:
    """Return the arguments as the journal has them: of a tool by name, of a step in order.

    Raises:
        PayloadError: one has no JSON form; the sentence names it.
    """
    given: Any = dict(call.named) if call.kind == "tool" else list(call.args)
    try:
        return plain(given)
    except PayloadError:
        for name, value in call.named.items() if call.kind == "tool" else enumerate(call.args, start=1):
            try:
                plain(value)
            except PayloadError as error:
                sentence = f"argument {name} of {call.name}: {error.message}"
                raise PayloadError(sentence, code=error.code, field=str(name)) from error.__cause__
        raise


def _next_try(last: Step) -> Callable[[Replay], Step]:
    return lambda replay: replay.next_try(last)


def _failed(failure: EventError) -> ToolFailed | CircuitOpen:
    if failure.code == CircuitOpen.code:
        return CircuitOpen(failure.message, retry_after_s=failure.retry_after_s)
    return ToolFailed(failure.message, code=failure.code, retry_after_s=failure.retry_after_s)


def _pause_s(key: str, raised: int) -> float:
    """Return how long to wait before the next try: exponential with full jitter, which is the same in a replay."""
    longest_s = min(_FIRST_PAUSE_S * 2.0 ** (raised - 1), _LONGEST_PAUSE_S)
    drawn: float = int.from_bytes(hashlib.sha256(f"{key}/{raised}".encode()).digest()[:4]) / 2**32
    return longest_s * drawn


def _since_ms(began_s: float) -> int:
    return round((time.monotonic() - began_s) * 1000)


async def _invoke(fn: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None)):  # noqa: B004 - the question is not whether it can be called, but how
        return await fn(*args, **named)
    # A thread of its own, by the executor of the agents' loop (`runtime.call_threads`), which counts and bounds them.
    # The thread of a tool that hangs outlives its run: nobody can end it.
    made = await asyncio.to_thread(fn, *args, **named)
    return await made if inspect.isawaitable(made) else made
