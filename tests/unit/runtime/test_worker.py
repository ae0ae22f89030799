"""Claiming, limits, hand-over and drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.unit.runtime.bench import QUICK, Bench, Gate, bench, play, types_of
from tests.unit.runtime.faults import FaultyStorage

from runwire.agents.context import Context
from runwire.protocol.events import decode_data
from runwire.storage.base import CancelRequest, Claim
from runwire.storage.memory.storage import MemoryStorage
from runwire.storage.open import open_storage


def test_runs_of_many_users_run_at_once_and_each_is_its_own() -> None:
    async def echo(text: str) -> str:
        return text

    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        await ctx.thinking(message)
        found = await ctx.tool(echo, text=message)
        for word in found.split():
            yield word + " "

    async def body() -> None:
        async with bench(agent) as b:
            users = [f"usr_{n}" for n in range(40)]
            runs = {user: await b.send(f"words of {user}", user=user) for user in users}
            for user, run in runs.items():
                assert decode_data((await b.ended(run, user=user))[-1]).output == f"words of {user} "

    play(body)


def test_a_worker_takes_no_more_runs_than_it_may() -> None:
    gate = Gate()
    now = most = 0

    async def agent(ctx: Context, message: str) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await gate.pass_()
        now -= 1
        return "done"

    async def body() -> None:
        async with bench(agent, settings=replace(QUICK, max_runs=3)) as b:
            runs = [(f"usr_{n}", await b.send(user=f"usr_{n}")) for n in range(8)]
            await gate.arrival(3)
            await b.agent_turns(100)
            assert now == 3
            gate.open()
            for user, run in runs:
                await b.ended(run, user=user)
            assert most == 3

    play(body)


def test_the_second_message_of_a_thread_runs_after_the_first() -> None:
    gate = Gate()
    order: list[str] = []

    async def agent(ctx: Context, message: str) -> Any:
        order.append(message)
        if message == "first":
            await gate.pass_()
        order.append(f"{message} done")
        return message

    async def body() -> None:
        async with bench(agent, settings=replace(QUICK, poll_s=60)) as b:
            first = await b.send("first")
            await gate.arrival()
            second = await b.send("second", thread=(await b.row(first)).thread)
            gate.open()
            await b.ended(second)
            assert order == ["first", "first done", "second", "second done"]

    play(body)


def test_a_run_is_found_by_the_poll_when_the_bus_lost_the_wake_up() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        return "found"

    async def body() -> None:
        async with bench(agent) as b:
            b.is_bus_lossy = True
            assert decode_data((await b.ended(await b.send()))[-1]).output == "found"

    play(body)


def test_a_run_whose_agent_nobody_has_ends_visibly() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        return "never"

    async def body() -> None:
        async with bench(agent) as b:
            events = await b.ended(await b.send(agent="gone"))
            assert types_of(events) == ["agent_started", "agent_failed"]
            assert decode_data(events[-1]).code == "agent_unavailable"

    play(body)


def test_a_run_that_the_server_itself_cannot_begin_ends_visibly() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        return "fine"

    async def body() -> None:
        storage = FaultyStorage()
        async with bench(agent, storage=storage) as b:
            read = storage.events.read

            async def fail(*_args: Any, **_options: Any) -> Any:
                raise LookupError("a fault of ours")

            storage.events.read = fail
            events = await b.ended(await b.send())
            assert types_of(events) == ["agent_started", "agent_failed"]
            assert decode_data(events[-1]).code == "internal"
            assert "fault of ours" not in decode_data(events[-1]).message
            storage.events.read = read
            assert types_of(await b.ended(await b.send()))[-1] == "agent_completed"

    play(body)


def test_a_run_that_is_cancelled_before_its_code_began_is_ended_without_any_grace() -> None:
    reading = Gate()
    played: list[str] = []

    async def agent(ctx: Context, message: str) -> Any:
        played.append(message)

    async def body() -> None:
        storage = FaultyStorage()
        async with bench(agent, storage=storage, settings=replace(QUICK, grace_s=60)) as b:

            async def read_for_ever(*_args: Any, **_options: Any) -> Any:
                await reading.pass_()

            storage.events.read = read_for_ever
            run = await b.send()
            await reading.arrival()
            await storage.runs.cancel("usr_ann", run, CancelRequest(by="user"))
            assert types_of(await b.ended(run)) == ["agent_started", "agent_cancelled"]
            await b.idle()
            assert (played, b.worker.abandoned) == ([], 0)

    play(body)


def test_drain_hands_a_run_over_at_its_next_step_and_the_next_worker_goes_on() -> None:
    gate = Gate()
    calls: list[int] = []

    async def step(n: int) -> int:
        calls.append(n)
        if n == 1:
            await gate.pass_()
        return n

    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        for n in range(4):
            await ctx.tool(step, n=n)
            yield f"{n} "

    async def body() -> None:
        storage = MemoryStorage()
        async with bench(agent, storage=storage) as b:
            run = await b.send()
            await gate.arrival()
            async with asyncio.TaskGroup() as tasks:
                draining = tasks.create_task(b.worker.drain())
                await asyncio.sleep(0)
                assert not draining.done()
                gate.open()
            assert b.worker.active == 0
            assert types_of(await b.events(run))[-1] == "tool_completed"
        # The same process, another worker: the run was given back, so it needs nobody's death to be claimed.
        async with bench(agent, storage=storage) as b:
            events = await b.ended(run)
        assert calls == [0, 1, 2, 3]
        assert decode_data(events[-1]).output == "0 1 2 3 "
        assert next(decode_data(each) for each in events if each.type == "agent_retrying").reason == "drained"

    play(body)


def test_what_was_said_is_committed_before_a_run_is_handed_over() -> None:
    gates = [Gate(), Gate()]
    calls: list[int] = []

    async def agent(ctx: Context, message: str) -> Any:
        async def step() -> None:
            calls.append(1)
            for gate in gates:
                await gate.pass_()
                await ctx.thinking("inside")

        await ctx.tool(step)
        return "done"

    async def body() -> None:
        storage = FaultyStorage()
        async with bench(agent, storage=storage) as b:
            run = await b.send()
            await gates[0].arrival()
            await b.until(partial(_has, b, run, "tool_executing"))
            storage.events.is_open.clear()
            storage.events.is_asked.clear()
            gates[0].open()
            await storage.events.is_asked.wait()  # a commit is under way, and does not come to its end
            gates[1].open()  # the tool ends; that it did waits behind that commit
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(b.worker.drain())
                await b.agent_turns(100)
                assert b.worker.active == 1
                storage.events.is_open.set()
        async with bench(agent, storage=storage) as b:
            await b.ended(run)
        assert calls == [1]

    play(body)


def test_drain_waits_for_a_claim_that_is_under_way_and_gives_its_runs_back_at_once() -> None:
    played: list[str] = []

    async def agent(ctx: Context, message: str) -> Any:
        played.append(message)
        return "done"

    async def body() -> None:
        storage = FaultyStorage()
        async with bench(agent, storage=storage) as b:
            await storage.runs.is_asked.wait()
            storage.runs.is_open.clear()
            storage.runs.is_asked.clear()
            run = await b.send()
            await storage.runs.is_asked.wait()  # it owns the run, and does not know it yet
            async with asyncio.TaskGroup() as tasks:
                draining = tasks.create_task(b.worker.drain())
                await b.agent_turns(100)
                assert not draining.done()
                storage.runs.is_open.set()
            assert (b.worker.active, played, await b.events(run)) == (0, [], [])
        async with bench(agent, storage=storage) as b:
            assert types_of(await b.ended(run))[0] == "agent_started"
            assert (await b.row(run)).attempt == 2

    play(body)


@pytest.mark.parametrize("losses", [1, 3])
def test_a_run_whose_claim_was_not_answered_is_claimed_again(losses: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runwire.runtime.worker._AFTER_ERROR_S", 0.01)
    left = losses

    async def agent(ctx: Context, message: str) -> Any:
        return message

    def lose(claims: list[Claim]) -> bool:
        nonlocal left
        left -= bool(claims)
        return bool(claims) and left >= 0

    async def body() -> None:
        storage = FaultyStorage()
        storage.runs.lose_claims = lose
        async with bench(agent, storage=storage) as b:
            run = await b.send("first")
            other = await b.send("second", user="usr_bob")
            assert decode_data((await b.ended(run))[-1]).output == "first"
            assert decode_data((await b.ended(other, user="usr_bob"))[-1]).output == "second"

    play(body)


def test_drain_lets_a_run_without_steps_finish_and_takes_no_new_one() -> None:
    gate = Gate()

    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        yield "a"
        await gate.pass_()
        yield "b"

    async def body() -> None:
        async with bench(agent) as b:
            run = await b.send()
            await gate.arrival()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(b.worker.drain())
                await asyncio.sleep(0)
                late = await b.send(user="usr_bob")
                gate.open()
            assert decode_data((await b.events(run))[-1]).output == "ab"
            assert (await b.row(late, user="usr_bob")).status == "queued"

    play(body)


def test_drain_gives_a_run_back_in_mid_message_when_its_time_is_over() -> None:
    gates = [Gate(), Gate()]

    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        yield "one "
        await gates.pop(0).pass_()
        yield "two"

    async def body() -> None:
        storage, gate = MemoryStorage(), gates[0]
        gates[1].open()
        async with bench(agent, storage=storage, settings=replace(QUICK, drain_s=0.05)) as b:
            run = await b.send()
            await gate.arrival()
            await b.worker.drain()
            assert types_of(await b.events(run))[-1] == "text_delta"
        async with bench(agent, storage=storage) as b:
            events = await b.ended(run)
        assert decode_data(events[-1]).output == "one two"
        assert types_of(events).count("message_started") == 1

    play(body)


def test_the_golden_path_and_a_takeover_on_sqlite(tmp_path: Path) -> None:
    gates = [Gate(), Gate()]
    calls: list[str] = []

    async def search(query: str) -> str:
        calls.append(query)
        return query * 2

    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        await ctx.thinking("hm")
        found = await ctx.tool(search, query=message)
        yield "found "
        await gates.pop(0).pass_()
        yield found

    async def body() -> None:
        url, gate = f"sqlite://{tmp_path}/runwire.db", gates[0]
        gates[1].open()
        storage = await open_storage(url)
        async with bench(agent, storage=storage) as b:
            run = await b.send("ab")
            await gate.arrival()
            await b.until(lambda: _has(b, run, "text_delta"))
        await storage.close()
        storage = await open_storage(url)
        async with bench(agent, storage=storage) as b:
            events = await b.ended(run)
            assert types_of(events) == [
                "agent_started",
                "agent_thinking",
                "tool_executing",
                "tool_completed",
                "message_started",
                "text_delta",
                "agent_retrying",
                "text_delta",
                "message_completed",
                "agent_completed",
            ]
            assert decode_data(events[-1]).output == "found abab"
            assert calls == ["ab"]
        await storage.close()

    play(body)


async def _has(b: Bench, run: str, event_type: str) -> bool:
    return any(event.type == event_type for event in await b.events(run))
