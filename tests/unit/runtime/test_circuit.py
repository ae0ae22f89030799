"""Tools and steps behind a breaker: not called while it is open, and a replay raises the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.runtime.bench import bench
from tests.unit.runtime.twice import last, of_type, twice

import runwire
from runwire import CircuitOpen, ToolFailed
from runwire.agents.context import Context
from runwire.agents.options import MAX_TRIES
from runwire.resilience.breaker import State, Terms
from runwire.resilience.breakers import Kind
from runwire.resilience.terms import read_terms

ENOUGH = Terms().minimum_calls


async def down() -> None:
    raise ConnectionError


async def _fail(ctx: Context, times: int = ENOUGH, **options: Any) -> None:
    for _ in range(times):
        with pytest.raises(ToolFailed):
            await ctx.tool(down, **options)


async def test_an_open_circuit_is_raised_alike_in_a_replay_and_its_function_is_not_called() -> None:
    calls: list[str] = []

    def ask() -> str:
        calls.append("ask")
        return "answer"

    async def code(ctx: Context) -> Any:
        await _fail(ctx, breaker="crm")
        try:
            await ctx.tool(ask, breaker="crm")
        except CircuitOpen as error:
            return [error.code, error.message, error.retry_after_s]

    first, again, events = await twice(code)
    assert first == again
    assert first[0] == "circuit_open"
    assert 0 < first[2] <= Terms().open_s
    assert calls == []
    (error,) = [each.error for each in of_type(events, "tool_completed") if each.error.code == "circuit_open"]
    assert [error.message, error.retry_after_s] == first[1:]


async def test_an_agent_that_takes_no_care_of_it_fails_with_the_time_to_try_again() -> None:
    async def code(ctx: Context, _message: Any) -> Any:
        await _fail(ctx, breaker="crm")
        await ctx.tool(down, breaker="crm")

    async with bench(code) as b:
        failed = last(await b.ended(await b.send()))
        assert (failed.code, failed.retryable) == ("circuit_open", True)
        assert failed.message.startswith("crm fails too often and is left alone; try again in ")
        assert 0 < failed.retry_after_s <= Terms().open_s


async def test_a_sub_agent_fails_with_the_same_code() -> None:
    async def inner(ctx: Context, _message: Any) -> Any:
        await _fail(ctx, breaker="crm")
        await ctx.tool(down, breaker="crm")

    async def code(ctx: Context, _message: Any) -> Any:
        await ctx.subagent(inner, "go")

    async with bench(code) as b:
        assert last(await b.ended(await b.send())).code == "circuit_open"


async def test_tools_and_steps_have_breakers_of_their_own_and_others_have_none() -> None:
    @runwire.tool(breaker="marked")
    async def marked() -> None:
        raise ConnectionError

    async def code(ctx: Context, _message: Any) -> Any:
        for call in (ctx.tool(marked), ctx.tool(marked, breaker="given"), ctx.step("m", down, breaker="given")):
            with pytest.raises(ToolFailed):
                await call
        await _fail(ctx, ENOUGH + 1)
        return "done"

    async with bench(code) as b:
        await b.ended(await b.send())
        shown = [(each.kind, each.name, each.failures) for each in b.worker._workshop.breakers.shown()]
        assert shown == [("model", "given", 1), ("tool", "given", 1), ("tool", "marked", 1)]


async def test_tries_end_when_the_circuit_opens() -> None:
    @runwire.tool(retry=MAX_TRIES, breaker="crm")
    async def asks() -> None:
        raise ConnectionError

    async def code(ctx: Context, _message: Any) -> Any:
        await _fail(ctx, ENOUGH - 1, breaker="crm")
        try:
            await ctx.tool(asks)
        except CircuitOpen:
            return "refused"

    async with bench(code) as b:
        assert last(await b.ended(await b.send())).output == "refused"


async def test_a_tool_that_is_left_or_refuses_says_nothing_of_whom_it_asks() -> None:
    async def refuses() -> None:
        raise ToolFailed("There is no such customer.")

    async def wrong() -> None:
        raise ValueError

    async def code(ctx: Context, _message: Any) -> Any:
        for _ in range(ENOUGH):
            for fn in (refuses, wrong):
                with pytest.raises(ToolFailed):
                    await ctx.tool(fn, breaker="crm")
            try:
                async with asyncio.timeout(0.001):
                    await ctx.tool(asyncio.Event().wait, breaker="crm")
            except TimeoutError:
                pass
        return "done"

    async with bench(code) as b:
        assert last(await b.ended(await b.send())).output == "done"
        breaker = b.worker._workshop.breakers.of(Kind.TOOL, "crm")
        assert (breaker.state, breaker.counted) == (State.CLOSED, (0, 0, 0))


@pytest.mark.parametrize("name", ["", 7, "x" * 201])
async def test_what_is_no_name_of_a_breaker_is_refused(name: Any) -> None:
    async def code(ctx: Context, _message: Any) -> Any:
        await ctx.tool(down, breaker=name)

    async with bench(code) as b:
        failed = last(await b.ended(await b.send()))
        assert (failed.code, failed.message[:10]) == ("agent_error", "`breaker` ")
    with pytest.raises(ValueError, match="`breaker` is a text"):
        runwire.tool(breaker=name)


async def test_an_agent_has_a_breaker_only_if_an_operator_says_so() -> None:
    async def code(_ctx: Context, _message: Any) -> Any:
        raise ConnectionError

    async with bench(code) as b:

        async def ends() -> str:
            return str(last(await b.ended(await b.send())).code)

        breakers = b.worker._workshop.breakers
        agent = b.worker._agents.names[0]
        for _ in range(ENOUGH + 2):
            assert await ends() == "agent_error", "what fails for some is not taken from all"
        breakers.force_open(Kind.AGENT, agent)
        assert await ends() == "circuit_open"
        breakers.reset(Kind.AGENT, agent)
        assert await ends() == "agent_error"
        breakers._table = read_terms({f"agent/{agent}": {"minimum_calls": 2}})
        breakers._kept.clear()
        assert [await ends() for _ in range(3)] == ["agent_error", "agent_error", "circuit_open"]
