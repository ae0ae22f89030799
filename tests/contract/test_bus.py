"""The promises of `Bus` to listeners of one process, on every adapter."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from tests.postgres import PostgresServer

from runwire.storage.base import Bus, BusMessage, Wake
from runwire.storage.bus_local import MAX_UNHEARD, LocalBus
from runwire.storage.bus_postgres import PostgresBus
from runwire.storage.postgres.database import PostgresDatabase

Opened = Callable[[], AbstractAsyncContextManager[Bus]]


@pytest.fixture(params=["local", "postgres"])
def opened(request: pytest.FixtureRequest) -> Opened:
    server = request.getfixturevalue("postgres_server") if request.param == "postgres" else None
    return lambda: running(server)


@asynccontextmanager
async def running(server: PostgresServer | None) -> AsyncIterator[Bus]:
    """Give a bus of this process alone, or one that has joined a database."""
    if server is None:
        yield LocalBus()
        return
    url = await server.create_database()
    database = await PostgresDatabase.open(url, limit_s=10)
    bus = PostgresBus(database)
    joined = asyncio.Event()
    stop = bus.listen(lambda _: joined.set())
    async with asyncio.TaskGroup() as tasks:
        carrying = tasks.create_task(bus.run())
        await joined.wait()  # who joins is told to look, whatever there is
        await turn()
        stop()
        yield bus
        carrying.cancel()
    await database.close()
    await server.drop_database(url)


async def test_beacon_comes_back_to_its_node(opened: Opened) -> None:
    async with opened() as bus:
        heard: asyncio.Queue[BusMessage] = asyncio.Queue()
        bus.listen(heard.put_nowait)
        beacon = Wake(topic="beacon", node="node_1")
        bus.publish(beacon)
        async with asyncio.timeout(5):
            assert await heard.get() == beacon


def wake(number: int) -> Wake:
    return Wake(topic="deleted", thread=f"th_{number}")


async def turn() -> None:
    """Let the loop run what is scheduled."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_every_listener_hears_in_order(opened: Opened) -> None:
    async with opened() as bus:
        heard: list[list[BusMessage]] = [[], []]
        for one in heard:
            bus.listen(one.append)
        for number in range(3):
            bus.publish(wake(number))
        assert heard == [[], []]  # never inside `publish`
        await turn()
        assert heard == [[wake(0), wake(1), wake(2)]] * 2


async def test_publishing_from_a_thread_reaches_the_listeners_loop(opened: Opened) -> None:
    async with opened() as bus:
        arrived = asyncio.Event()
        threads: list[int] = []

        def hear(_: BusMessage) -> None:
            threads.append(threading.get_ident())
            arrived.set()

        bus.listen(hear)
        await asyncio.to_thread(bus.publish, wake(1))
        async with asyncio.timeout(5):
            await arrived.wait()
        assert threads == [threading.get_ident()]


async def test_full_listener_loses_messages_and_nobody_waits(opened: Opened) -> None:
    async with opened() as bus:
        heard: list[BusMessage] = []
        bus.listen(heard.append)
        for number in range(MAX_UNHEARD + 10):
            bus.publish(wake(number))
        await turn()
        assert heard == [wake(number) for number in range(MAX_UNHEARD)]
        bus.publish(wake(-1))
        await turn()
        assert heard[-1] == wake(-1)


async def test_stopped_listener_hears_nothing_more(opened: Opened) -> None:
    async with opened() as bus:
        heard: list[BusMessage] = []
        stop = bus.listen(heard.append)
        bus.publish(wake(1))
        stop()
        stop()
        bus.publish(wake(2))
        await turn()
        assert heard == []


async def test_closed_bus_drops(opened: Opened) -> None:
    async with opened() as bus:
        heard: list[BusMessage] = []
        bus.listen(heard.append)
        await bus.close()
        await bus.close()
        bus.publish(wake(1))
        await turn()
        assert heard == []


async def test_listener_of_a_closed_loop_is_forgotten(opened: Opened) -> None:
    async with opened() as bus:
        heard: list[BusMessage] = []

        async def listen() -> None:
            bus.listen(heard.append)

        await asyncio.to_thread(asyncio.run, listen())
        bus.publish(wake(1))
        assert heard == []
