"""Code that never yields ends its own run; the others go on elsewhere, and the control loop never notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from tests.unit.runtime.bench import QUICK, Gate, bench, play, types_of

from runwire.agents.context import Context
from runwire.protocol.events import decode_data
from runwire.storage.base import CancelRequest

# A loop that is blocked for longer than this ends its run; the block itself lasts until the test ends it.
BLOCKED = replace(QUICK, blocked_warn_s=0.1, blocked_fail_s=0.3)


def test_a_blocked_loop_ends_the_run_that_blocks_it_and_the_other_goes_on_elsewhere() -> None:
    wall, beside, again = Gate(), Gate(), Gate()
    gates = [beside, again]

    async def blocker(ctx: Context, message: str) -> Any:
        await ctx.message("soon silent")
        await beside.arrival()
        wall.block()
        await ctx.message("zombie")

    async def innocent(ctx: Context, message: str) -> AsyncIterator[str]:
        yield "one "
        await gates.pop(0).pass_()
        yield "two"

    async def body() -> None:
        async with bench({"blocker": blocker, "innocent": innocent}, settings=BLOCKED) as b:
            bad, good = await b.send(agent="blocker"), await b.send(agent="innocent")
            again.open()
            failed = await b.ended(bad)
            assert decode_data(failed[-1]).code == "loop_blocked"
            events = await b.ended(good)
            assert decode_data(events[-1]).output == "one two"
            retrying = next(decode_data(each) for each in events if each.type == "agent_retrying")
            assert (retrying.attempt, retrying.reason) == (2, "worker_lost")
            assert types_of(events).count("message_started") == 1
            # The wall falls: what was behind it has nothing to say any more, and new runs find a loop that works.
            wall.open()
            gates.append(again)
            assert decode_data((await b.ended(await b.send(agent="innocent")))[-1]).output == "one two"
            assert await b.events(bad) == failed

    play(body)


def test_the_control_loop_stays_quick_while_an_agent_blocks_its_own() -> None:
    wall = Gate()

    async def agent(ctx: Context, message: str) -> Any:
        wall.block()

    async def body() -> None:
        async with bench(agent, settings=replace(BLOCKED, blocked_fail_s=60)) as b:
            await b.send()
            await wall.arrival()
            loop = asyncio.get_running_loop()
            began = loop.time()
            for _ in range(100):
                await b.storage.runs.list("usr_ann")
                await asyncio.sleep(0)
            assert loop.time() - began < 1
            wall.open()

    play(body)


def test_a_blocked_run_is_cancelled_for_the_person_all_the_same() -> None:
    wall = Gate()

    async def agent(ctx: Context, message: str) -> Any:
        wall.block()

    async def body() -> None:
        async with bench(agent, settings=replace(BLOCKED, blocked_fail_s=60)) as b:
            run = await b.send()
            await wall.arrival()
            await b.storage.runs.cancel("usr_ann", run, CancelRequest(by="user"))
            assert (await b.ended(run))[-1].type == "agent_cancelled"
            wall.open()

    play(body)


def test_a_deadline_before_the_limit_ends_a_blocked_run_as_blocked() -> None:
    wall = Gate()

    async def agent(ctx: Context, message: str) -> Any:
        wall.block()

    async def body() -> None:
        settings = replace(BLOCKED, blocked_fail_s=60, deadline_s=0.3, grace_s=60)
        async with bench(agent, settings=settings) as b:
            run = await b.send()
            assert decode_data((await b.ended(run))[-1]).code == "loop_blocked"
            wall.open()

    play(body)


def test_a_task_of_the_user_that_blocks_is_named_after_the_run_that_made_it() -> None:
    wall = Gate()

    async def agent(ctx: Context, message: str) -> Any:
        async def child() -> None:
            wall.block()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child())

    async def quiet(ctx: Context, message: str) -> Any:
        await wall.arrival()
        return "done"

    async def body() -> None:
        async with bench({"agent": agent, "quiet": quiet}, settings=BLOCKED) as b:
            bad = await b.send()
            good = await b.send(agent="quiet", user="usr_bob")
            assert decode_data((await b.ended(bad))[-1]).code == "loop_blocked"
            assert decode_data((await b.ended(good, user="usr_bob"))[-1]).output == "done"
            wall.open()

    play(body)
