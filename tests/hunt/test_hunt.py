"""Everybody at once on PostgreSQL, a process stopped anywhere: no deadlock, no stall, limits exact, a whole log."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.hunt.hunt import Hunt
from tests.postgres import PostgresServer


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Start a PostgreSQL whose log tells of nobody else."""
    server = PostgresServer.start(tmp_path_factory.mktemp("postgres"))
    yield server
    server.remove()


@pytest.mark.timeout(60)
async def test_nobody_waits_for_a_process_that_is_stopped_anywhere(own_server: PostgresServer) -> None:
    hunt = Hunt(own_server, seed=1, lease_s=2.0)
    await hunt.run(await own_server.create_database(), for_s=6)
    print(hunt.figures())
    hunt.check()
    assert hunt.stops.total() >= 3
    assert hunt.tally.done["Stored"] > 100


@pytest.mark.campaign
@pytest.mark.timeout(3600)
async def test_campaign_of_hunts(own_server: PostgresServer) -> None:
    for seed in range(1_000, 1_006):
        hunt = Hunt(own_server, seed=seed)
        await hunt.run(await own_server.create_database(), for_s=35)
        print(hunt.figures())
        hunt.check()
        assert hunt.stops.total() >= 5
