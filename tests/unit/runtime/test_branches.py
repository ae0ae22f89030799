"""`ctx.gather`: several coroutines of one agent at once."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.runtime.bench import QUICK, Gate, bench, types_of
from tests.unit.runtime.twice import ended, last, of_type, twice

from runwire import ToolFailed
from runwire.agents.context import Context
from runwire.errors import PayloadError
from runwire.storage.base import CancelRequest
from runwire.storage.memory.storage import MemoryStorage


async def test_branches_run_at_once_and_their_results_come_in_order() -> None:
    meeting = asyncio.Barrier(3)

    async def code(ctx: Context) -> Any:
        async def work(n: int) -> int:
            await asyncio.sleep(0.01 * (3 - n))
            return n * 10

        async def branch(n: int) -> Any:
            if not meeting.broken:
                await meeting.wait()  # all three are here at the same time
            return await ctx.tool(work, n=n)

        try:
            return await ctx.gather(branch(1), branch(2), branch(3))
        finally:
            await meeting.abort()

    first, again, events = await twice(code)
    assert first == again == [10, 20, 30]
    assert types_of(events)[1:4] == ["tool_executing"] * 3


async def test_no_branch_is_an_empty_list() -> None:
    async def code(ctx: Context) -> Any:
        return await ctx.gather()

    assert last(await ended(code)).output == []


async def test_what_branches_say_is_theirs_and_each_has_its_own_message() -> None:
    async def code(ctx: Context) -> Any:
        async def branch(name: str) -> None:
            for n in range(3):
                await ctx.write(f"{name}{n} ")
                await asyncio.sleep(0)

        await ctx.write("before")
        await ctx.gather(branch("a"), branch("b"))
        await ctx.write("after")

    first, again, events = await twice(code)
    assert first is again is None
    said = [each.content for each in of_type(events, "message_completed")]
    assert said[0] == "before"
    assert sorted(said[1:3]) == ["a0 a1 a2 ", "b0 b1 b2 "]
    assert said[3] == "after"


@pytest.mark.parametrize("is_slow_first", [True, False])
async def test_all_branches_end_and_the_first_in_their_order_that_raised_is_raised(is_slow_first: bool) -> None:
    over: list[str] = []

    async def code(ctx: Context) -> Any:
        async def fail(name: str) -> None:
            raise ToolFailed(name)

        async def branch(name: str, turns: int) -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            try:
                await ctx.tool(fail, name=name)
            finally:
                over.append(name)

        try:
            await ctx.gather(branch("one", 40 if is_slow_first else 0), branch("two", 5), branch("three", 10))
        except ToolFailed as error:
            return error.message

    first, again, _ = await twice(code)
    assert first == again == "one"
    assert sorted(over) == sorted(["one", "two", "three"] * 2)


async def test_exceptions_may_be_results() -> None:
    async def code(ctx: Context) -> Any:
        async def good() -> int:
            return 1

        async def bad() -> None:
            raise KeyError("x")

        async def gives_up() -> None:
            raise asyncio.CancelledError

        return [repr(each) for each in await ctx.gather(good(), bad(), gives_up(), return_exceptions=True)]

    first, again, _ = await twice(code)
    assert first == again == ["1", "KeyError('x')", "CancelledError()"]


async def test_an_exception_of_a_branch_ends_the_agent_like_its_own() -> None:
    async def code(ctx: Context) -> Any:
        async def bad() -> None:
            await ctx.write("so far")
            raise LookupError("secret")

        await ctx.gather(bad())

    events = await ended(code)
    assert last(events).code == "agent_error"
    assert last(events).message == "The agent failed (LookupError)."


async def test_branches_have_branches_inside_tools_too() -> None:
    async def code(ctx: Context) -> Any:
        async def leaf(n: int) -> int:
            return n

        async def twig(n: int) -> list[int]:
            return await ctx.gather(*(ctx.tool(leaf, n=n * 10 + i) for i in range(2)))

        async def branch(n: int) -> list[list[int]]:
            return await ctx.gather(twig(n), twig(n + 1))

        async def tool() -> Any:
            return await ctx.gather(branch(1), branch(5))

        return [await ctx.tool(tool), await ctx.gather(branch(1))]

    first, again, events = await twice(code)
    assert first == again == [[[[10, 11], [20, 21]], [[50, 51], [60, 61]]], [[[10, 11], [20, 21]]]]
    assert len({each.step for each in of_type(events, "tool_executing")}) == 1 + 8 + 4


async def test_a_time_limit_around_branches_cancels_all_and_waits_for_them() -> None:
    over: list[str] = []

    async def code(ctx: Context) -> Any:
        async def hang() -> None:
            await asyncio.Event().wait()

        async def branch(name: str) -> None:
            try:
                await ctx.write(f"{name} waits")
                await ctx.tool(hang)
            finally:
                await asyncio.sleep(0.01)
                over.append(name)

        async def speak() -> None:
            await ctx.write("c speaks")
            await hang()

        try:
            async with asyncio.timeout(0.05):
                await ctx.gather(branch("a"), branch("b"), speak())
        except TimeoutError:
            await ctx.message("I go on")
            return sorted(over)

    first, again, events = await twice(code)
    assert first == ["a", "b"]
    assert again == ["a", "a", "b", "b"]
    assert [each.error.code for each in of_type(events, "tool_completed")] == ["tool_cancelled"] * 2
    said = [each.content for each in of_type(events, "message_completed")]
    assert said[2:] == ["c speaks", "I go on"], "what a branch was saying ends with it"


async def test_cancelling_the_run_cancels_its_branches() -> None:
    over, gate = list[str](), Gate()

    async def agent(ctx: Context, message: str) -> Any:
        async def branch(name: str) -> None:
            try:
                await ctx.write(name)
                await gate.pass_()
            finally:
                over.append(name)

        await ctx.gather(branch("a"), branch("b"))

    async with bench(agent) as b:
        run = await b.send()
        await gate.arrival(2)
        await b.storage.runs.cancel("usr_ann", run, CancelRequest(by="user"))
        events = await b.ended(run)
    assert events[-1].type == "agent_cancelled"
    assert sorted(over) == ["a", "b"]
    assert [each.complete for each in of_type(events, "message_completed")] == [False, False]


async def test_a_killed_worker_leaves_branches_that_the_next_one_goes_on_with() -> None:
    storage, gates, calls = MemoryStorage(), [Gate(), Gate()], list[int]()
    gates[1].open()

    async def agent(ctx: Context, message: str) -> Any:
        async def work(n: int) -> int:
            calls.append(n)
            if n == 2:
                await gates.pop(0).pass_()
            return n

        async def branch(n: int) -> Any:
            await ctx.thinking(f"branch {n}")
            return await ctx.tool(work, n=n)

        return await ctx.gather(*(branch(n) for n in range(4)))

    async with bench(agent, storage=storage) as b:
        run, gate = await b.send(), gates[0]
        await gate.arrival()

        async def are_three_done() -> bool:
            return types_of(await b.events(run)).count("tool_completed") == 3

        await b.until(are_three_done)
    async with bench(agent, storage=storage.restarted()) as b:
        events = await b.ended(run)
    assert last(events).output == [0, 1, 2, 3]
    assert sorted(calls) == [0, 1, 2, 2, 3]
    assert types_of(events).count("agent_thinking") == 4


async def test_a_drained_run_is_handed_over_when_its_last_branch_has_come_to_a_boundary() -> None:
    storage, slow, quick = MemoryStorage(), Gate(), Gate()
    calls: list[str] = []

    async def agent(ctx: Context, message: str) -> Any:
        async def work(name: str) -> str:
            calls.append(name)
            if name == "slow":
                await slow.pass_()
            if name == "quick":
                await quick.pass_()
            return name

        async def branch(name: str) -> list[str]:
            return [await ctx.tool(work, name=name), await ctx.tool(work, name=f"{name} after")]

        return await ctx.gather(branch("slow"), branch("quick"))

    async with bench(agent, storage=storage, settings=replace(QUICK, drain_s=30.0)) as b:
        run = await b.send()
        await slow.arrival()
        await quick.arrival()
        async with asyncio.TaskGroup() as tasks:
            drained = tasks.create_task(b.worker.drain())
            await asyncio.sleep(0)
            quick.open()

            async def is_one_done() -> bool:
                return types_of(await b.events(run)).count("tool_completed") == 1

            await b.until(is_one_done)
            await b.agent_turns(5)
            assert not drained.done(), "one branch is still inside its step"
            slow.open()
    async with bench(agent, storage=storage.restarted()) as b:
        events = await b.ended(run)
    assert last(events).output == [["slow", "slow after"], ["quick", "quick after"]]
    assert sorted(calls) == ["quick", "quick after", "slow", "slow after"], "nothing was cut off"
    assert [each.reason for each in of_type(events, "agent_retrying")] == ["drained"]


async def test_a_branch_that_leaves_its_boundary_by_a_limit_of_its_own_is_waited_for_again() -> None:
    storage, slow, busy = MemoryStorage(), Gate(), Gate()
    calls: list[str] = []

    async def agent(ctx: Context, message: str) -> Any:
        async def work(gate: str) -> str:
            calls.append(gate)
            await {"slow": slow, "quick": quick}[gate].pass_()
            return gate

        async def branch() -> str:
            return f"{await ctx.tool(work, gate='slow')} {await ctx.tool(work, gate='slow')}"

        async def impatient() -> str:
            await ctx.tool(work, gate="quick")
            try:
                async with asyncio.timeout(0.05):
                    await ctx.tool(work, gate="quick")
            except TimeoutError:
                try:
                    await busy.pass_()
                except asyncio.CancelledError:
                    calls.append("cut off")
                    raise
            return f"{await ctx.tool(work, gate='quick')} after all"

        return await ctx.gather(branch(), impatient())

    quick = Gate()
    async with bench(agent, storage=storage, settings=replace(QUICK, drain_s=30.0)) as b:
        await b.send()
        await slow.arrival()
        await quick.arrival()
        async with asyncio.TaskGroup() as tasks:
            drained = tasks.create_task(b.worker.drain())
            await asyncio.sleep(0)
            quick.open()
            await busy.arrival()
            slow.open()

            async def is_slow_done() -> bool:
                return [event.type for event in await b.storage.events.read_run(run)].count("tool_completed") == 2

            run = (await b.storage.runs.list("usr_ann"))[0].run
            await b.until(is_slow_done)
            await b.agent_turns(50)
            assert not drained.done(), "one branch is busy, with no step at all"
            busy.open()
    assert calls == ["slow", "quick"]
    async with bench(agent, storage=storage.restarted()) as b:
        events = await b.ended(run)
    assert last(events).output == ["slow slow", "quick after all"]
    assert calls[2:] in (["slow", "quick"], ["quick", "slow"]), "what was given up at the boundary stays given up"


async def _coroutine() -> None: ...


async def _stream() -> AsyncIterator[str]:
    yield ""


async def _use(ctx: Context) -> None:
    await ctx.custom("x", 1)


_SAME = "`gather` was given the same coroutine twice; call the function once for each branch"

REFUSED: dict[str, tuple[Callable[[Context], tuple[Any, ...]], str]] = {
    "a list": (
        lambda ctx: ([1],),
        "`gather` takes coroutines, and argument 1 is of type list: write `ctx.gather(*coroutines)`, with an asterisk",
    ),
    "a function": (
        lambda ctx: (_coroutine(), _coroutine),
        "`gather` takes coroutines, and argument 2 is of type function: call it, as in `ctx.gather(work(1), work(2))`",
    ),
    "a stream": (
        lambda ctx: (_coroutine(), _stream()),
        "`gather` takes coroutines, and argument 2 is an async generator: gather `async def` functions that return, "
        "or ctx.subagent for an agent that yields",
    ),
    "a number": (
        lambda ctx: (7,),
        "`gather` takes coroutines, and argument 1 is of type int; write `ctx.gather(work(1), work(2))`",
    ),
    "one twice": (lambda ctx: (once := _coroutine(), once), _SAME),
    "too many": (
        lambda ctx: tuple(_coroutine() for _ in range(1001)),
        "`gather` takes up to 1000 coroutines, not 1001; work through them in parts",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
async def test_a_mistake_is_told_and_leaves_no_coroutine_behind(mistake: str) -> None:
    make, sentence = REFUSED[mistake]

    async def code(ctx: Context) -> Any:
        await ctx.gather(*make(ctx))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        events = await ended(code)
        gc.collect()
    assert last(events).message == sentence


async def test_a_thousand_branches_are_allowed() -> None:
    async def code(ctx: Context) -> Any:
        async def branch(n: int) -> int:
            await ctx.custom("n", n)
            return n

        return sum(await ctx.gather(*(branch(n) for n in range(1000))))

    assert last(await ended(code)).output == 499500


@pytest.mark.parametrize("where", ["agent", "branch", "gathered task"])
async def test_a_task_that_gather_did_not_make_may_not_use_the_context(where: str) -> None:
    async def code(ctx: Context) -> Any:
        async def stray() -> None:
            await asyncio.get_running_loop().create_task(_use(ctx))

        if where == "agent":
            await stray()
        elif where == "branch":
            await ctx.gather(stray())
        else:
            await ctx.gather(asyncio.get_running_loop().create_task(_use(ctx)))

    events = await ended(code)
    assert last(events).code == "parallel_without_gather"
    assert "ctx.gather" in last(events).message
    assert "custom" not in types_of(events)


async def test_a_branch_may_not_catch_that_the_run_fails() -> None:
    async def code(ctx: Context) -> Any:
        async def stray() -> None:
            await asyncio.get_running_loop().create_task(_use(ctx))

        await ctx.gather(stray(), return_exceptions=True)
        return "unharmed"

    assert last(await ended(code)).code == "parallel_without_gather"


async def test_a_gather_outside_the_agents_tasks_closes_what_it_was_given() -> None:
    async def code(ctx: Context) -> Any:
        async def stray() -> None:
            await ctx.gather(_coroutine())

        await asyncio.get_running_loop().create_task(stray())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        events = await ended(code)
        gc.collect()
    assert last(events).code == "parallel_without_gather"


async def test_large_values_of_branches_are_refused_where_they_are() -> None:
    async def code(ctx: Context) -> Any:
        async def branch() -> None:
            await ctx.custom("x", object())

        found = await ctx.gather(branch(), return_exceptions=True)
        return isinstance(found[0], PayloadError)

    assert last(await ended(code)).output is True
