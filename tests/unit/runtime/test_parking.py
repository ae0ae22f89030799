"""Runs that are put aside while they wait: whatever comes first, the answer, the end or the parking write."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.unit.runtime.bench import QUICK, Bench, Gate, bench, types_of
from tests.unit.runtime.hooks import HookedStorage, once

from runwire.agents.context import Context
from runwire.errors import Unavailable
from runwire.protocol.events import StoredEvent, decode_data
from runwire.storage.base import Batch, Busy, CancelRequest, Outcome, Wake
from runwire.storage.bus_local import LocalBus
from runwire.storage.memory.storage import MemoryStorage

PARKS = replace(QUICK, park_after_s=0.0)
STAYS = replace(QUICK, park_after_s=60.0)
BY_USER = CancelRequest(by="user")


def of_type(events: list[StoredEvent], kind: str) -> list[Any]:
    return [decode_data(event) for event in events if event.type == kind]


async def waits_of(b: Bench, run: str, count: int = 1) -> list[str]:
    """Wait until so many waits have begun; return their ids."""

    async def have_begun() -> bool:
        return len(of_type(await b.events(run), "agent_waiting")) >= count

    await b.until(have_begun)
    return [data.wait for data in of_type(await b.events(run), "agent_waiting")]


async def ask(ctx: Context, message: str) -> Any:
    return await ctx.ask("?")


@pytest.mark.parametrize("order", ["answered first", "parked first"])
async def test_an_answer_that_meets_the_parking_write_is_lost_in_neither_order(order: str) -> None:
    storage = HookedStorage()

    async def answer(run: str, *_args: Any, waits: list[str], **_options: Any) -> None:
        await storage.runs.answer("usr_ann", run, waits[0], "in between")
        # Nobody is told: it is found by looking.

    once(storage.runs, "park", **{"before" if order == "answered first" else "after": answer})
    async with bench(ask, storage=storage, settings=PARKS) as b:
        events = await b.ended(await b.send())
    assert of_type(events, "agent_completed")[0].output == "in between"
    assert [data.by for data in of_type(events, "agent_resumed")] == ["usr_ann"]
    assert "agent_retrying" not in types_of(events)


async def test_an_answer_that_came_after_the_decision_to_park_is_not_lost_though_other_waits_are_open() -> None:
    """Two branches wait; one is answered while the code is unwound. Parked for the other alone, it would lie there."""
    storage, heard = HookedStorage(), Gate()

    async def agent(ctx: Context, message: str) -> Any:
        async def first() -> None:
            heard_it = await ctx.ask("one")
            await ctx.thinking(f"heard {heard_it}")
            heard.arrive()

        await ctx.gather(first(), ctx.ask("two"))
        return "both"

    async def answer(run: str, *_args: Any, waits: list[str], **_options: Any) -> None:
        logged = await storage.events.read_run(run)
        one = next(data.wait for data in of_type(logged, "agent_waiting") if data.prompt == "one")
        await storage.runs.answer("usr_ann", run, one, "one")
        storage_bus.publish(Wake(topic="signals"))

    once(storage.runs, "park", before=answer)
    async with bench(agent, storage=storage, settings=PARKS) as b:
        storage_bus = b.bus
        run = await b.send()
        await heard.arrival()
        waits = {data.prompt: data.wait for data in of_type(await b.events(run), "agent_waiting")}
        await storage.runs.answer("usr_ann", run, waits["two"], "two")
        b.bus.publish(Wake(topic="runs"))
        b.bus.publish(Wake(topic="signals"))
        assert of_type(await b.ended(run), "agent_completed")[0].output == "both"


async def test_a_run_is_not_parked_while_an_answer_is_on_its_way_to_its_code() -> None:
    """The agents' loop is blocked, so the branch that was answered does not come to go on; the other one waits."""
    wall, heard = Gate(), Gate()

    async def waits(ctx: Context, message: str) -> Any:
        async def first() -> None:
            await ctx.ask("one")
            heard.arrive()

        await ctx.gather(first(), ctx.ask("two"))

    async def blocks(ctx: Context, message: str) -> Any:
        wall.block()

    settings = replace(QUICK, park_after_s=0.4, blocked_warn_s=60.0)
    async with bench({"agent": waits, "blocks": blocks}, settings=settings) as b:
        run = await b.send()
        await waits_of(b, run, 2)
        await b.send(agent="blocks", user="usr_bob")
        await wall.arrival()
        one = next(data.wait for data in of_type(await b.events(run), "agent_waiting") if data.prompt == "one")
        await b.storage.runs.answer("usr_ann", run, one, "yes")
        b.bus.publish(Wake(topic="signals"))
        await asyncio.sleep(0.6)  # so that the time to park comes
        wall.open()
        await heard.arrival()
        assert (await b.row(run)).attempt == 1


async def test_a_run_that_goes_on_does_not_look_for_a_history_that_it_has_not() -> None:
    storage, reads = HookedStorage(), list[str]()

    async def agent(ctx: Context, message: str) -> Any:
        await ctx.ask("?")
        return [turn["content"] for turn in ctx.history]

    async def read(real: Callable[[], Awaitable[Any]], thread: str, **_options: Any) -> Any:
        reads.append(thread)
        return await real()

    async with bench(agent, storage=storage, settings=PARKS) as b:
        expected, thread = list[str](), None
        for message, looks in (("first", 0), ("second", 1)):
            run = await b.send(message, thread=thread)
            (wait,) = await waits_of(b, run)
            await b.idle()
            storage.events.around["read"] = read
            await storage.runs.answer("usr_ann", run, wait, "yes")
            b.bus.publish(Wake(topic="runs"))
            expected.append(message)
            assert of_type(await b.ended(run), "agent_completed")[0].output == expected
            assert len(reads) == looks
            del storage.events.around["read"]
            thread = (await b.row(run)).thread


async def test_a_parking_write_whose_reply_was_lost_is_asked_for_again() -> None:
    storage, replies = HookedStorage(), list[bool]()

    async def park(real: Callable[[], Awaitable[bool]], *args: Any, **options: Any) -> bool:
        replies.append(await real())
        if len(replies) == 1:
            raise Unavailable("the reply was lost")
        return replies[-1]

    storage.runs.around["park"] = park
    async with bench(ask, storage=storage, settings=PARKS) as b:
        run = await b.send()
        (wait,) = await waits_of(b, run)
        await b.idle()
        assert (await b.row(run)).status == "waiting"
        assert replies == [True, True]
        await storage.runs.answer("usr_ann", run, wait, "yes")
        b.bus.publish(Wake(topic="runs"))
        assert of_type(await b.ended(run), "agent_completed")[0].output == "yes"


@pytest.mark.parametrize("is_heard", [True, False])
async def test_a_cancel_that_meets_the_parking_write_ends_the_run(is_heard: bool) -> None:
    storage = HookedStorage()

    async def cancel(run: str, *_args: Any, **_options: Any) -> None:
        await storage.runs.cancel("usr_ann", run, BY_USER)
        if is_heard:
            bench_.bus.publish(Wake(topic="signals"))

    once(storage.runs, "park", before=cancel)
    async with bench(ask, storage=storage, settings=PARKS) as bench_:
        events = await bench_.ended(await bench_.send())
    assert types_of(events)[-2:] == ["agent_resumed", "agent_cancelled"]


@pytest.mark.parametrize("is_parked", [True, False])
async def test_a_time_that_was_waited_for_comes_though_nobody_wakes_the_worker(is_parked: bool) -> None:
    async def agent(ctx: Context, message: str) -> Any:
        await ctx.sleep(0.15)
        return "slept"

    async with bench(agent, settings=PARKS if is_parked else STAYS) as b:
        b.is_bus_lossy = True
        events = await b.ended(await b.send())
    (waited,) = of_type(events, "agent_waiting")
    (resumed,) = [event for event in events if event.type == "agent_resumed"]
    assert decode_data(resumed).by == "timer"
    assert resumed.ts >= waited.due_at
    assert of_type(events, "agent_completed")[0].output == "slept"


async def test_a_held_run_is_woken_on_time_and_not_by_the_next_poll() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        for _ in range(3):
            await ctx.sleep(0.02)
        return "slept"

    async with bench(agent, settings=replace(STAYS, poll_s=60.0, signals_s=60.0)) as b:
        await b.ended(await b.send())  # within the patience of a test


async def test_a_run_that_waits_past_its_deadline_goes_on_and_one_that_works_past_it_does_not() -> None:
    gate = Gate()

    async def agent(ctx: Context, message: str) -> Any:
        await ctx.sleep(0.6)
        if message == "work":
            await gate.pass_()
        return "in time"

    async with bench(agent, settings=replace(STAYS, deadline_s=0.4)) as b:
        events = await b.ended(await b.send("wait"))
        assert of_type(events, "agent_completed")[0].output == "in time"
        events = await b.ended(await b.send("work"))
        assert of_type(events, "agent_failed")[0].code == "deadline_exceeded"


@pytest.mark.parametrize("ending", ["deadline_exceeded", "user", "returned"])
async def test_an_answer_just_before_the_end_stands_and_the_run_ends_as_it_would_have(ending: str) -> None:
    """The batch that closes the wait finds it answered: all else of the batch is stored, and the ending is the same."""
    storage, working = HookedStorage(), Gate()

    async def agent(ctx: Context, message: str) -> Any:
        if ending != "returned":
            await ctx.gather(ctx.ask("one"), ctx.ask("two"), working.pass_())
        for _ in range(2):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await ctx.ask("?")
        await ctx.thinking("said with the end")
        return "the output"

    async def append(real: Callable[[], Awaitable[list[Outcome]]], batches: list[Batch]) -> list[Outcome]:
        for batch in batches:
            if batch.closes:
                closes.append(len(batch.closes))
                await storage.runs.answer("usr_ann", batch.run, batch.closes[0], "late")
        return await real()

    closes: list[int] = []
    storage.events.around["append"] = append
    settings = replace(STAYS, deadline_s=0.3 if ending == "deadline_exceeded" else 60.0, signals_s=60.0)
    async with bench(agent, storage=storage, settings=settings) as b:
        run = await b.send()
        await waits_of(b, run, 2)
        if ending == "user":
            await storage.runs.cancel("usr_ann", run, BY_USER)
            b.bus.publish(Wake(topic="signals"))
        events = await b.ended(run)
        working.open()
    assert closes == [2, 1]
    assert [data.by for data in of_type(events, "agent_resumed")] == ["usr_ann", "usr_ann"]
    last = decode_data(events[-1])
    assert ending in (getattr(last, "code", None), getattr(last, "by", None), "returned")
    if ending == "returned":
        assert last.output == "the output"
        assert [data.text for data in of_type(events, "agent_thinking")] == ["said with the end"]


async def test_a_batch_whose_rows_are_taken_goes_again_and_holds_up_nobody() -> None:
    storage = HookedStorage()
    tries: list[Batch] = []

    async def append(real: Any, batches: list[Batch]) -> list[Outcome]:
        taken = [batch for batch in batches if batch.run != busy or len(tries) >= 5]
        tries.extend(batch for batch in batches if batch.run == busy)
        outcomes = dict(zip([batch.run for batch in taken], await port.append(taken), strict=True))
        return [outcomes.get(batch.run, Busy()) for batch in batches]

    async def agent(ctx: Context, message: str) -> Any:
        return message

    busy, port = "", storage._inner.events
    storage.events.around["append"] = append
    async with bench(agent, storage=storage) as b:
        busy = await b.send("busy")
        other = await b.send("other", user="usr_bob")
        await b.ended(other, user="usr_bob")
        events = await b.ended(busy)
    assert of_type(events, "agent_completed")[0].output == "busy"
    assert all(one is tries[0] for one in tries[:5]), "it is sent again as it is"


async def test_a_drained_worker_parks_what_waits_and_its_successor_says_nothing_of_it() -> None:
    storage = MemoryStorage()
    async with bench(ask, storage=storage, settings=replace(STAYS, drain_s=30.0)) as b:
        run = await b.send()
        (wait,) = await waits_of(b, run)
        async with asyncio.timeout(5):
            await b.worker.drain()
        assert (await b.row(run)).status == "waiting"
    async with bench(ask, storage=storage.restarted(), settings=STAYS) as b:
        await b.storage.runs.answer("usr_ann", run, wait, "yes")
        b.bus.publish(Wake(topic="runs"))
        events = await b.ended(run)
    assert of_type(events, "agent_completed")[0].output == "yes"
    assert "agent_retrying" not in types_of(events)


async def test_what_a_drained_worker_hands_over_is_taken_up_at_once_by_another() -> None:
    storage, bus, gate = MemoryStorage(), LocalBus(), Gate()

    async def step() -> None: ...

    async def agent(ctx: Context, message: str) -> Any:
        await gate.pass_()
        await ctx.tool(step)
        return "done"

    settings = replace(STAYS, poll_s=60.0)
    async with bench(agent, storage=storage, settings=settings, bus=bus, name="one") as one:
        run = await one.send()
        await gate.arrival()
        async with bench(agent, storage=storage, settings=settings, bus=bus, name="two") as two:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(one.worker.drain())
                await asyncio.sleep(0)
                gate.open()
            events = await two.ended(run)
    assert [data.reason for data in of_type(events, "agent_retrying")] == ["drained"]
    assert {event.attempt for event in events if event.type == "tool_executing"} == {2}


async def test_access_that_is_withdrawn_ends_a_run_that_waits() -> None:
    allowed = {"usr_ann"}
    async with bench(ask, settings=STAYS, is_allowed=lambda user: user in allowed) as b:
        run = await b.send()
        await waits_of(b, run)
        allowed.clear()
        b.worker.recheck()
        events = await b.ended(run)
    assert types_of(events)[-2:] == ["agent_resumed", "agent_cancelled"]
    assert of_type(events, "agent_cancelled")[0].by == "revoked"


async def test_figures_tell_why_attempts_began() -> None:
    registry = CollectorRegistry()
    async with bench(ask, settings=PARKS, registry=registry) as b:
        run = await b.send()
        (wait,) = await waits_of(b, run)
        await b.idle()
        await b.storage.runs.answer("usr_ann", run, wait, "yes")
        b.bus.publish(Wake(topic="runs"))
        await b.ended(run)
    figures = {
        why: registry.get_sample_value("runtime_claimed_runs_total", {"why": why}) for why in ("queued", "resumed")
    }
    assert figures == {"queued": 1.0, "resumed": 1.0}
