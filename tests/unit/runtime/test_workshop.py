"""Workers of several databases in one process: one loop of the user's code, and room that nobody takes from another."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.runtime.bench import PATIENCE_S, QUICK, Gate, play
from tests.unit.runtime.faults import FaultyStorage

from runwire.agents.load import Agents
from runwire.resilience.memory import resident_bytes
from runwire.runtime.worker import Worker, WorkerSettings
from runwire.runtime.workshop import Crew, Workshop
from runwire.storage.base import IncomingMessage, Storage, Wake
from runwire.storage.bus_local import LocalBus
from runwire.storage.memory.storage import MemoryStorage


@asynccontextmanager
async def two_at_work(agent: Any, first: Storage, second: Storage, settings: WorkerSettings) -> AsyncIterator[LocalBus]:
    """Run a worker for each of two databases, in one workshop; their bus is one, which matters to nobody."""
    bus, workshop = LocalBus(), Workshop(settings)
    async with asyncio.TaskGroup() as tasks:
        working = []
        for storage in (first, second):
            worker = Worker(storage, bus, Agents.of({"agent": agent}), "wk_test", settings, workshop=workshop)
            working.append(tasks.create_task(worker.run()))
        try:
            yield bus
        finally:
            for task in working:
                task.cancel()
    await bus.close()


async def send(storage: Storage, bus: LocalBus, *, user: str) -> str:
    sent = await storage.runs.send(IncomingMessage(user=user, thread=None, agent="agent", content="hello"))
    bus.publish(Wake(topic="runs"))
    return sent.run


async def ended(storage: Storage, run: str, *, user: str) -> str:
    async with asyncio.timeout(PATIENCE_S):
        while (row := await storage.runs.get(user, run)).ended_at is None:  # noqa: ASYNC110 - polled, as by a client
            await asyncio.sleep(0.01)
    return row.status


def test_a_database_with_a_long_queue_leaves_room_for_the_runs_of_another() -> None:
    async def body() -> None:
        gate, first, second = Gate(), MemoryStorage(), MemoryStorage()

        async def agent(ctx: Any, message: Any) -> str:
            if ctx.user.id == "usr_greedy":
                await gate.pass_()
            return "done"

        settings = replace(QUICK, max_runs=8, user_limit=100)
        async with two_at_work(agent, first, second, settings) as bus:
            greedy = [await send(first, bus, user="usr_greedy") for _ in range(20)]
            await gate.arrival(6)  # all but the half of the other's share
            for _ in range(3):
                assert await ended(second, await send(second, bus, user="usr_bob"), user="usr_bob") == "completed"
            assert gate.arrivals == 6
            gate.open()
            assert {await ended(first, run, user="usr_greedy") for run in greedy} == {"completed"}

    play(body)


def test_a_database_that_hangs_stops_nobody_else() -> None:
    async def body() -> None:
        dead, alive = FaultyStorage(), MemoryStorage()

        async def agent(ctx: Any, message: Any) -> str:
            return "done"

        async with two_at_work(agent, dead, alive, replace(QUICK, max_runs=4)) as bus:
            dead.runs.is_open.clear()
            waiting = await send(dead, bus, user="usr_ann")
            await asyncio.wait_for(dead.runs.is_asked.wait(), PATIENCE_S)  # noqa: TID251 - one event, in a test
            for _ in range(5):
                assert await ended(alive, await send(alive, bus, user="usr_bob"), user="usr_bob") == "completed"
            dead.runs.is_open.set()
            assert await ended(dead, waiting, user="usr_ann") == "completed"

    play(body)


def test_code_of_all_databases_runs_on_one_loop_so_that_what_it_opened_once_serves_all() -> None:
    async def body() -> None:
        loops: set[asyncio.AbstractEventLoop] = set()

        async def agent(ctx: Any, message: Any) -> str:
            loops.add(asyncio.get_running_loop())
            return "done"

        first, second = MemoryStorage(), MemoryStorage()
        async with two_at_work(agent, first, second, QUICK) as bus:
            for storage in (first, second):
                await ended(storage, await send(storage, bus, user="usr_ann"), user="usr_ann")
        assert len(loops) == 1

    play(body)


def test_code_that_blocks_the_loop_is_found_whichever_database_its_run_is_of() -> None:
    async def body() -> None:
        wall, gate, first, second = Gate(), Gate(), MemoryStorage(), MemoryStorage()

        async def agent(ctx: Any, message: Any) -> str:
            if ctx.user.id == "usr_bad":
                wall.block()
            await gate.pass_()
            return "done"

        settings = replace(QUICK, blocked_warn_s=0.05, blocked_fail_s=0.3)
        async with two_at_work(agent, first, second, settings) as bus:
            beside = await send(first, bus, user="usr_ann")
            await gate.arrival()
            blocked = await send(second, bus, user="usr_bad")
            assert await ended(second, blocked, user="usr_bad") == "failed"
            gate.open()
            assert await ended(first, beside, user="usr_ann") == "completed"  # on the new loop
            wall.open()

    play(body)


@pytest.mark.parametrize("seed", range(3))
def test_all_together_never_have_more_than_the_limit_and_each_can_always_have_its_half_share(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(200):
        workers, limit = dice.randint(2, 6), dice.randint(6, 40)
        workshop = Workshop(QUICK)
        crews = [workshop.join(lambda: None) for _ in range(workers)]
        for _ in range(60):
            crew = dice.choice(crews)
            if dice.random() < 0.6:
                room = workshop.room(crew, limit=limit)
                crew.asked += dice.randint(0, max(room, 0))
            else:
                crew.asked -= dice.randint(0, crew.asked)
            assert sum(each.used for each in crews) <= limit
            for each in crews:
                assert workshop.room(each, limit=limit) >= min(max(limit // (2 * workers), 1) - each.used, 1)


def test_who_found_no_room_hears_of_a_run_that_has_gone_and_nobody_else_does() -> None:
    workshop, woken = Workshop(QUICK), []
    full, idle = workshop.join(lambda: woken.append("full")), workshop.join(lambda: woken.append("idle"))
    full.asked = 3
    assert (workshop.room(full, limit=4), workshop.room(idle, limit=4)) == (0, 1)
    workshop.leave()
    assert woken == ["full"]
    assert isinstance(idle, Crew)


async def test_c14_a_worker_that_is_short_of_memory_begins_no_run_until_there_is_room() -> None:
    now_bytes = resident_bytes()
    assert now_bytes is not None
    limit_bytes = int(now_bytes * 1.2) + (64 << 20)

    async def agent(_ctx: Any, _message: Any) -> str:
        return "done"

    storage = MemoryStorage()
    async with two_at_work(agent, storage, MemoryStorage(), replace(QUICK, max_memory_bytes=limit_bytes)) as bus:
        held = bytearray(b"x" * (limit_bytes - now_bytes + (32 << 20)))
        run = await send(storage, bus, user="usr_ann")
        for _ in range(20):  # each is a look for runs
            bus.publish(Wake(topic="runs"))
            await asyncio.sleep(0.01)
        assert (await storage.runs.get("usr_ann", run)).status == "queued"
        held.clear()
        assert await ended(storage, run, user="usr_ann") == "completed"
