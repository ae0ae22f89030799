"""However a tool is left, its call has an end, and a replay does not begin it again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import anyio
import pytest
from tests.unit.runtime.bench import QUICK, Bench, Gate, bench, play, types_of
from tests.unit.runtime.faults import FaultyStorage

from runwire.agents.context import Context, ToolFailed
from runwire.errors import Fenced, RunFailed
from runwire.protocol.events import StoredEvent, decode_data
from runwire.storage.memory.storage import MemoryStorage

LIMIT_S = 0.05


async def _timed(kind: str, work: Any) -> bool:
    """Await it with a time limit of that kind; return whether the limit was met."""
    if kind == "anyio":
        with anyio.move_on_after(LIMIT_S) as scope:
            await work
        return scope.cancelled_caught
    try:
        async with asyncio.timeout(LIMIT_S):
            await work
    except TimeoutError:
        return True
    return False


@pytest.mark.parametrize("kind", ["asyncio", "anyio"])
def test_a_tool_that_the_agent_stops_waiting_for_has_its_end_and_the_agent_goes_on(kind: str) -> None:
    async def agent(ctx: Context, message: str) -> Any:
        async def inner() -> None:
            await ctx.custom("progress", 1)
            await asyncio.Event().wait()

        async def slow() -> None:
            await ctx.thinking("searching")
            await ctx.tool(inner)

        assert await _timed(kind, ctx.tool(slow))
        await ctx.thinking("too slow, I go on")
        return 1

    events = _ended(agent)
    assert types_of(events) == [
        "agent_started",
        "tool_executing",
        "agent_thinking",
        "tool_executing",
        "custom",
        "tool_completed",
        "tool_completed",
        "agent_thinking",
        "agent_completed",
    ]
    ended = [decode_data(each) for each in events if each.type == "tool_completed"]
    assert [(each.name, each.ok, each.final, each.error.code) for each in ended] == [
        ("inner", False, True, "tool_cancelled"),
        ("slow", False, True, "tool_cancelled"),
    ]


@pytest.mark.parametrize("kind", ["asyncio", "anyio"])
def test_a_replay_neither_calls_it_again_nor_gets_further_than_the_same_limit(kind: str) -> None:
    gates = [Gate(), Gate()]
    calls: list[int] = []

    async def agent(ctx: Context, message: str) -> Any:
        async def slow() -> None:
            calls.append(1)
            await ctx.thinking("searching")
            await asyncio.Event().wait()

        was_cut = await _timed(kind, ctx.tool(slow))
        await ctx.thinking(f"cut: {was_cut}")
        await gates.pop(0).pass_()
        return 1

    async def body() -> None:
        storage, first = MemoryStorage(), gates[0]
        gates[1].open()
        async with bench(agent, storage=storage) as b:
            run = await b.send()
            await first.arrival()
            await b.until(lambda: _has(b, run, "agent_thinking", times=2))
        async with bench(agent, storage=storage.restarted()) as b:
            events = await b.ended(run)
        assert calls == [1]
        assert types_of(events)[-2:] == ["agent_retrying", "agent_completed"]
        assert "superseded" not in types_of(events)

    play(body)


@pytest.mark.parametrize("kind", ["asyncio", "anyio"])
def test_a_limit_that_is_met_before_the_call_was_committed_ends_it_too(kind: str) -> None:
    calls: list[int] = []

    async def slow() -> None:
        calls.append(1)

    async def agent(ctx: Context, message: str) -> Any:
        await ctx.thinking("first")
        return await _timed(kind, ctx.tool(slow))

    async def body() -> None:
        storage = FaultyStorage()
        async with bench(agent, storage=storage) as b:
            storage.events.is_open.clear()
            run = await b.send()
            await asyncio.sleep(LIMIT_S * 4)  # the limit is met while the commit does not come to its end
            storage.events.is_open.set()
            events = await b.ended(run)
            assert types_of(events)[-3:] == ["tool_executing", "tool_completed", "agent_completed"]
            assert decode_data(events[-2]).error.code == "tool_cancelled"
            assert decode_data(events[-1]).output is True
            assert calls == []

    play(body)


@pytest.mark.parametrize(
    "raised",
    [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(3), RunFailed("mine"), Fenced("mine")],
    ids=lambda raised: type(raised).__name__,
)
def test_whatever_a_tool_raises_by_itself_is_a_failure_of_the_tool(raised: BaseException) -> None:
    async def agent(ctx: Context, message: str) -> Any:
        async def tool() -> None:
            await ctx.custom("progress", 1)
            raise raised

        try:
            await ctx.tool(tool)
        except ToolFailed as failed:
            await ctx.thinking("I go on")
            return type(raised).__name__ in failed.message

    events = _ended(agent)
    assert types_of(events)[1:] == ["tool_executing", "custom", "tool_completed", "agent_thinking", "agent_completed"]
    assert decode_data(events[3]).error.code == "tool_error"
    assert decode_data(events[-1]).output is True


def test_a_tool_cannot_pretend_that_the_agent_stopped_waiting_for_it() -> None:
    gates = [Gate(), Gate()]

    async def tool() -> None:
        raise ToolFailed("no", code="tool_cancelled")

    async def agent(ctx: Context, message: str) -> Any:
        try:
            await ctx.tool(tool)
        except ToolFailed as failed:
            await gates.pop(0).pass_()
            return failed.code

    async def body() -> None:
        storage, first = MemoryStorage(), gates[0]
        gates[1].open()
        async with bench(agent, storage=storage) as b:
            run = await b.send()
            await first.arrival()
            await b.until(lambda: _has(b, run, "tool_completed"))
        async with bench(agent, storage=storage.restarted()) as b:
            assert decode_data((await b.ended(run))[-1]).output == "tool_error"

    play(body)


def test_a_tool_that_the_server_unwinds_is_not_ended_but_called_again_elsewhere() -> None:
    gates = [Gate(), Gate()]
    calls: list[int] = []

    async def agent(ctx: Context, message: str) -> Any:
        async def slow() -> None:
            calls.append(1)
            await ctx.thinking("searching")
            await gates.pop(0).pass_()

        async with asyncio.timeout(60):
            await ctx.tool(slow)
        return 1

    async def body() -> None:
        storage, first = MemoryStorage(), gates[0]
        gates[1].open()
        async with bench(agent, storage=storage, settings=replace(QUICK, drain_s=0.05)) as b:
            run = await b.send()
            await first.arrival()
            await b.until(lambda: _has(b, run, "agent_thinking"))
            await b.worker.drain()
            assert types_of(await b.events(run))[-1] == "agent_thinking"
        async with bench(agent, storage=storage) as b:
            events = await b.ended(run)
        tries = [decode_data(each) for each in events if each.type == "tool_completed"]
        assert [(each.ok, each.final) for each in tries] == [(False, False), (True, True)]
        assert calls == [1, 1]

    play(body)


def _ended(agent: Any) -> list[StoredEvent]:
    """Return the events of a run of this agent."""
    events: list[StoredEvent] = []

    async def body() -> None:
        async with bench(agent) as b:
            events.extend(await b.ended(await b.send()))

    play(body)
    return events


async def _has(b: Bench, run: str, event_type: str, *, times: int = 1) -> bool:
    return [event.type for event in await b.events(run)].count(event_type) >= times


@pytest.mark.parametrize("kind", ["task", "thread"])
def test_a_run_is_handed_over_only_when_its_tool_is_over(kind: str) -> None:
    began, wall = Gate(), Gate()
    log: list[str] = []

    async def in_task() -> None:
        log.append("begin")
        began.arrive()
        try:
            await asyncio.Event().wait() if len(log) == 1 else None
        finally:
            await asyncio.sleep(LIMIT_S * 3)
            log.append("end")

    def in_thread() -> None:
        log.append("begin")
        began.arrive()
        wall.block()
        log.append("end")

    async def agent(ctx: Context, message: str) -> Any:
        await ctx.tool(in_task if kind == "task" else in_thread)
        return 1

    async def body() -> None:
        storage = MemoryStorage()
        async with bench(agent, storage=storage, settings=replace(QUICK, drain_s=LIMIT_S, grace_s=5)) as b:
            run = await b.send()
            await began.arrival()
            async with bench(agent, storage=storage, settings=replace(QUICK, poll_s=0.01)) as other:
                other.worker._name = "wk_other"
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(b.worker.drain())
                    await asyncio.sleep(LIMIT_S * 4)
                    wall.open()
                events = await other.ended(run)
            assert log == ["begin", "end"] * 2
            assert types_of(events)[-1] == "agent_completed"
            assert b.worker.abandoned == 0

    play(body)
