"""`ctx.subagent`: another agent answers within the run, as a span of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.unit.runtime.bench import Gate, bench, types_of
from tests.unit.runtime.twice import ended, last, of_type, twice

from runwire import SubagentFailed, ToolFailed
from runwire.agents.context import Context
from runwire.errors import PayloadError
from runwire.storage.base import CancelRequest
from runwire.storage.memory.storage import MemoryStorage


async def writer(ctx: Context, message: str) -> AsyncIterator[str]:
    """Yield text."""
    for word in message.split():
        yield word.upper() + " "
    await ctx.thinking("a pause")
    yield "THE END"


async def counter(ctx: Context, message: Any) -> Any:
    """Return a value."""
    return {"words": len(message["text"].split()), "pair": (1, 2)}


async def test_what_it_returns_is_its_output_and_what_it_says_is_shown_in_its_span() -> None:
    async def code(ctx: Context) -> Any:
        await ctx.write("Asking. ")
        found = [await ctx.subagent(writer, "a b"), await ctx.subagent(counter, {"text": "a b c"}, name="count")]
        await ctx.write("Done.")
        return found

    first, again, events = await twice(code)
    assert first == again == ["A B THE END", {"words": 3, "pair": [1, 2]}]
    assert types_of(events)[:11] == [
        "agent_started",
        "message_started",
        "text_delta",
        "message_completed",
        "subagent_started",
        "message_started",
        "text_delta",
        "message_completed",
        "agent_thinking",
        "message_started",
        "text_delta",
    ]
    spans = of_type(events, "subagent_started")
    assert [(each.agent, each.input) for each in spans] == [("writer", "a b"), ("count", {"text": "a b c"})]
    assert [each.output for each in of_type(events, "subagent_completed")] == first
    messages = of_type(events, "message_started")
    assert [each.span or None for each in messages] == [None, spans[0].span, spans[0].span, None]


async def test_sub_agents_call_tools_and_sub_agents_and_run_in_branches() -> None:
    calls: list[int] = []

    async def leaf(ctx: Context, message: int) -> int:
        async def work() -> int:
            calls.append(message)
            return message * 2

        doubled: int = await ctx.tool(work)
        return doubled

    async def middle(ctx: Context, message: int) -> Any:
        return await ctx.gather(ctx.subagent(leaf, message), ctx.subagent(leaf, message + 1))

    async def code(ctx: Context) -> Any:
        return await ctx.gather(*(ctx.subagent(middle, n) for n in (10, 20)))

    first, again, events = await twice(code)
    assert first == again == [[20, 22], [40, 42]]
    assert sorted(calls) == [10, 11, 20, 21]
    outer = {each.span: each.parent for each in of_type(events, "subagent_started")}
    assert sorted(parent is None for parent in outer.values()) == [False] * 4 + [True] * 2
    assert all(parent in outer for parent in outer.values() if parent)


async def test_one_that_says_and_returns_nothing_has_no_output() -> None:
    async def silent(ctx: Context, message: str) -> None: ...

    async def code(ctx: Context) -> Any:
        return [await ctx.subagent(silent, "x")]

    first, again, _ = await twice(code)
    assert first == again == [None]


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (ToolFailed("There is no such city.", code="no_city"), "no_city", "There is no such city."),
        (ToolFailed("x", code="tool_cancelled"), "agent_error", "x"),
        (LookupError("secret"), "agent_error", "LookupError in broken (error err_"),
        (SystemExit(3), "agent_error", "SystemExit in broken (error err_"),
    ],
)
async def test_its_failure_is_recorded_and_raised_again(raised: BaseException, code: str, message: str) -> None:
    async def broken(ctx: Context, message: str) -> None:
        await ctx.write("I try")
        raise raised

    async def agent(ctx: Context) -> Any:
        try:
            await ctx.subagent(broken, "x")
        except SubagentFailed as error:
            return error.code, error.message

    first, again, events = await twice(agent)
    assert first == again
    assert first[0] == code
    assert first[1].startswith(message)
    assert "secret" not in str([event.data for event in events])


async def test_an_output_that_cannot_be_stored_is_its_failure() -> None:
    async def broken(ctx: Context, message: str) -> Any:
        return object()

    async def code(ctx: Context) -> Any:
        await ctx.subagent(broken, "x")

    events = await ended(code)
    assert [each.message for each in of_type(events, "subagent_failed")] == [
        "a value of type object has no JSON form; give a dict, list, text or number"
    ]
    assert last(events).code == "agent_error"


async def test_a_time_limit_ends_it_for_good() -> None:
    async def slow(ctx: Context, message: str) -> None:
        await ctx.write("wait…")
        await asyncio.Event().wait()

    async def code(ctx: Context) -> Any:
        try:
            async with asyncio.timeout(0.05):
                await ctx.subagent(slow, "x")
        except TimeoutError:
            return "too slow"

    first, again, events = await twice(code)
    assert first == again == "too slow"
    assert [each.code for each in of_type(events, "subagent_failed")] == ["tool_cancelled"]


async def test_one_that_was_cut_off_by_a_crash_is_entered_again_without_a_word() -> None:
    storage, gates = MemoryStorage(), [Gate(), Gate()]
    gates[1].open()

    async def helper(ctx: Context, message: str) -> AsyncIterator[str]:
        yield "one "
        await gates.pop(0).pass_()
        yield "two"

    async def agent(ctx: Context, message: str) -> Any:
        return await ctx.subagent(helper, message)

    async with bench(agent, storage=storage) as b:
        run, gate = await b.send(), gates[0]
        await gate.arrival()

        async def has_spoken() -> bool:
            return "text_delta" in types_of(await b.events(run))

        await b.until(has_spoken)
    async with bench(agent, storage=storage.restarted()) as b:
        events = await b.ended(run)
    assert last(events).output == "one two"
    assert types_of(events).count("subagent_started") == 1
    assert "superseded" not in types_of(events)


async def test_cancelling_the_run_closes_it() -> None:
    gate = Gate()

    async def helper(ctx: Context, message: str) -> None:
        await gate.pass_()

    async def agent(ctx: Context, message: str) -> Any:
        await ctx.subagent(helper, message)

    async with bench(agent) as b:
        run = await b.send()
        await gate.arrival()
        await b.storage.runs.cancel("usr_ann", run, CancelRequest(by="user"))
        events = await b.ended(run)
    assert types_of(events)[-2:] == ["subagent_failed", "agent_cancelled"]
    assert [each.code for each in of_type(events, "subagent_failed")] == ["cancelled"]


def not_async(ctx: Context, message: str) -> str:
    """Be no agent."""
    return message


REFUSED: dict[str, tuple[Callable[[Context], Any], str]] = {
    "a plain function": (
        lambda ctx: ctx.subagent(not_async, "x"),
        "`agent` is not async; write `async def` instead of `def`",
    ),
    "a value": (
        lambda ctx: ctx.subagent(7, "x"),  # type: ignore[arg-type] # the mistake
        "`agent` is a int; write `async def agent(ctx, message): …`",
    ),
    "a foreign name": (
        lambda ctx: ctx.subagent("nobody", "x"),
        "`agent` 'nobody' is not loaded here; load it too, or give the function itself",
    ),
    "no name": (lambda ctx: ctx.subagent(writer, "x", name=""), "`name` is a text of 1 to 200 characters"),
    "no message": (
        lambda ctx: ctx.subagent(writer, object()),
        "the message for writer: a value of type object has no JSON form; give a dict, list, text or number",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
async def test_a_mistake_is_told_to_its_author(mistake: str) -> None:
    call, sentence = REFUSED[mistake]

    async def code(ctx: Context) -> Any:
        with pytest.raises(PayloadError):
            await call(ctx)
        await call(ctx)

    events = await ended(code)
    assert types_of(events) == ["agent_started", "agent_failed"]
    assert last(events).message == sentence


async def test_an_agent_that_is_loaded_here_is_found_by_its_name() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        return await ctx.subagent("writer", "x")

    async with bench({"agent": agent, "writer": writer}) as b:
        events = await b.ended(await b.send())
    assert last(events).output == "X THE END"
    assert [each.agent for each in of_type(events, "subagent_started")] == ["writer"]
