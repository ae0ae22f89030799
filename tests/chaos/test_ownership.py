"""Ownership at length: kills at every place, zombies, outages of half a minute, and a queue of a thousand runs."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.agents.steps import PLACES
from tests.hunt.mutants import Mutant
from tests.mission_critical.fleet import Fleet, Watch
from tests.mission_critical.killing import RESTARTED_S, TAKEN_OVER_S, Killing, places_of
from tests.mission_critical.troubles import (
    Crowding,
    hand_over,
    most_at_a_time,
    overlapping,
    quantile,
    survive_outages,
)
from tests.mission_critical.zombies import Zombies
from tests.postgres import PostgresServer

HANDED_OVER_S = 0.5
TOLD_S = 3.0
AWAY_S = 30.0
QUEUED = 1_000
SAMPLES = 200
STARTED_S = 0.1  # twice idle, or this: below, it measures what else the machine does
NO_FENCE = Mutant("append by any attempt", (("runwire_append", "r.attempt = b.attempt AND ", ""),))

Figures = Callable[[str], None]


@pytest.fixture
async def own_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PostgresServer]:
    server = await asyncio.to_thread(PostgresServer.start, tmp_path_factory.mktemp("postgres"))
    yield server
    await asyncio.to_thread(server.remove)


@pytest.fixture
async def url(own_server: PostgresServer) -> str:
    return await own_server.create_database()


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path / "embedded")
    yield fleet
    await fleet.end()


@pytest.fixture
async def pair(tmp_path: Path, url: str) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path / "pair", url, count=2, user_run_limit=100)
    yield fleet
    await fleet.end()


async def _begin(fleet: Fleet, *, mutant: str = "") -> str:
    """Start all nodes; return the key of a new user."""
    for node in fleet.nodes:
        node.mutant = mutant
    await fleet.start()
    return await fleet.nodes[0].create_user("ann")


def _fault(error: BaseException) -> str:
    """Return what was judged, out of the groups that it came in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, AssertionError), "not a judgement"
    return str(error)


# ── kill -9 at every place ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.campaign
@pytest.mark.timeout(600)
async def test_one_run_dies_at_every_place_and_is_restarted(embedded: Fleet, figures: Figures) -> None:
    killing = Killing(embedded, await _begin(embedded), places_of(1))
    await killing.run()
    figures(f"steps, embedded: {killing.line()}")
    assert killing.kills == PLACES
    assert quantile(killing.resumed_s, 0.95) < RESTARTED_S, killing.resumed_s


@pytest.mark.campaign
@pytest.mark.timeout(900)
async def test_one_run_dies_at_every_place_and_is_taken_over(pair: Fleet, figures: Figures) -> None:
    killing = Killing(pair, await _begin(pair), places_of(1))
    await killing.run()
    figures(f"steps, two workers: {killing.line()}")
    assert killing.kills == PLACES
    assert quantile(killing.resumed_s, 0.95) < TAKEN_OVER_S, killing.resumed_s


@pytest.mark.campaign
@pytest.mark.timeout(90)
async def test_a_server_that_forgets_results_is_seen(embedded: Fleet) -> None:
    killing = Killing(embedded, await _begin(embedded, mutant="forgetful"), [[30], [31]])
    with pytest.raises((AssertionError, BaseExceptionGroup)) as seen:
        await killing.run()
    assert "finished steps ran again" in _fault(seen.value)


# ── zombies ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.campaign
@pytest.mark.timeout(300)
async def test_zombies_write_nothing_and_stop(pair: Fleet, figures: Figures) -> None:
    zombies = Zombies(pair, await _begin(pair), stops=10, agents=("ticking", "walking") * 3)
    await zombies.run()
    figures(f"zombies: {zombies.line()}")
    assert zombies.refused >= 200


@pytest.mark.campaign
@pytest.mark.timeout(300)
async def test_zombies_that_believe_in_their_leases_are_refused(pair: Fleet, figures: Figures) -> None:
    """Their own clocks stop them otherwise before they try: here only the attempt's number is in their way."""
    zombies = Zombies(pair, await _begin(pair, mutant="deaf"), stops=10, agents=("walking",) * 24, stale=1)
    await zombies.run()
    refused = sum(node.logs(lines=1_000_000).count("run_fenced") for node in pair.nodes)
    figures(f"zombies that believe in their leases: {zombies.line()}; {refused} tried it themselves")
    assert refused >= zombies.taken >= 200


@pytest.mark.campaign
@pytest.mark.timeout(120)
async def test_zombies_are_seen_to_write_where_no_fence_is(pair: Fleet, own_server: PostgresServer, url: str) -> None:
    token = await _begin(pair)
    await own_server.execute(url, NO_FENCE.applied)
    with pytest.raises((AssertionError, BaseExceptionGroup)) as seen:
        await Zombies(pair, token, stops=1).run()
    assert "Stored(" in _fault(seen.value)


@pytest.mark.campaign
@pytest.mark.timeout(120)
async def test_zombies_whose_code_goes_on_are_seen(pair: Fleet) -> None:
    token = await _begin(pair, mutant="deaf")
    with pytest.raises((AssertionError, BaseExceptionGroup)) as seen:
        await Zombies(pair, token, stops=1, agents=("ticking",) * 2).run()
    assert "after its worker was woken" in _fault(seen.value)


# ── nobody is lost ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.campaign
@pytest.mark.timeout(300)
async def test_drained_workers_hand_over_at_once(pair: Fleet, figures: Figures) -> None:
    token = await _begin(pair)
    gaps_s, seen_s = list[float](), list[float]()
    for _ in range(6):
        gaps, seen = await hand_over(pair, token, runs=6)
        gaps_s, seen_s = gaps_s + gaps, seen_s + seen
    figures(
        f"{len(gaps_s)} hand-overs: p50 {statistics.median(gaps_s):.3f} s, worst {max(gaps_s):.3f} s;"
        f" seen {max(seen_s):.2f} s after SIGTERM at most"
    )
    assert quantile(gaps_s, 0.95) < HANDED_OVER_S, gaps_s
    assert quantile(seen_s, 0.95) < TOLD_S, seen_s


@pytest.mark.campaign
@pytest.mark.timeout(300)
async def test_half_a_minute_without_a_database_costs_no_run_its_worker(
    pair: Fleet, own_server: PostgresServer, figures: Figures
) -> None:
    async def stand_still() -> None:
        own_server.pause()
        await asyncio.sleep(AWAY_S)  # that is the fault itself
        own_server.resume()

    async def die() -> None:
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.restart)

    async def be_away() -> None:
        await asyncio.to_thread(own_server.kill)
        await asyncio.sleep(AWAY_S)
        await asyncio.to_thread(own_server.restart)

    gone_on_s = await survive_outages(pair, await _begin(pair), stand_still, die, be_away)
    shown = ", ".join(f"{seconds:.2f}" for seconds in gone_on_s)
    figures(f"PostgreSQL stopped for {AWAY_S:.0f} s, killed, down for {AWAY_S:.0f} s: all went on after {shown} s")


# ── one user with a long queue ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_thousand_queued_runs_delay_nobody_else(
    tmp_path: Path, own_server: PostgresServer, kind: str, figures: Figures
) -> None:
    fleet = Fleet(tmp_path / kind, await own_server.create_database() if kind == "postgres" else None)
    try:
        ann = await _begin(fleet)
        many = await fleet.nodes[0].create_user("many")
        crowding = Crowding(fleet, many=("many", many), other=ann, queued=QUEUED)
        await crowding.run(SAMPLES)
    finally:
        await fleet.end()
    figures(f"{kind}: {crowding.line()}")
    assert crowding.left > QUEUED / 2
    limit_s = max(2 * quantile(crowding.idle_s, 0.95), STARTED_S)
    assert quantile(crowding.crowded_s, 0.95) < limit_s, crowding.line()


@pytest.mark.campaign
@pytest.mark.timeout(300)
async def test_limits_are_exact_with_four_workers(tmp_path: Path, url: str, figures: Figures) -> None:
    limit, users, runs = 3, 3, 60
    fleet = Fleet(tmp_path / "four", url, count=4, user_run_limit=limit)
    try:
        tokens = [await _begin(fleet)]
        tokens += [await fleet.nodes[0].create_user(f"user{n}") for n in range(1, users)]
        is_over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(most_at_a_time(url, is_over))
            async with asyncio.TaskGroup() as people:
                for token in tokens:
                    people.create_task(_keep_busy(fleet, token, runs))
            is_over.set()
        most, noted = looking.result(), overlapping(fleet.lines("working"))
        workers = {line["pid"] for line in fleet.lines("working")}
    finally:
        await fleet.end()
    figures(f"{users * runs} runs of {users} users, {len(workers)} workers: at most {most} at a time (limit {limit})")
    assert len(workers) == 4, "all four took part"
    assert set(most.values()) == {limit}, "reached, and never passed"
    assert max(noted.values()) == limit
    assert sum(line["phase"] == "done" for line in fleet.lines("working")) == users * runs


async def _keep_busy(fleet: Fleet, token: str, runs: int) -> None:
    async with Watch(fleet, token).following([("working", "0.05")] * runs):
        pass
