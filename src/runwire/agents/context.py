"""What the user's code sees of its run: one `Context`, given to `agent(ctx, message)`.

Whatever is said here goes, in order: checked and made plain (`payload`), matched against the log of earlier
attempts (`protocol.replay`), into the run's bounded buffer (`runtime.outbox`). The runtime stands behind the
small port `attempt.Attempt`, so that this room knows no worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NoReturn
from uuid import UUID

from runwire.agents import branches, clock, steps, subagents
from runwire.agents.attempt import Attempt, Place, Used
from runwire.agents.failures import RunEnded, ToolFailed, WaitExpired, WrongAnswer
from runwire.agents.options import (
    OnCrash,
    check_breaker,
    check_function,
    checked_options,
    name_of,
    options_of,
    refused,
    seconds_of,
)
from runwire.agents.payload import MAX_VALUE_BYTES, check_text, plain, put_aside
from runwire.agents.plain import Agent
from runwire.agents.steps import Call, type_name
from runwire.agents.streams import closing
from runwire.agents.typed import Mismatch, typed
from runwire.errors import PayloadError
from runwire.protocol.events import AgentResumed
from runwire.protocol.replay import Emit, Replay
from runwire.resilience.breaker import Breaker
from runwire.resilience.breakers import Breakers, Kind

__all__ = ["Attempt", "Context", "RunEnded", "ToolFailed", "User", "closing", "type_name"]

# A delta is never put aside (PROTOCOL §2), so its text is cut below 64 KiB of JSON: at most six bytes a character.
_PIECE_CHARS: Final = 8192
_NOW: Final = "ctx.now"  # name of the steps that keep the time
_USAGE: Final = "ctx.usage"  # of those that keep what was used
_MOST_TOKENS: Final = 10**12  # of one report


def _no_agent(_name: str) -> Agent | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who started the run, as it was when the run started."""

    id: str
    name: str = ""
    roles: frozenset[str] = field(default_factory=frozenset)


class Context:
    """Everything an agent can do in its run. Use it in the agent's own task and in branches of `gather`.

    ::

        async def agent(ctx, message):
            await ctx.thinking("Let me look that up")
            found = await ctx.tool(search, query=message)
            yield f"I found {found}"
    """

    def __init__(
        self,
        attempt: Attempt,
        *,
        run: str,
        thread: str,
        user: User,
        history: Sequence[Mapping[str, Any]] = (),
        agents: Callable[[str], Agent | None] = _no_agent,
        breakers: Breakers | None = None,
    ) -> None:
        self._attempt = attempt
        self._places = attempt.places
        self._run = run
        self._thread = thread
        self._user = user
        self._history = [dict(message) for message in history]
        self._agents = agents
        self._breakers = breakers or Breakers()

    # ── what it knows ────────────────────────────────────────────────────────────────────────────────────

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
        """Seconds this run may still run before it fails; waiting does not count."""
        return self._attempt.seconds_left()

    @property
    def idempotency_key(self) -> str:
        """Within a step: a key that stays the same when its function is called again; outside: the run's id."""
        return steps.IDEMPOTENCY_KEY.get(self._run)

    # ── what it says ─────────────────────────────────────────────────────────────────────────────────────

    async def thinking(self, text: str | AsyncIterable[str]) -> None:
        """Show a thought: a whole text, or a stream of pieces.

        Raises:
            PayloadError: not text, NUL, a lone surrogate, over 8 MiB.
        """
        place = await self._place()
        place.open_bytes = 0
        scope = place.scope
        if not isinstance(text, AsyncIterable):
            blobs: dict[str, bytes] = {}
            thought = put_aside(_text(text), blobs)
            await self._attempt.say(Replay.thinking, scope, thought, blobs=blobs)
            return
        size = 0
        async with closing(text) as parts:
            async for part in parts:
                size = _grown(size, _text(part))
                _first_token(place)
                for piece in _pieces(part):
                    await self._attempt.say(Replay.thinking_delta, scope, piece)
        await self._attempt.say(Replay.end_thinking, scope)

    async def message(self, text: str | AsyncIterable[str]) -> None:
        """Write one message: a whole text, or a stream of pieces.

        Raises:
            PayloadError: not text, NUL, a lone surrogate, over 8 MiB.
        """
        place = await self._place()
        place.open_bytes = 0
        if not isinstance(text, AsyncIterable):
            await self._attempt.say(Replay.message, place.scope, _text(text))
            return
        await self._close_message(place)
        try:
            async with closing(text) as parts:
                async for part in parts:
                    await self.write(part)
        except Exception:  # the user's own stream broke: what it said stays one message
            await self._close_message(place)
            raise
        await self._close_message(place)

    async def write(self, text: str) -> None:
        """Go on with the open message, or open one: what a `yield` of text does.

        Raises:
            PayloadError: not text, NUL, a lone surrogate, over 8 MiB together.
        """
        place = self._places.get(asyncio.current_task()) or await self._stray()
        place.open_bytes = _grown(place.open_bytes, _text(text))
        _first_token(place)
        for piece in _pieces(text):
            await self._attempt.say(Replay.write, place.scope, piece)

    async def custom(self, name: str, value: Any) -> None:
        """Show whatever the agent's author wants to show, e.g. `ctx.custom("progress", {"done": 3})`.

        Raises:
            PayloadError: the value has no JSON form, or is over 8 MiB.
        """
        place = await self._place()
        place.open_bytes = 0
        blobs: dict[str, bytes] = {}
        label, shown = _text(name), put_aside(plain(value), blobs)
        await self._attempt.say(Replay.custom, place.scope, label, shown, blobs=blobs)

    async def usage(self, *, input_tokens: int = 0, output_tokens: int = 0, cost: float = 0.0) -> None:
        """Report what a call of a model has used: it counts towards the person's limits, a replay not again.

        The sum of all reports is `usage` of `agent_completed`. If it takes the person over a limit of the day
        (`user_tokens_per_day`, `user_cost_per_day`), the run ends as `quota_exceeded`, soon after the report.

        Args:
            input_tokens: that the model was given.
            output_tokens: that it gave.
            cost: of the call, in the currency that the operator's limit is in.

        Raises:
            PayloadError: one is no number, or out of its bounds.
        """
        place = await self._place()
        report: dict[str, Any] = {
            "input_tokens": _count(input_tokens, "input_tokens"),
            "output_tokens": _count(output_tokens, "output_tokens"),
            "cost": _price(cost),
        }
        is_new = True

        def speech(replay: Replay) -> list[Emit]:
            nonlocal is_new, report
            step = replay.begin_step(place.scope, _USAGE, None, kind="step", closes=False)
            if step.recorded is None:
                return [*step.emits, *replay.end_step(step, ok=True, result=report, duration_ms=0)]
            is_new, report = False, step.recorded.result
            return step.emits

        await self._attempt.say(speech)
        self._attempt.report(Used(**report, is_new=is_new))

    # ── what it calls ────────────────────────────────────────────────────────────────────────────────────

    async def tool(self, fn: Callable[..., Any], /, *, breaker: str | None = None, **args: Any) -> Any:
        """Call a function as a tool, once: after a crash a finished call returns its recorded result.

        An async function runs in the agent's task; any other runs in its own thread, which goes on until it
        returns even if the run is cancelled: give what it waits for a time limit. The call is committed to the
        log before the function is called. A time limit of the agent's own around it (`asyncio.timeout`) ends the
        call for good: a replay does not repeat it, and waits there for the same limit. `runwire.tool` says more of
        a function: its name, how often it is tried, what a crash means.

        Args:
            fn: async, or plain: then it runs in a thread of its own.
            breaker: name of what it asks, such as a service. While that does not answer, the function is not called.
                A time limit counts against it only if the function itself sets it.
            **args: by name, of the function. One that is called `breaker` goes through `functools.partial`.

        Returns:
            The function's result as JSON gives it back, made into the type that the function says it returns.

        Raises:
            ToolFailed: the function raised, its result has no JSON form, or is not what it says it returns.
            OutcomeUnknown: a crash cut the call off, and the function is not to be called again.
            CircuitOpen: what it asks has failed too often; `retry_after_s` says when to try again.
            PayloadError: the arguments have no JSON form.
        """
        place = await self._place()
        check_function(fn)
        options = options_of(fn)
        asked = self._breaker(Kind.TOOL, options.breaker if breaker is None else breaker)
        budget = self._breakers.budgets.of(f"tool/{asked.name if asked else options.name or name_of(fn)}")
        call = Call(fn=fn, named=args, options=options, breaker=asked, budget=budget)
        return await call.journalled(self._attempt, place, self._run)

    async def step(
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        returns: Any = None,
        retry: int = 1,
        on_crash: OnCrash = "retry",
        breaker: str | None = None,
    ) -> Any:
        """Call a function as a step that no client sees; else it is like a tool.

        Args:
            name: of the step, for operators and in its key.
            fn: async, or plain: then it runs in a thread of its own.
            *args: in order; keyword arguments go through `functools.partial`.
            returns: the type that the result is made into; None: what the function's annotation says.
            retry: how many tries it has if it raises, with pauses that grow from half a second to half a minute.
            on_crash: what happens if a crash cuts a try off: "retry" calls it again, "fail" raises `OutcomeUnknown`.
            breaker: name of the model that it asks, as "openai/gpt"; else as of a tool. What the function writes
                (`ctx.write`) is its answer: one whose first word is late counts as slow.

        Raises:
            ToolFailed: as of a tool.
            CircuitOpen: as of a tool.
            PayloadError: an argument has no JSON form, or an option is out of its bounds.
        """
        place = await self._place()
        check_function(fn)
        # Only a tool has the name of its function.
        options = checked_options(name=name or "", retry=retry, on_crash=on_crash, returns=returns)
        asked = self._breaker(Kind.MODEL, breaker)
        budget = self._breakers.budgets.of(f"model/{asked.name if asked else name}")
        call = Call(fn=fn, args=args, kind="step", options=options, breaker=asked, budget=budget)
        return await call.journalled(self._attempt, place, self._run)

    async def gather(self, *coroutines: Awaitable[Any], return_exceptions: bool = False) -> list[Any]:
        """Run up to 1,000 coroutines of this agent at once; return their results in order.

        Each is a branch that may use this Context. All run to their ends, also if one raises; then the exception of
        the first branch, in their order, is raised. If the agent stops waiting, all are cancelled.

        Args:
            *coroutines: such as `work(ctx, 1), work(ctx, 2)`.
            return_exceptions: whether exceptions are results.

        Raises:
            PayloadError: something else than coroutines, too many, or one twice.
        """
        try:
            place = await self._place()
            results: list[Any] = await branches.gather(
                self._attempt, place, coroutines, return_exceptions=return_exceptions
            )
        finally:
            branches.close_all(coroutines)
        return results

    async def subagent(self, agent: Callable[..., Any] | str, message: Any, *, name: str | None = None) -> Any:
        """Let another agent answer within this run; what it says is shown as its own.

        Args:
            agent: an `async def (ctx, message)` that returns or yields, or the name of an agent that is loaded here.
            message: for it, any JSON value.
            name: shown to the person; else the agent's own.

        Returns:
            What it returned, as JSON gives it back; if that is nothing, the text of its messages.

        Raises:
            SubagentFailed: it raised; after a crash a recorded failure is raised again.
            PayloadError: the message has no JSON form, or this is no agent.
        """
        place = await self._place()
        fn, label = subagents.found(agent, name, self._agents)
        return await subagents.run(self, self._attempt, place, subagents.Call(fn=fn, name=label, message=message))

    # ── what it waits for ────────────────────────────────────────────────────────────────────────────────

    async def sleep(self, seconds: float | timedelta) -> None:
        """Wait, for minutes or months: a run in which everything waits is put aside and survives any restart.

        Raises:
            PayloadError: not a number of seconds from 0 to a hundred years.
        """
        await self._wait("timer", after_s=seconds_of(seconds, field="seconds"))

    async def ask(self, prompt: Any, *, timeout_s: float | None = None, returns: Any = None) -> Any:
        """Ask the person; return what they answer, any JSON value.

        Args:
            prompt: what is shown, text or any JSON value.
            timeout_s: seconds until nobody has answered.
            returns: the type that the answer is made into, such as `int` or a model; text becomes a number then.

        Raises:
            WaitExpired: nobody answered in time.
            WrongAnswer: the answer does not fit `returns`; ask again.
            PayloadError: the prompt has no JSON form.
        """
        # As it is: an answer is never put aside, so what looks like a reference in one is the person's own.
        value = (await self._wait("input", prompt=prompt, timeout_s=timeout_s)).value
        try:
            return value if returns is None else typed(value, returns, is_asked_for=True, is_strict=False)
        except Mismatch as error:
            raise WrongAnswer(f"the answer is not what was asked for: {error}") from None

    async def approve(self, prompt: Any, *, call: str | None = None, timeout_s: float | None = None) -> bool:
        """Ask the person to approve; return whether they did.

        Args:
            prompt: what they approve, text or any JSON value.
            call: id of the tool call that it is about, for the client to show it there.
            timeout_s: seconds until nobody has answered.

        Raises:
            WaitExpired: nobody answered in time.
            PayloadError: the prompt has no JSON form.
        """
        if call is not None:
            call = _text(call)
        return (await self._wait("approval", prompt=prompt, call=call, timeout_s=timeout_s)).value is True

    # ── what stays the same in a replay ──────────────────────────────────────────────────────────────────

    async def now(self) -> datetime:
        """Return the time, UTC; a replay returns the same."""
        place = await self._place()
        scope, at = place.scope, clock.now()
        told = at.isoformat()

        def speech(replay: Replay) -> list[Emit]:
            nonlocal told
            step = replay.begin_step(scope, _NOW, None, kind="step", closes=False)
            if step.recorded is None:
                return [*step.emits, *replay.end_step(step, ok=True, result=told, duration_ms=0)]
            told = step.recorded.result
            return step.emits

        await self._attempt.say(speech)
        return datetime.fromisoformat(told)

    def random(self) -> float:
        """Return a number from 0 up to 1, drawn once: a replay draws the same. Not for secrets."""
        return (int(self._derived("random")[:16], 16) >> 11) / 2**53

    def uuid(self) -> UUID:
        """Return an id that is nobody else's; a replay returns the same."""
        return UUID(hex=self._derived("uuid")[:32], version=4)

    # ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _breaker(self, kind: Kind, name: str | None) -> Breaker | None:
        if name is None:
            return None
        check_breaker(name)
        return self._breakers.of(kind, name)

    async def _place(self) -> Place:
        return self._places.get(asyncio.current_task()) or await self._stray()

    async def _stray(self) -> NoReturn:
        error = self._attempt.stray()
        await asyncio.sleep(0)  # code that tries again on any error would block its loop: here it can be cancelled
        raise error

    def _derived(self, what: str) -> str:
        place = self._places.get(asyncio.current_task())
        if place is None:
            raise self._attempt.stray()
        return self._attempt.derive(place.scope, what)

    async def _close_message(self, place: Place) -> None:
        place.open_bytes = 0
        await self._attempt.say(Replay.close_message, place.scope)

    async def _wait(
        self,
        kind: Literal["approval", "input", "timer"],
        *,
        prompt: Any = None,
        call: str | None = None,
        after_s: float | None = None,
        timeout_s: float | None = None,
    ) -> AgentResumed:
        place = await self._place()
        place.open_bytes = 0
        blobs: dict[str, bytes] = {}
        shown = put_aside(_asked(prompt), blobs) if kind != "timer" else None
        if timeout_s is not None:
            after_s = seconds_of(timeout_s, field="timeout_s")
        answer = await self._attempt.wait(place.scope, kind, prompt=shown, call=call, after_s=after_s, blobs=blobs)
        if answer.by == "timer" and kind != "timer":
            raise WaitExpired("nobody answered in time")
        return answer


def _asked(prompt: object) -> Any:
    if prompt is None or prompt == "":
        raise refused("prompt", "is what the person is asked, and is empty")
    try:
        return plain(prompt)
    except PayloadError as error:
        raise PayloadError(f"the prompt: {error.message}", code=error.code, field="prompt") from error.__cause__


def _count(value: object, field: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_TOKENS:
        raise refused(field, "is a number of tokens, 0 or more")
    return value


def _price(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _MOST_TOKENS:  # type: ignore[operator]  # a number
        raise refused("cost", "is a number, 0 or more")
    return float(value)  # type: ignore[arg-type]  # as above


def _text(value: object) -> str:
    if not isinstance(value, str):
        sentence = f"text is wanted here, not a value of type {type(value).__name__}; ctx.custom shows other values"
        raise PayloadError(sentence, code="agent_error")
    return check_text(str(value))


def _first_token(place: Place) -> None:
    """Tell whom the step asks, if there is a breaker, that the answer has begun."""
    if place.permit is not None and not place.permit.is_stream:
        place.permit.first_token()


def _grown(size: int, text: str) -> int:
    size += len(text) if text.isascii() else len(text.encode())
    if size > MAX_VALUE_BYTES:
        raise PayloadError("a message is over 8 MiB; begin another one, or store it elsewhere and give its address")
    return size


def _pieces(text: str) -> Sequence[str]:
    if 0 < len(text) <= _PIECE_CHARS:  # most are a word
        return (text,)
    return [text[start : start + _PIECE_CHARS] for start in range(0, len(text), _PIECE_CHARS)]
