"""A list of databases is what it was when it was first used: number, order and set, or nothing starts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.contract.adapters import send
from tests.postgres import PASSWORD, PostgresServer

from runwire.errors import ConfigurationError, Unavailable
from runwire.storage.base import Storage
from runwire.storage.open import migrate_storage, open_placed, open_storage
from runwire.storage.placed import Placed, place_of


@asynccontextmanager
async def opened(*urls: str) -> AsyncIterator[Placed[Storage]]:
    storages = await open_placed(urls, shown=[url.rpartition("/")[2] for url in urls])
    try:
        yield storages
    finally:
        for storage in storages:
            await storage.close()


async def refused(*urls: str) -> str:
    """Return why these are refused; no password is in it."""
    with pytest.raises(ConfigurationError) as error:
        async with opened(*urls):
            pass
    told = "\n".join(error.value.faults)
    assert PASSWORD not in told
    return told


async def databases(server: PostgresServer, count: int) -> list[str]:
    # Not lent: what is written into them is for good.
    return [await server.create_database() for _ in range(count)]


def test_a_person_is_placed_by_arithmetic_that_never_changes() -> None:
    assert [place_of(f"usr_{n}", places=3) for n in range(12)] == [0, 1, 1, 2, 0, 1, 0, 0, 0, 1, 2, 1]
    assert place_of("usr_ada", places=1) == 0
    crowd = [f"usr_{n}" for n in range(3_000)]
    spread = Counter(place_of(user, places=4) for user in crowd)
    assert min(spread.values()) > 650, spread
    # One more database takes its share from all others, and nobody else moves.
    moved = [user for user in crowd if place_of(user, places=4) != place_of(user, places=5)]
    assert {place_of(user, places=5) for user in moved} == {4}


async def test_a_list_keeps_its_order_its_number_and_its_members(postgres_server: PostgresServer) -> None:
    first, second, third = await databases(postgres_server, 3)
    async with opened(first, second):
        pass
    async with opened(first, second) as storages:
        users = [next(f"usr_{n}" for n in range(9) if place_of(f"usr_{n}", places=2) == place) for place in (0, 1)]
        for user in users:
            await send(storages.of(user), user=user)
        found = [await storage.threads.list(user) for storage, user in zip(storages, users, strict=True)]
        assert [len(threads) for threads in found] == [1, 1]
    turned = await refused(second, first)
    assert "is the 2. of its set, not the 1.: keep the order" in turned
    assert second.rpartition("/")[2] in turned
    assert "made one of 2 databases, and database_url names 3" in await refused(first, second, third)
    assert "made one of 2 databases, and database_url names 1" in await refused(first)
    with pytest.raises(ConfigurationError, match="one of 2 databases"):
        await open_storage(second)
    async with opened(first, second):
        pass


async def test_a_database_of_another_set_or_with_people_of_its_own_is_not_taken_in(
    postgres_server: PostgresServer,
) -> None:
    first, second, other, third, alone = await databases(postgres_server, 5)
    async with opened(first, second), opened(other, third):
        pass
    assert "another set" in await refused(first, third)
    used = await open_storage(alone)
    await send(used, user="usr_ada")
    await used.close()
    assert "was used alone" in await refused(alone, second)
    again = await open_storage(alone)  # as before
    assert len(await again.threads.list("usr_ada")) == 1
    await again.close()


async def test_of_processes_that_start_at_once_all_find_one_set(postgres_server: PostgresServer) -> None:
    urls = await databases(postgres_server, 2)

    async def start() -> None:
        async with opened(*urls):
            pass

    async with asyncio.TaskGroup() as tasks:
        for _ in range(6):
            tasks.create_task(start())
    async with opened(*urls):
        pass


async def test_a_database_that_is_away_at_the_start_is_looked_at_when_it_answers(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    first = await postgres_server.create_database()
    server = await asyncio.to_thread(PostgresServer.start, tmp_path)
    try:
        second, foreign = await databases(server, 2)
        async with opened(await postgres_server.create_database(), foreign):
            pass
        await asyncio.to_thread(server.stop)
        async with opened(first, second) as storages, opened(await postgres_server.create_database(), foreign) as odd:
            away, mistaken = tuple(storages)[1], tuple(odd)[1]
            assert away.log == ""
            with pytest.raises(Unavailable):
                await away.ping()
            await storages.first.ping()
            await asyncio.to_thread(server.restart)
            await away.ping()
            assert away.log != ""
            with pytest.raises(Unavailable, match="not the one it should be"):
                await mistaken.ping()
        await asyncio.to_thread(server.stop)
        with pytest.raises(Unavailable):  # accounts are in the first one
            await open_placed([second, first], shown=["second", "first"])
    finally:
        server.remove()


async def test_an_empty_list_of_tables_is_named_for_each_database(postgres_server: PostgresServer) -> None:
    first, second = [await postgres_server.create_database(is_empty=True) for _ in range(2)]
    assert (await refused(first, second)).count("is empty") == 1  # nothing is known of the others without the first
    await migrate_storage(first)
    told = await refused(first, second)
    assert "is empty: run `runwire migrate`" in told
    assert second.rpartition("/")[2] in told
