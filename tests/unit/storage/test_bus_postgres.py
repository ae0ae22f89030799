"""The bus between processes of one PostgreSQL database: what arrives, and what an outage costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from tests.postgres import PostgresServer

from runwire.storage.base import BusMessage, Committed, Wake
from runwire.storage.bus_postgres import MAX_PAYLOAD, MAX_UNSENT, PostgresBus
from runwire.storage.postgres.database import PostgresDatabase

LOOK = Wake(topic="moved")
RUNS = Wake(topic="runs")
BEACON = Wake(topic="beacon", node="node_1")


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Start a server that a test may kill."""
    server = PostgresServer.start(tmp_path_factory.mktemp("bus"))
    yield server
    server.remove()


class Process:
    """What a process has of the bus, and what a listener in it heard."""

    def __init__(self, database: PostgresDatabase) -> None:
        self.database = database
        self.bus = PostgresBus(database)
        self.heard: list[BusMessage] = []
        self.bus.listen(self._hear)
        self._changed = asyncio.Event()

    def _hear(self, message: BusMessage) -> None:
        self.heard.append(message)
        self._changed.set()

    async def hears(self, *messages: BusMessage, within_s: float = 15) -> list[BusMessage]:
        """Wait until all of these were heard since it was last asked; return all that was."""
        async with asyncio.timeout(within_s):
            while not all(message in self.heard for message in messages):
                self._changed.clear()
                await self._changed.wait()
        heard = list(self.heard)
        self.heard.clear()
        return heard


@asynccontextmanager
async def processes(server: PostgresServer, count: int = 2) -> AsyncIterator[list[Process]]:
    """Give processes of one database that have joined."""
    url = await server.create_database()
    made = [Process(await PostgresDatabase.open(url)) for _ in range(count)]
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(process.bus.run()) for process in made]
        for process in made:
            await process.hears(LOOK)
        yield made
        for task in running:
            task.cancel()
    for process in made:
        await process.database.close()


def committed(log: str, *, thread: str = "th_1", seq: int = 1, size: int = 100) -> Committed:
    names = {"user": "usr_1", "thread": thread, "run": "run_1"}
    return Committed(log=log, **names, attempt=1, first_seq=seq, last_seq=seq, packed=b"\x00\xff" * (size // 2))


async def test_commits_reach_the_other_process_whole_and_in_order(postgres_server: PostgresServer) -> None:
    async with processes(postgres_server) as (one, other):
        said = [committed(one.database.log, seq=seq) for seq in range(1, 301)]
        for message in said:
            one.bus.publish(message)
        assert await other.hears(*said) == said
        assert await one.hears(*said) == said  # heard at once, and not again when they come back
        # The promise is a second; alone on a machine it takes some ms.
        one.bus.publish(committed(one.database.log, seq=301))
        await other.hears(committed(one.database.log, seq=301), within_s=1)


@pytest.mark.parametrize("over", [-1, 1])
async def test_commit_that_does_not_fit_comes_as_a_hint(postgres_server: PostgresServer, over: int) -> None:
    async with processes(postgres_server) as (one, other):
        message = committed(one.database.log, seq=7)
        envelope = len(msgspec.json.encode(one.bus._empty())) + len(msgspec.json.encode(message))
        size = 100 + (MAX_PAYLOAD - envelope) * 3 // 4 + over * 8
        one.bus.publish(message := committed(one.database.log, seq=7, size=size))
        one.bus.publish(RUNS)
        hint = Wake(topic="moved", thread="th_1", seq=7)
        await other.hears(hint if over > 0 else message, RUNS)
        await one.hears(message, RUNS)  # in its own process every commit is whole


async def test_equal_hints_are_said_once_and_beacons_only_to_their_node(postgres_server: PostgresServer) -> None:
    async with processes(postgres_server) as (one, other):
        for _ in range(50):
            one.bus.publish(RUNS)
            one.bus.publish(BEACON)
        one.bus.publish(Wake(topic="auth"))
        heard = await other.hears(Wake(topic="auth"))
        assert set(heard) == {RUNS, Wake(topic="auth")}
        assert len(heard) < 10
        await one.hears(BEACON)


async def test_what_another_history_or_nobody_says_leads_to_a_look(postgres_server: PostgresServer) -> None:
    async with processes(postgres_server) as (one, other):
        one.database._log = "another"  # its connections lead to a promoted standby
        one.bus.publish(committed("another"))
        await other.hears(LOOK)
        assert other.heard == []
        await other.database.execute("SELECT pg_notify('runwire', 'no envelope')")
        await other.hears(LOOK)


async def test_killed_server_costs_hints_and_nothing_else(own_server: PostgresServer) -> None:
    async with processes(own_server) as (one, other):
        own_server.kill()
        await asyncio.sleep(0)
        one.bus.publish(BEACON)
        for _ in range(3):
            one.bus.publish(RUNS)
        heard = await one.hears(RUNS)  # in its own process it works on
        assert BEACON not in heard  # and does not say that it works for others
        await asyncio.to_thread(own_server.restart)
        await one.hears(LOOK)
        await other.hears(LOOK)
        message = committed(one.database.log)
        async with asyncio.timeout(10):
            while message not in other.heard:
                one.bus.publish(message)
                await asyncio.sleep(0.05)


async def test_connection_that_was_cut_while_it_spoke_is_made_good(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: dict[PostgresDatabase, Any] = {}
    alone = PostgresDatabase.alone

    @asynccontextmanager
    async def noted(database: PostgresDatabase, **options: Any) -> AsyncIterator[Any]:
        async with alone(database, **options) as connection:
            opened[database] = connection
            yield connection

    monkeypatch.setattr(PostgresDatabase, "alone", noted)
    async with processes(postgres_server) as (one, other):
        one.bus.publish(committed(one.database.log))
        opened[one.database].terminate()  # before it was said: the statement fails
        await other.hears(LOOK)


async def test_stopped_server_holds_up_no_publisher(own_server: PostgresServer) -> None:
    async with processes(own_server) as (one, other):
        own_server.pause()
        try:
            one.bus.publish(RUNS)
            await asyncio.sleep(0.05)  # so that a statement waits for the server
            clock = asyncio.get_running_loop().time
            began_s = clock()
            for seq in range(2 * MAX_UNSENT):
                one.bus.publish(committed(one.database.log, seq=seq))
            assert clock() - began_s < 1
            assert len(one.bus._unsent) <= MAX_UNSENT
        finally:
            own_server.resume()
        await other.hears(LOOK)  # something was dropped: so others are told


async def test_who_only_listens_learns_that_nothing_comes_any_more(own_server: PostgresServer) -> None:
    async with processes(own_server, 1) as (one,):
        own_server.pause()
        try:
            async with asyncio.timeout(15):
                while one.bus._is_connected:  # noqa: ASYNC110 - nothing is said, so nobody is told
                    await asyncio.sleep(0.05)
        finally:
            own_server.resume()
        await one.hears(LOOK, RUNS)  # what was said meanwhile is looked for


async def test_closed_bus_ends_its_work(postgres_server: PostgresServer) -> None:
    async with processes(postgres_server, 1) as (one,):
        one.bus.publish(RUNS)
        await one.hears(RUNS)
        await one.bus.close()
        one.bus.publish(RUNS)
        await asyncio.sleep(0)
        assert one.heard == []


async def test_last_words_of_a_process_that_stops_are_heard(postgres_server: PostgresServer) -> None:
    async with processes(postgres_server) as (one, other):
        one.bus.publish(RUNS)
        await one.bus.close()  # in the same turn of the loop
        await other.hears(RUNS)
