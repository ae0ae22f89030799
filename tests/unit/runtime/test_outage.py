"""Workers on one PostgreSQL: its outages, a worker that is gone, and one that wakes up too late."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.postgres import PostgresServer
from tests.unit.runtime import zombie
from tests.unit.runtime.bench import QUICK, Bench, Gate, bench, types_of
from tests.unit.runtime.hooks import HookedStorage

from runwire.agents.context import Context
from runwire.errors import Unavailable
from runwire.protocol.events import StoredEvent, decode_data
from runwire.storage.base import Claim, IncomingMessage
from runwire.storage.open import open_storage
from runwire.storage.postgres.storage import PostgresStorage

LEASE_S = 2.0
SETTINGS = replace(QUICK, poll_s=0.3)
PATIENCE_S = 60.0  # a busy machine may take its time; what is promised is asserted


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Start a PostgreSQL that a test may stop: the others would stand still with it."""
    server = PostgresServer.start(tmp_path_factory.mktemp("postgres"))
    yield server
    server.remove()


@asynccontextmanager
async def working(url: str, agent: Any, *, name: str) -> AsyncIterator[Bench]:
    """Have a worker at work on a database; it is gone at the end, as by kill -9."""
    storage = await open_storage(url, lease_s=LEASE_S)
    try:
        async with bench(agent, storage=HookedStorage(storage), settings=SETTINGS, name=name) as b:
            yield b
    finally:
        await storage.close()


def hold_renewals(slow: Bench, quick: Bench) -> None:
    """Let a worker renew only when another one has claimed twice."""
    claims = 0
    storages: list[Any] = [slow.storage, quick.storage]

    async def claim(real: Callable[[], Awaitable[Any]], *_args: Any, **_options: Any) -> Any:
        nonlocal claims
        claimed = await real()
        claims += 1
        return claimed

    async def renew(real: Callable[[], Awaitable[None]], *_args: Any, **_options: Any) -> None:
        if claims < 2:
            raise Unavailable("the test says so")
        await real()

    storages[0].runs.around["renew"], storages[1].runs.around["claim"] = renew, claim


async def ended(b: Bench, run: str) -> list[StoredEvent]:
    """Wait for a run's end by looking: the bus of another worker does not tell us."""
    async with asyncio.timeout(PATIENCE_S):
        while (await b.row(run)).ended_at is None:  # noqa: ASYNC110 - the database tells nobody
            await asyncio.sleep(0.05)
    return await b.events(run)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("outage", ["paused", "killed"])
async def test_an_outage_longer_than_every_lease_costs_no_run_its_worker(
    own_server: PostgresServer, outage: Literal["paused", "killed"]
) -> None:
    gate = Gate()

    async def step() -> str:
        return "done"

    async def agent(ctx: Context, message: str) -> Any:
        await gate.pass_()
        return await ctx.tool(step)

    url = await own_server.create_database()
    async with working(url, agent, name="one") as one, working(url, agent, name="two") as two:
        runs = [await one.send(), await one.send()]
        await gate.arrival(2)
        runs += [await two.send(), await two.send()]
        await gate.arrival(4)
        await asyncio.sleep(LEASE_S + 0.5)  # both have been connected for a whole lease: they may take over
        if outage == "paused":
            own_server.pause()
        else:
            own_server.kill()
        gate.open()
        await asyncio.sleep(LEASE_S + 0.5)
        hold_renewals(one, two)
        if outage == "paused":
            own_server.resume()
        else:
            await asyncio.to_thread(own_server.restart)
        for run in runs:
            events = await ended(one, run)
            assert types_of(events)[:3] == ["agent_started", "tool_executing", "tool_completed"]
            assert {event.attempt for event in events} == {1}
        assert gate.arrivals == 4


@pytest.mark.timeout(120)
async def test_a_claim_that_lay_in_the_network_until_an_outage_ended_takes_nothing_over(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker is gone, so there is something to take over; when the claim is executed, all leases have run out."""
    url = await own_server.create_database()
    holder = await PostgresStorage.open(url, lease_s=LEASE_S)
    other = await PostgresStorage.open(url, lease_s=LEASE_S)

    def claim(storage: PostgresStorage, worker: str) -> Awaitable[list[Claim]]:
        return storage.runs.claim(worker, agents=["agent"], limit=1, user_limit=1)

    for user in ("usr_ann", "usr_bob"):
        await holder.runs.send(IncomingMessage(user=user, thread=None, agent="agent", content="hello"))
    await claim(holder, "gone")
    (held,) = await claim(holder, "holder")
    assert await claim(other, "other") == []
    await asyncio.sleep(LEASE_S)
    await holder.runs.renew("holder", {held.run: held.attempt})
    looked = other.runs._as_of

    async def look_and_pause(worker: str) -> tuple[int, int]:
        seen = await looked(worker)
        own_server.pause()
        return seen

    with monkeypatch.context() as patch:
        patch.setattr(other.runs, "_as_of", look_and_pause)
        with pytest.raises(Unavailable):
            await claim(other, "other")
    await asyncio.sleep(LEASE_S)
    own_server.resume()
    await asyncio.sleep(0.5)  # in which the server does what it finds in its sockets
    await holder.runs.renew("holder", {held.run: held.attempt})
    assert await holder.runs.signals("holder", {held.run: held.attempt}) == []
    assert [each.user for each in await claim(other, "other")] == ["usr_ann"]
    await holder.close()
    await other.close()


@pytest.mark.timeout(120)
async def test_what_a_worker_held_that_is_gone_goes_on_elsewhere_within_a_lease_and_a_margin(
    postgres_server: PostgresServer,
) -> None:
    gate = Gate()
    done: list[str] = []

    async def first() -> None:
        done.append("first")

    async def second() -> None:
        done.append("second")

    async def agent(ctx: Context, message: str) -> Any:
        await ctx.tool(first)
        await gate.pass_()
        await ctx.tool(second)
        return "done"

    url = await postgres_server.lend()
    async with working(url, agent, name="two") as two:
        async with working(url, agent, name="one") as one:
            two.worker._settings = replace(SETTINGS, max_runs=0)  # so that the other one takes it
            run = await one.send()
            await gate.arrival()
            await asyncio.sleep(LEASE_S)
            two.worker._settings = SETTINGS
        gone_s = time.monotonic()
        await gate.arrival(2)
        taken_s = time.monotonic() - gone_s
        gate.open()
        events = await ended(two, run)
    assert done == ["first", "second"]
    assert types_of(events).count("tool_completed") == 2
    assert [decode_data(event).reason for event in events if event.type == "agent_retrying"] == ["worker_lost"]
    assert taken_s <= LEASE_S + 2
    await postgres_server.take_back(url)


@pytest.mark.timeout(120)
async def test_a_worker_that_wakes_up_after_its_lease_stops_its_code_and_nothing_of_it_lands(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    url = await postgres_server.lend()
    process = await asyncio.create_subprocess_exec(
        sys.executable, zombie.__file__, url, str(LEASE_S), str(trace), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        said = process.stdout
        storage = await open_storage(url, lease_s=LEASE_S)
        sender = Bench(storage, None, None)  # type: ignore[arg-type] # it only sends and looks
        sender.is_bus_lossy = True
        run = await sender.send()
        async with asyncio.timeout(PATIENCE_S):
            await said.readuntil(b"third step\n")
        process.send_signal(signal.SIGSTOP)
        async with working(url, zombie.Ticking(trace, "heir"), name="heir") as heir:
            events = await ended(heir, run)
            heir_began = next(at for at, event in enumerate(events) if event.attempt == 2)
            steps = trace.read_text(encoding="utf-8").splitlines()
            process.send_signal(signal.SIGCONT)
            async with asyncio.timeout(PATIENCE_S):
                await said.readuntil(b"stopped\n")
            assert {event.attempt for event in events[heir_began:]} == {2}
            assert await heir.events(run) == events
            assert trace.read_text(encoding="utf-8").splitlines() == steps
        await storage.close()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
    await postgres_server.take_back(url)
