"""No statement relates rows of two users: nobody can tell whether others are in the same database.

A random history of several people happens twice: in one database, and with each of them alone in one. All that a port
answers is compared, from the outcome of a batch to the figures. What is cut at the user there (an append, a claim, the
renewal of leases, the news of waits, timers, upkeep, the reads of a tail) is one call for all here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.places.history import USERS, History
from tests.places.mutants import MUTANTS
from tests.places.worlds import Differs, World, Worlds
from tests.postgres import PostgresServer

from runwire.storage.postgres.storage import PostgresStorage


@pytest.fixture
async def storages(postgres_server: PostgresServer) -> AsyncIterator[list[PostgresStorage]]:
    urls = [await postgres_server.lend() for _ in range(len(USERS) + 1)]
    opened = [await PostgresStorage.open(url, lease_s=300, limit_s=10) for url in urls]
    yield opened
    for storage, url in zip(opened, urls, strict=True):
        await storage.close()
        await postgres_server.take_back(url)


def of(storages: list[PostgresStorage]) -> Worlds:
    *apart, together = storages
    return Worlds(World(dict.fromkeys(USERS, together)), World(dict(zip(USERS, apart, strict=True))))


@pytest.mark.parametrize("seed", [1, 2])
async def test_people_see_the_same_whether_others_are_in_their_database_or_not(
    storages: list[PostgresStorage], seed: int
) -> None:
    await History(seed, of(storages)).go(400)


@pytest.mark.parametrize("defect", MUTANTS)
async def test_a_statement_that_relates_two_people_is_seen(
    storages: list[PostgresStorage], monkeypatch: pytest.MonkeyPatch, defect: str
) -> None:
    async with MUTANTS[defect].at_work(storages, monkeypatch):
        with pytest.raises(Differs):
            await History(1, of(storages)).go(400)
