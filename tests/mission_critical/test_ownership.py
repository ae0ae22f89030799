"""Who owns a run, with real processes on one PostgreSQL: workers stopped, drained and cut off, and users in turn."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator

import pytest
from tests.mission_critical.fleet import Fleet
from tests.mission_critical.troubles import Crowding, hand_over, quantile, survive_outages
from tests.mission_critical.zombies import Zombies
from tests.postgres import PostgresServer

HANDED_OVER_S = 0.5  # from the last word of the one to the first of the other; measured: 0.03 s
TOLD_S = 3.0  # from the signal until a screen sees that another one has the run; measured: 0.2 s
AWAY_S = 4.0  # longer than the lease
STARTED_S = 0.15  # what a start may take beside a queue on a machine that does other things too; measured: 0.02 s

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Start a PostgreSQL that a test may stop and kill."""
    server = PostgresServer.start(tmp_path_factory.mktemp("postgres"))
    yield server
    server.remove()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, own_server: PostgresServer) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("pair")
    fleet = Fleet(folder, asyncio.run(own_server.create_database()), count=2, user_run_limit=20)
    asyncio.run(fleet.start())
    yield fleet
    asyncio.run(fleet.end())


@pytest.fixture(scope="module")
def ann(pair: Fleet) -> str:
    return asyncio.run(pair.nodes[0].create_user("ann"))


async def test_worker_that_wakes_after_its_lease_can_do_nothing(pair: Fleet, ann: str) -> None:
    zombies = Zombies(pair, ann, stops=2)
    await zombies.run()
    print(zombies.line())
    assert zombies.refused >= 30


async def test_drained_worker_hands_its_runs_over_at_once(pair: Fleet, ann: str) -> None:
    gaps_s, seen_s = await hand_over(pair, ann, runs=6)
    print(gaps_s, seen_s)
    assert statistics.median(gaps_s) < HANDED_OVER_S, gaps_s
    assert statistics.median(seen_s) < TOLD_S, seen_s


async def test_database_that_was_away_costs_no_run_its_worker(
    pair: Fleet, ann: str, own_server: PostgresServer
) -> None:
    async def stand_still() -> None:
        own_server.pause()
        await asyncio.sleep(AWAY_S)  # that is the fault itself
        own_server.resume()

    async def die() -> None:
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.restart)

    print(await survive_outages(pair, ann, stand_still, die))


async def test_queue_of_one_user_delays_nobody_else(pair: Fleet, ann: str) -> None:
    many = await pair.nodes[0].create_user("many")
    crowding = Crowding(pair, many=("many", many), other=ann, queued=200)
    await crowding.run(60)
    print(crowding.line())
    assert crowding.left > 0
    limit_s = max(2 * quantile(crowding.idle_s, 0.95), STARTED_S)
    assert quantile(crowding.crowded_s, 0.95) < limit_s, crowding.line()
