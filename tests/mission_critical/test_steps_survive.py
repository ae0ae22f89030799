"""Twenty steps, and `kill -9` before, in and after each: no finished step runs again, and the screen misses nothing.

`make chaos` has one run that dies at every place, one after the other; here the places are shared out among runs, so
that one kill hits many places.
"""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.mission_critical.fleet import Fleet
from tests.mission_critical.killing import RESTARTED_S, TAKEN_OVER_S, Killing, places_of
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path, user_run_limit=100)
    yield fleet
    await fleet.end()


@pytest.fixture
async def pair(tmp_path: Path, postgres_server: PostgresServer) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path, await postgres_server.create_database(), count=2, user_run_limit=100)
    yield fleet
    await fleet.end()


async def test_no_finished_step_runs_again_after_a_restart(embedded: Fleet) -> None:
    await embedded.start()
    killing = Killing(embedded, await embedded.nodes[0].create_user("ann"), places_of(11))
    await killing.run()
    print(killing.line())
    assert killing.kills == 6
    assert statistics.median(killing.resumed_s) < RESTARTED_S, killing.resumed_s


async def test_no_finished_step_runs_again_after_a_takeover(pair: Fleet) -> None:
    await pair.start()
    killing = Killing(pair, await pair.nodes[0].create_user("ann"), places_of(21))
    await killing.run()
    print(killing.line())
    assert killing.kills >= 3  # one more where both hold some of the runs at first
    assert statistics.median(killing.resumed_s) < TAKEN_OVER_S, killing.resumed_s
