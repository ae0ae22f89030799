"""The checker against our own cluster while its parts are killed and restarted beside it: no false "broken"."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.deployment import Cluster
from tests.postgres import PostgresServer
from tests.redis_server import RedisServer

from runwire.conformance import Report, as_text, check

FOR_CHECKS = Path("runwire.conformance.agents:agents")
SEED = int(os.environ.get("CHAOS_SEED", "1"))  # noqa: TID251 - of the tests, not of a server
PASSWORD = "correct horse battery staple"
WELL = 4  # checks of each group that end with everything looked at and kept, and faults of each kind, at the least
# What is looked at in one check: few enough that some checks end between two faults, for one that meets a fault stops.
# Left out are `timing`, since who waits for a restart does wait, and `crash`, which has its own kills.
GROUPS = (
    ("golden_path", "ordering", "resume", "terminal", "isolation", "cancel", "input", "concurrency"),
    ("golden_path", "auth"),
    ("golden_path", "slow_reader", "waits"),
    ("golden_path", "breaker"),
)


class _Faults:
    """One fault after the other, each kind in turn, and healed before the next; the plan depends on the seed alone."""

    def __init__(self, cluster: Cluster, postgres: PostgresServer, redis: RedisServer) -> None:
        self.done: Counter[str] = Counter()
        self._chance = random.Random(SEED)
        self._cluster = cluster
        self._ways: dict[str, Callable[[], Awaitable[None]]] = {
            "worker killed": lambda: self._killed("workers"),
            "gateway killed": lambda: self._killed("gateways"),
            "PostgreSQL restarted": lambda: asyncio.to_thread(postgres.restart),
            "Redis restarted": lambda: asyncio.to_thread(redis.restart),
            "auth service killed": lambda: self._killed("auths"),
        }

    async def go_on(self) -> None:
        """Do one fault after the other until cancelled, with moments between in which checks can end."""
        for name in itertools.cycle(self._ways):
            await asyncio.sleep(self._chance.uniform(1.0, 6.0))
            await self._ways[name]()
            self.done[name] += 1

    @property
    def fewest(self) -> int:
        """Return how many there were of the kind of which there were fewest."""
        return min(self.done[name] for name in self._ways)

    async def _killed(self, kind: str) -> None:
        process = self._chance.choice(getattr(self._cluster, kind))
        await process.restart(kill=True)


@pytest.mark.campaign
@pytest.mark.timeout(1_800)
def test_a_check_beside_kills_and_restarts_says_broken_of_nothing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async def checked(postgres: PostgresServer, redis: RedisServer) -> tuple[list[Report], Counter[str]]:
        cluster = Cluster(
            tmp_path / "own", await postgres.create_database(), redis_url=redis.url, agents=FOR_CHECKS, ping_s=2.0
        )
        for process in cluster.processes:
            process.may_say_tracebacks = True  # of agents that fail on purpose, and of databases that go away
        reports: list[Report] = []
        await cluster.start()
        try:
            given = await _given(cluster)
            faults = _Faults(cluster, postgres, redis)
            well = Counter[tuple[str, ...]]()
            async with asyncio.TaskGroup() as tasks:
                beside = tasks.create_task(faults.go_on())
                for group in itertools.cycle(GROUPS):
                    if min(well[each] for each in GROUPS) >= WELL and faults.fewest >= WELL:
                        break
                    report = await check(cluster.gateways[0].url, categories=group, **given)
                    if {result.status for result in report.results} == {"not_checked"}:
                        await asyncio.sleep(0.2)  # a gateway is on its way back; nobody asks faster than that
                        continue
                    reports.append(report)
                    well[group] += report.exit_code == 0
                beside.cancel()
            return reports, faults.done
        finally:
            await cluster.end()

    postgres, redis = PostgresServer.start(tmp_path / "pg"), RedisServer.start(tmp_path / "redis")
    try:
        reports, done = asyncio.run(checked(postgres, redis))
    finally:
        postgres.remove()
        redis.remove()
    ends = Counter(report.exit_code for report in reports)
    kept = sum(len(report.of("kept")) for report in reports)
    figures = f"{dict(done)}; {ends[0]} checks to the end, {ends[2]} stopped by a fault; {kept} promises kept"
    record_property("figures", figures)
    print(figures)
    alarms = [as_text(report) for report in reports if report.exit_code == 1]
    assert not alarms, f"CHAOS_SEED={SEED}: {figures}\n" + "\n".join(alarms)
    never = {result.id for report in reports for result in report.results}
    never -= {result.id for report in reports for result in report.of("kept")}
    assert never == {"terminal/deadline"}, "its deadline is ten minutes; all others were kept beside faults"


async def _given(cluster: Cluster) -> dict[str, Any]:
    """Return what a check of all these categories needs."""
    words = ("user", "add", "checker", "--with-key", "--password-stdin")
    key = (await cluster.cli(*words, stdin=PASSWORD)).strip()
    ended = (await cluster.cli("token", "create", "--user", "checker", "--ttl", "1")).strip()
    other = await cluster.key("other")
    await asyncio.sleep(1.5)  # until `ended` has
    return {
        "credentials": key,
        "person": ("checker", PASSWORD),
        "expired_token": ended,
        "other_token": other,
        "others": [cluster.gateways[1].url],
        "agent": "check_tool",
        "expect": "five",
        "workers": 2,
        "timeout_s": 30,
    }
