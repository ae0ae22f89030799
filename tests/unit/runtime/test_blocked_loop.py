"""Code that never yields ends its own run; the others go on elsewhere, and the control loop never notices."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from tests.unit.runtime.bench import QUICK, Bench, Gate, bench, play, types_of
from tests.unit.runtime.faults import FaultyStorage

from runwire.agents.context import Context
from runwire.protocol.events import decode_data
from runwire.runtime.loop_thread import LoopThread
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
            assert (retrying.attempt, retrying.reason) == (2, "drained")
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


# A run that moves more often than this would fail, if moving counted as a crash.
RESTLESS = replace(BLOCKED, blocked_warn_s=0.05, blocked_fail_s=0.1, max_attempts=2)


def test_a_run_may_be_moved_from_any_number_of_blocked_loops_without_counting_a_crash() -> None:
    walls = [Gate() for _ in range(5)]
    raised = iter(walls)
    patience = Gate()

    async def blocker(ctx: Context, message: str) -> Any:
        next(raised).block()

    async def innocent(ctx: Context, message: str) -> Any:
        await ctx.thinking("the same each time")
        await patience.pass_()
        return "done"

    async def body() -> None:
        async with bench({"blocker": blocker, "innocent": innocent}, settings=RESTLESS) as b:
            good = await b.send(agent="innocent", user="usr_bob")
            await patience.arrival()
            for at, wall in enumerate(walls):
                bad = await b.send(agent="blocker")
                await wall.arrival()
                assert decode_data((await b.ended(bad))[-1]).code == "loop_blocked"
                await patience.arrival(at + 2)
            patience.open()
            events = await b.ended(good, user="usr_bob")
            assert decode_data(events[-1]).output == "done"
            reasons = [decode_data(each).reason for each in events if each.type == "agent_retrying"]
            assert reasons == ["drained"] * len(walls)
            for wall in walls:
                wall.open()

    play(body)


def test_what_a_run_starts_from_is_read_and_its_first_word_said_without_the_loop_of_the_agents() -> None:
    wall = Gate()

    async def blocker(ctx: Context, message: str) -> Any:
        wall.block()

    async def late(ctx: Context, message: str) -> Any:
        return ctx.history

    async def body() -> None:
        settings = replace(BLOCKED, blocked_fail_s=60)
        async with bench({"blocker": blocker, "late": late}, settings=settings) as b:
            await b.send(agent="blocker")
            await wall.arrival()
            run = await b.send("hello", agent="late", user="usr_bob")
            await b.until(partial(_has_started, b, run))
            wall.open()
            events = await b.ended(run, user="usr_bob")
            assert decode_data(events[-1]).output == [{"role": "user", "content": "hello"}]

    play(body)


def test_a_run_whose_code_has_not_begun_is_begun_on_the_next_loop() -> None:
    wall, reading = Gate(), Gate()

    async def blocker(ctx: Context, message: str) -> Any:
        wall.block()

    async def late(ctx: Context, message: str) -> Any:
        return "done"

    async def body() -> None:
        storage = FaultyStorage()
        async with bench({"blocker": blocker, "late": late}, settings=BLOCKED, storage=storage) as b:
            bad = await b.send(agent="blocker")
            await wall.arrival()
            read = storage.events.read

            async def read_slowly(*args: Any, **options: Any) -> Any:
                await reading.pass_()
                return await read(*args, **options)

            storage.events.read = read_slowly
            late_one = await b.send(agent="late", user="usr_bob")
            await reading.arrival()
            assert decode_data((await b.ended(bad))[-1]).code == "loop_blocked"
            reading.open()
            events = await b.ended(late_one, user="usr_bob")
            assert types_of(events)[-1] == "agent_completed"
            assert events[-1].attempt == 1
            wall.open()

    play(body)


def test_a_lone_run_whose_code_has_not_begun_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, reading, replaced = Gate(), Gate(), Gate()

    async def agent(ctx: Context, message: str) -> Any:
        return "done"

    async def body() -> None:
        storage = FaultyStorage()
        async with bench(agent, settings=BLOCKED, storage=storage) as b:
            read = storage.events.read

            async def read_slowly(*args: Any, **options: Any) -> Any:
                await reading.pass_()
                return await read(*args, **options)

            storage.events.read = read_slowly
            run = await b.send()
            await reading.arrival()
            make = b.worker._workshop._new_thread

            def make_another() -> LoopThread:
                replaced.arrive()
                return make()

            monkeypatch.setattr(b.worker._workshop, "_new_thread", make_another)
            b.worker._workshop.thread._loop.call_soon_threadsafe(wall.block, context=contextvars.Context())
            await replaced.arrival()
            reading.open()
            assert types_of(await b.ended(run))[-1] == "agent_completed"
            wall.open()

    play(body)


@pytest.mark.parametrize("how", ["call_soon", "call_later", "task", "done callback", "thread"])
def test_a_callback_that_blocks_is_named_after_the_run_that_scheduled_it(how: str) -> None:
    wall = Gate()

    async def agent(ctx: Context, message: str) -> Any:
        await quiet_is_there.arrival()
        loop = asyncio.get_running_loop()
        if how == "call_soon":
            loop.call_soon(wall.block)
        elif how == "call_later":
            loop.call_later(0.001, wall.block)
        elif how == "task":
            asyncio.Task(_blocking(wall), loop=loop, context=contextvars.copy_context())
        elif how == "done callback":
            future = loop.create_future()
            future.add_done_callback(lambda _: wall.block())
            future.set_result(None)
        else:
            await ctx.tool(partial(loop.call_soon_threadsafe, wall.block))
        await asyncio.Event().wait()

    quiet_is_there = Gate()

    async def quiet(ctx: Context, message: str) -> Any:
        quiet_is_there.arrive()
        await wall.arrival()
        return "done"

    async def body() -> None:
        async with bench({"agent": agent, "quiet": quiet}, settings=BLOCKED) as b:
            good = await b.send(agent="quiet", user="usr_bob")
            bad = await b.send()
            assert decode_data((await b.ended(bad))[-1]).code == "loop_blocked"
            assert decode_data((await b.ended(good, user="usr_bob"))[-1]).output == "done"
            assert (await b.row(bad)).attempt == 1
            wall.open()

    play(body)


def test_of_a_block_that_nobody_can_be_blamed_for_nobody_fails_and_nobody_counts_a_crash() -> None:
    walls = [Gate() for _ in range(4)]
    patience = Gate()

    async def agent(ctx: Context, message: str) -> Any:
        await patience.pass_()
        return "done"

    async def body() -> None:
        async with bench(agent, settings=RESTLESS) as b:
            runs = {user: await b.send(user=user) for user in ("usr_ann", "usr_bob")}
            for at, wall in enumerate(walls):
                await patience.arrival(2 * (at + 1))
                b.worker._workshop.thread._loop.call_soon_threadsafe(wall.block, context=contextvars.Context())
                await wall.arrival()
            await patience.arrival(2 * (len(walls) + 1))
            patience.open()
            for user, run in runs.items():
                assert decode_data((await b.ended(run, user=user))[-1]).output == "done"
            for wall in walls:
                wall.open()

    play(body)


def test_code_that_outlived_its_run_and_blocks_the_loop_harms_no_run() -> None:
    wall, stubborn, patience = Gate(), Gate(), Gate()

    async def zombie(ctx: Context, message: str) -> Any:
        while True:
            try:
                await stubborn.pass_()
                break
            except asyncio.CancelledError:
                pass
        wall.block()

    async def innocent(ctx: Context, message: str) -> Any:
        await patience.pass_()
        return "done"

    async def body() -> None:
        async with bench({"zombie": zombie, "innocent": innocent}, settings=BLOCKED) as b:
            bad = await b.send(agent="zombie")
            await stubborn.arrival()
            await b.storage.runs.cancel("usr_ann", bad, CancelRequest(by="user"))
            await b.ended(bad)
            await b.idle()
            good = await b.send(agent="innocent")
            await patience.arrival()
            stubborn.open()
            await wall.arrival()
            await patience.arrival(2)
            patience.open()
            assert decode_data((await b.ended(good))[-1]).output == "done"
            wall.open()

    play(body)


async def _blocking(wall: Gate) -> None:
    wall.block()


async def _has_started(b: Bench, run: str) -> bool:
    return bool(await b.events(run))
