"""`ctx.subagent`: another agent answers within the run, as a span of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from runwire.agents.attempt import Attempt, Place
from runwire.agents.failures import CallFailed, SubagentFailed
from runwire.agents.options import is_name, name_of, refused
from runwire.agents.payload import plain, put_aside, told
from runwire.agents.plain import Agent, fault_of, plain_agent
from runwire.agents.steps import type_name, unwinds
from runwire.errors import PayloadError, RunFailed
from runwire.protocol.events import EventError
from runwire.protocol.events import SubagentFailed as Failed
from runwire.protocol.ids import new_id
from runwire.protocol.replay import TOOL_CANCELLED, Emit, Replay, Span
from runwire.resilience.breaker import CircuitOpen

if TYPE_CHECKING:
    from runwire.agents.context import Context

__all__ = ["MAX_DEPTH", "Call", "found", "run"]

MAX_DEPTH: Final = 32  # an agent that calls itself for ever would block the loop with its own stack

_LEFT = EventError(code=TOOL_CANCELLED, message="The agent stopped waiting for the sub-agent.")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of another agent."""

    fn: Agent
    name: str
    message: Any


def found(agent: object, name: str | None, named: Callable[[str], Agent | None]) -> tuple[Agent, str]:
    """Return the agent to call, and its name.

    Raises:
        PayloadError: it is none, or none of that name is loaded.
    """
    if name is not None and not is_name(name):
        raise refused("name", "is a text of 1 to 200 characters")
    if isinstance(agent, str):
        fn = named(agent)
        if fn is None:
            raise refused("agent", f"{told(agent)!r} is not loaded here; load it too, or give the function itself")
        return fn, name or agent
    fault = fault_of(agent)
    if fault:
        raise refused("agent", fault)
    return plain_agent(agent), name or name_of(agent)  # type: ignore[arg-type] # `fault_of` found that it can be called


async def run(ctx: Context, attempt: Attempt, place: Place, call: Call) -> Any:
    """Run the agent unless its end is recorded; return its output as JSON gives it back.

    Raises:
        SubagentFailed: it raised, or what it returned cannot be stored.
        PayloadError: the message has no JSON form.
        RunFailed: sub-agents within sub-agents, deeper than `MAX_DEPTH`.
    """
    if place.depth >= MAX_DEPTH:
        deep = f"{call.name} was called within {MAX_DEPTH} sub-agents: is it calling itself for ever?"
        raise RunFailed(deep, code="agent_error")
    place.open_bytes = 0
    blobs: dict[str, bytes] = {}
    try:
        given = put_aside(plain(call.message), blobs)
    except PayloadError as error:
        sentence = f"the message for {call.name}: {error.message}"
        raise PayloadError(sentence, code=error.code, field="message") from error.__cause__
    scope = place.scope
    span = await attempt.begin(lambda replay: replay.begin_span(scope, call.name, given), blobs=blobs)
    if span.recorded is None:
        try:
            return await _perform(ctx, attempt, place, span, call)
        except asyncio.CancelledError:
            attempt.cut(lambda replay: replay.end_span(span, error=_LEFT))
            raise
    if not isinstance(span.recorded, Failed):
        return await attempt.resolve(span.recorded.output)
    if span.recorded.code == TOOL_CANCELLED:
        await asyncio.get_running_loop().create_future()  # for ever: until the limit that ended it ends it again
    raise SubagentFailed(span.recorded.message, code=span.recorded.code)


async def _perform(ctx: Context, attempt: Attempt, place: Place, span: Span, call: Call) -> Any:
    outer, place.scope = place.scope, span.scope
    place.depth += 1
    try:
        with attempt.trace.subagent(call.name, call.message) as traced:
            value = plain(await call.fn(ctx, call.message))
            traced.returned(value)
        return await _complete(attempt, span, value)
    except BaseException as raised:  # the user's agent; also its SystemExit is a failure of it alone
        if unwinds(attempt, raised):
            raise
        failure = _describe(raised, call.name, ctx.run)
        await attempt.end_step(lambda replay: replay.end_span(span, error=failure))
        raise SubagentFailed(failure.message, code=failure.code) from raised
    finally:
        place.scope, place.open_bytes = outer, 0
        place.depth -= 1


async def _complete(attempt: Attempt, span: Span, value: Any) -> Any:
    """End the span; return its output: what the agent returned, else what it said in messages."""
    blobs: dict[str, bytes] = {}
    output = put_aside(value, blobs)
    said: list[str] = []

    def speech(replay: Replay) -> list[Emit]:
        if output is not None:
            return replay.end_span(span, output=output)
        said.append(replay.text_of(span.scope))
        return replay.end_span(span, output=put_aside(said[0] or None, blobs))

    await attempt.end_step(speech, blobs=blobs)
    return (said[0] or None) if said else value


def _describe(raised: BaseException, name: str, run: str) -> EventError:
    """Return what the person may see of an agent's exception; the rest goes to the server's log."""
    if isinstance(raised, CallFailed | PayloadError | RunFailed | CircuitOpen):
        code = told(raised.code)
        message = told(getattr(raised, "message", raised))  # its author may have made a class that keeps none
        return EventError(code=SubagentFailed.code if code == TOOL_CANCELLED else code, message=message)
    error_id = new_id("err")
    _log.warning("subagent_failed", run=run, agent=name, error_id=error_id, exc_info=raised)
    return EventError(code=SubagentFailed.code, message=f"{type_name(raised)} in {name} (error {error_id})")
