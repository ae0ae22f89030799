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
from tests.places.statements import (
    SHARED,
    UNREACHED,
    UNREACHED_STATEMENTS,
    all_statements,
    reached,
    recorded,
    tables_of,
)
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


@pytest.mark.timeout(60)  # thousands of statements: 3 s on a quiet machine
async def test_people_see_the_same_whether_others_are_in_their_database_or_not(
    storages: list[PostgresStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    with recorded(monkeypatch) as texts:
        await History(1, of(storages)).go(400)
    # And nothing was left out: a new statement is reached by the history, or has an argument of its own.
    missed = {(file, name) for file, name in all_statements().keys() - reached(texts) if file not in UNREACHED}
    assert {name for _file, name in missed} == set(UNREACHED_STATEMENTS)


def test_what_people_share_is_named() -> None:
    assert SHARED.keys() <= {name for _file, name in all_statements()}


def test_identity_and_what_people_do_are_never_in_one_statement() -> None:
    """So that accounts can be in the first database, and what is theirs in another."""
    for (file, name), text in all_statements().items():
        if file != "postgres_transfer.sql":  # it copies both, each by statements of its own
            kinds = {table.startswith("auth_") for table in tables_of(text) - {"meta"}}
            assert len(kinds) < 2, (file, name, tables_of(text))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("defect", MUTANTS)
async def test_a_statement_that_relates_two_people_is_seen(
    storages: list[PostgresStorage], monkeypatch: pytest.MonkeyPatch, defect: str
) -> None:
    async with MUTANTS[defect].at_work(storages, monkeypatch):
        with pytest.raises(Differs):
            await History(1, of(storages)).go(400)
