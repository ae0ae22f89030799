"""Redis between two servers: when it is away, that costs latency and nothing else."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from tests.mission_critical.fleet import Fleet, Node
from tests.outside import Outside, assert_one_run
from tests.postgres import PostgresServer
from tests.redis_server import PASSWORD, RedisServer

pytestmark = pytest.mark.timeout(90)  # three processes start: 5 s on a quiet machine

_AGENT: Final = Path(__file__).resolve().parent.parent / "agents" / "ticking.py"
_PAUSE_S: Final = 0.01
_RUNS: Final = 4  # at a time, each in its own thread


class Deployment:
    """Two servers on a PostgreSQL and a Redis, and Ann's key."""

    def __init__(self, fleet: Fleet, redis: RedisServer, key: str) -> None:
        self.fleet = fleet
        self.redis = redis
        self.key = key

    async def watch(self, ticks: int, trouble: Callable[[], Awaitable[None]] | None = None) -> Seen:
        """Have runs speak, make trouble when they do, and follow all to their ends on both servers.

        Nothing may miss or come twice. What counts is the screen on which a thread came later: one of the two is at the
        server that did not run it.
        """
        screens = [Outside(node.url, self.key) for node in self.fleet.nodes]
        order = json.dumps({"ticks": ticks, "pause_s": _PAUSE_S})
        async with screens[0].connected(), screens[1].connected(), asyncio.TaskGroup() as tasks:
            sent = [await screens[0].send(order, agent="ticking") for _ in range(_RUNS)]
            for one in sent:
                await screens[1].subscribe(one["thread"])
            followed = [tasks.create_task(_follow(screen, {one["run"] for one in sent})) for screen in screens]
            if trouble is not None:
                await asyncio.sleep(0.5)
                await trouble()
        for one in sent:
            for screen in screens:
                events = [event for event in screen.events[one["thread"]] if event["run"] == one["run"]]
                assert_one_run(events, one["run"])
                said = [event for event in events if event["type"] == "custom"]
                assert len(said) == ticks
                assert {event["attempt"] for event in said} == {1}  # no worker was taken for dead
        return Seen(*(task.result() for task in followed))


async def _follow(screen: Outside, runs: set[str]) -> dict[str, list[Tick]]:
    """Follow runs to their ends; return each one's ticks."""
    ticks: dict[str, list[Tick]] = {run: [] for run in runs}
    unfinished = set(runs)
    for events in screen.events.values():
        unfinished -= {event["run"] for event in events if event["type"] == "agent_completed"}
    while unfinished:
        event = screen.apply(await screen.frame())
        if event and event["type"] == "custom":
            ticks[event["run"]].append(Tick(time.monotonic(), **event["data"]["value"]))
        elif event and event["type"] == "agent_completed":
            unfinished.discard(event["run"])
    return ticks


class Tick(NamedTuple):
    """A word of an agent: when it came, when it was said, and how long the agent had waited for a commit."""

    came_s: float
    at_s: float
    waited_s: float


class Seen:
    """How much later ticks came on the slower of two screens, for how long a thread was silent, what commits cost.

    `behind_s` is what the bus adds: a machine that is slow to store is slow for both screens. `last_s`: of the last.
    """

    def __init__(self, *screens: dict[str, list[Tick]]) -> None:
        behind: list[list[float]] = []
        for run in screens[0]:
            one, other = ({tick.at_s: tick.came_s for tick in screen[run]} for screen in screens)
            behind.append([abs(one[at_s] - other[at_s]) for at_s in sorted(one.keys() & other.keys())])
        self.behind_s = statistics.median(itertools.chain.from_iterable(behind))
        self.last_s = statistics.median(itertools.chain.from_iterable(each[-50:] for each in behind))
        both = [ticks for screen in screens for ticks in screen.values()]
        self.late_s = statistics.median(tick.came_s - tick.at_s for ticks in both for tick in ticks)
        self.stall_s = max(after.came_s - tick.came_s for ticks in both for tick, after in itertools.pairwise(ticks))
        self.waited_s = max(tick.waited_s for ticks in both for tick in ticks)


@pytest.fixture(scope="module")
def deployment(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    redis = RedisServer.start(tmp_path_factory.mktemp("redis"), password=PASSWORD)
    url = asyncio.run(postgres_server.create_database())
    settings: dict[str, Any] = {"redis_url": redis.url, "user_run_limit": 20}
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), url, count=2, **settings)
    fleet.nodes = [Node(str(_AGENT), data_dir=node.data_dir, cwd=fleet.traces) for node in fleet.nodes]
    try:
        asyncio.run(fleet.start())
        yield Deployment(fleet, redis, asyncio.run(fleet.nodes[0].create_user("ann")))
    finally:
        asyncio.run(fleet.end())
        logs = "".join(node.logs(lines=100_000) for node in fleet.nodes)
        redis.remove()
    assert PASSWORD not in logs


async def test_what_one_server_commits_is_seen_at_the_other_at_once(deployment: Deployment) -> None:
    seen = await deployment.watch(200)
    print(f"{seen.behind_s * 1e3:.1f} ms behind the other, {seen.late_s * 1e3:.1f} ms after it was said")
    # Some ms; without the bus 50 ms and more by looking.
    assert seen.last_s < 0.03


async def test_paused_redis_stalls_no_commit_and_delivery_for_a_moment(deployment: Deployment) -> None:
    async def pause() -> None:
        deployment.redis.pause()
        await asyncio.sleep(2)
        deployment.redis.resume()

    seen = await deployment.watch(350, pause)
    print(f"stall {seen.stall_s * 1e3:.0f} ms, commits waited {seen.waited_s * 1e3:.0f} ms")
    # 300 ms are promised, of which 200 are until a beacon is missed and 100 until the next look.
    assert seen.stall_s < 0.9
    assert seen.waited_s < 0.9


async def test_redis_that_is_killed_and_emptied_costs_latency_and_nothing_else(deployment: Deployment) -> None:
    async def harm() -> None:
        deployment.redis.flush()
        deployment.redis.kill()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(deployment.redis.restart)

    seen = await deployment.watch(350, harm)
    print(f"stall {seen.stall_s * 1e3:.0f} ms, then {seen.last_s * 1e3:.1f} ms behind")
    assert seen.stall_s < 0.9
    assert seen.last_s < 0.03  # fast again, without anybody's help
