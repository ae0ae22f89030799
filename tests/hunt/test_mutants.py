"""The hunt can fail: functions broken in one place, and a client that keeps a transaction open, are seen by it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest
from tests.hunt.crowd import Stalled
from tests.hunt.hunt import Hunt
from tests.hunt.mutants import MUTANTS, Mutant
from tests.postgres import PostgresServer

from runwire.errors import ProtocolError

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Start a PostgreSQL whose deadlocks are nobody else's."""
    server = PostgresServer.start(tmp_path_factory.mktemp("postgres"))
    yield server
    server.remove()


@pytest.mark.parametrize(
    "mutant",
    [pytest.param(one, marks=[] if one.is_quick else [pytest.mark.campaign]) for one in MUTANTS],
    ids=lambda mutant: mutant.name.replace(" ", "_"),
)
async def test_the_hunt_sees_a_database_where(own_server: PostgresServer, mutant: Mutant) -> None:
    url = await own_server.create_database()
    connection = await asyncpg.connect(url)
    await connection.execute(mutant.applied)
    await connection.close()
    hunt = Hunt(own_server, seed=7, places=())

    async def run() -> None:
        await hunt.run(url, for_s=mutant.for_s)
        hunt.check()

    with pytest.raises((AssertionError, ProtocolError)) as seen:
        await run()
    print(mutant.name, "–", str(seen.value).splitlines()[0])


async def test_the_hunt_sees_a_client_that_stops_between_two_round_trips(own_server: PostgresServer) -> None:
    url = await own_server.create_database()
    hunt = Hunt(own_server, seed=7, lease_s=1.0, places=())

    async def stop_between() -> None:
        connection = await asyncpg.connect(url)
        try:
            await asyncio.sleep(1)
            await connection.execute("BEGIN; SELECT 1 FROM thread ORDER BY key FOR NO KEY UPDATE")
            await asyncio.sleep(60)
        finally:
            connection.terminate()

    async with asyncio.TaskGroup() as tasks:
        stopped = tasks.create_task(stop_between())
        with pytest.raises(Stalled):
            await hunt.run(url, for_s=30)
        stopped.cancel()
