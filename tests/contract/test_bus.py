"""The promises of `Bus` to listeners of one process, on every adapter."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from tests.postgres import PostgresServer
from tests.redis_server import RedisServer

from runwire.storage.base import Bus, BusMessage, Committed, Wake
from runwire.storage.bus_local import LOOK_AGAIN, MAX_UNHEARD, LocalBus
from runwire.storage.bus_postgres import PostgresBus
from runwire.storage.bus_redis import RedisBus
from runwire.storage.memory.storage import MemoryStorage
from runwire.storage.postgres.database import PostgresDatabase

Opened = Callable[[], AbstractAsyncContextManager[Bus]]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer.start(tmp_path_factory.mktemp("redis"))
    yield server
    server.remove()


@pytest.fixture(params=["local", "postgres", "redis"])
def opened(request: pytest.FixtureRequest) -> Opened:
    if request.param == "local":
        return alone
    server = request.getfixturevalue(f"{request.param}_server")
    return lambda: on_postgres(server) if request.param == "postgres" else on_redis(server)


@asynccontextmanager
async def alone() -> AsyncIterator[Bus]:
    """Give a bus of this process alone."""
    yield LocalBus()


@asynccontextmanager
async def on_postgres(server: PostgresServer) -> AsyncIterator[Bus]:
    url = await server.create_database()
    database = await PostgresDatabase.open(url, limit_s=10)
    async with joined(PostgresBus(database)) as bus:
        yield bus
    await database.close()
    await server.drop_database(url)


@asynccontextmanager
async def on_redis(server: RedisServer) -> AsyncIterator[Bus]:
    async with joined(RedisBus(MemoryStorage(), server.url)) as bus:
        yield bus


@asynccontextmanager
async def joined(bus: Bus) -> AsyncIterator[Bus]:
    """Run a bus that has joined the others: who joins is told to look, whatever there is."""
    heard: asyncio.Queue[BusMessage] = asyncio.Queue()
    stop = bus.listen(heard.put_nowait)
    async with asyncio.TaskGroup() as tasks:
        carrying = tasks.create_task(bus.run())
        for _ in LOOK_AGAIN:
            await heard.get()
        stop()
        yield bus
        carrying.cancel()


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


async def test_who_follows_hears_commits_of_its_own_process_whole(opened: Opened) -> None:
    async with opened() as bus:
        heard: list[BusMessage] = []
        bus.listen(heard.append)
        stops = [bus.follow("usr_1"), bus.follow("usr_1")]
        names = {"log": "log_1", "user": "usr_1", "thread": "th_1", "run": "run_1"}
        commits = [
            Committed(**names, attempt=1, first_seq=seq, last_seq=seq, packed=b"x" * 1_000_000) for seq in (1, 2)
        ]
        bus.publish(commits[0])
        for stop in (*stops, *stops):
            stop()
        bus.publish(commits[1])  # followed or not
        await turn()
        assert [message for message in heard if isinstance(message, Committed)] == commits


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
