"""Waits in odd company: left before their turn and answered later, answered oddly, and due by the thousand."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

from tests.unit.runtime.bench import QUICK, Gate, bench, types_of
from tests.unit.runtime.test_waits import answer, parked, waiting
from tests.unit.runtime.twice import ended, last, of_type, twice

from runwire.agents.context import Context
from runwire.storage.memory.storage import MemoryStorage


async def test_an_answer_to_a_wait_that_was_left_before_its_turn_wakes_nobody() -> None:
    """Else the run would count as busy from then on: it would never be put aside, and its deadline would go on."""
    gate = Gate()

    async def agent(ctx: Context, message: str) -> Any:
        for number in range(64):  # some of them wait for their turn
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await ctx.ask(number)
        await gate.pass_()
        return await ctx.ask("Really?")

    async with bench(agent, settings=replace(QUICK, park_after_s=0.3)) as b:
        run = await b.send()
        await gate.arrival()
        for each in await waiting(b, run, 64):
            await answer(b, run, "late", wait=each.wait)
        (held,) = b.worker._runs
        async with asyncio.timeout(5):
            while held.waits:  # noqa: ASYNC110 - of what a worker has heard nothing is said
                await asyncio.sleep(0.01)
        gate.open()
        await waiting(b, run, 65)
        await parked(b, run)
        await answer(b, run, "yes")
        assert last(await b.ended(run)).output == "yes"


async def test_an_answer_that_looks_like_a_stored_value_is_what_the_person_gave() -> None:
    odd = {"$ref": "blob_0123456789abcdef0123456789abcdef", "bytes": 1, "head": "x"}

    async def code(ctx: Context) -> Any:
        return await ctx.ask("Well?")

    async def help_(b: Any, run: str) -> None:
        await answer(b, run, odd)

    first, again, _ = await twice(code, help_=help_)
    assert first == again == odd


async def test_a_step_may_have_any_name_of_its_authors() -> None:
    async def work(number: int) -> int:
        return number

    async def code(ctx: Context) -> Any:
        return [await ctx.step(name, work, 7) for name in ("ctx.left", "ctx.now", "ctx.left")]

    first, again, _ = await twice(code)
    assert first == again == [7, 7, 7]


async def test_what_is_due_in_a_crowd_is_resumed_at_once_though_nobody_holds_it() -> None:
    """More parked runs than one call resumes: the others do not wait for the next look."""
    storage = MemoryStorage()

    async def agent(ctx: Context, message: str) -> str:
        await ctx.gather(*(ctx.sleep(0.4) for _ in range(450)))
        return "slept"

    async with bench(agent, storage=storage, settings=replace(QUICK, park_after_s=0.0)) as b:
        run = await b.send()
        await parked(b, run)
    await asyncio.sleep(0.4)
    async with bench(agent, storage=storage.restarted(), settings=replace(QUICK, poll_s=3.0)) as b:
        async with asyncio.timeout(2.5):
            events = await b.ended(run)
    assert types_of(events)[-1] == "agent_completed"


async def test_an_agent_that_calls_itself_for_ever_ends_visibly() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        return await ctx.subagent(agent, message)

    async def code(ctx: Context) -> Any:
        return await agent(ctx, "again")

    events = await ended(code)
    assert last(events).code == "agent_error"
    assert len(of_type(events, "subagent_started")) == len(of_type(events, "subagent_failed"))
