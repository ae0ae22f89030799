"""The checker against our own cluster while its parts are killed and restarted beside it: no false "broken"."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.cluster.deployment import Cluster
from tests.postgres import PostgresServer
from tests.redis_server import RedisServer

from runwire.conformance import Report, as_text, check

FOR_CHECKS = Path("runwire.conformance.agents:agents")
SEED = int(os.environ.get("CHAOS_SEED", "1"))  # noqa: TID251 - of the tests, not of a server
CHECKS = 12  # that end with everything looked at and kept, and at least as many faults
LOOKED_AT = ("golden_path", "ordering", "resume", "terminal", "isolation", "cancel", "input", "concurrency")


class _Faults:
    """One fault after the other, each healed before the next; what is planned depends on the seed alone."""

    def __init__(self, cluster: Cluster, postgres: PostgresServer, redis: RedisServer) -> None:
        self.done: Counter[str] = Counter()
        self._chance = random.Random(SEED)
        self._cluster = cluster
        self._ways: dict[str, Callable[[], Awaitable[None]]] = {
            "worker killed": lambda: self._killed("workers"),
            "gateway killed": lambda: self._killed("gateways"),
            "PostgreSQL restarted": lambda: asyncio.to_thread(postgres.restart),
            "Redis restarted": lambda: asyncio.to_thread(redis.restart),
        }

    async def go_on(self) -> None:
        """Do one fault after the other until cancelled, with moments between in which checks can end."""
        while True:
            await asyncio.sleep(self._chance.uniform(1.0, 6.0))
            name = self._chance.choice(sorted(self._ways))
            await self._ways[name]()
            self.done[name] += 1

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
        for process in (*cluster.workers, *cluster.gateways):
            process.may_say_tracebacks = True  # of agents that fail on purpose, and of databases that go away
        reports: list[Report] = []
        await cluster.start()
        try:
            key, other = await cluster.key("checker"), await cluster.key("other")
            faults = _Faults(cluster, postgres, redis)
            async with asyncio.TaskGroup() as tasks:
                beside = tasks.create_task(faults.go_on())
                while sum(report.exit_code == 0 for report in reports) < CHECKS or faults.done.total() < CHECKS:
                    report = await check(
                        cluster.gateways[0].url,
                        key,
                        others=[cluster.gateways[1].url],
                        other_token=other,
                        agent="check_tool",
                        categories=LOOKED_AT,
                        workers=2,
                        timeout_s=30,
                    )
                    reports.append(report)
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
    kept, not_checked = (sum(len(report.of(status)) for report in reports) for status in ("kept", "not_checked"))
    figures = f"{dict(done)}; {kept} kept, {not_checked} not checked; {Counter(r.exit_code for r in reports)}"
    record_property("figures", figures)
    print(figures)
    alarms = [as_text(report) for report in reports if report.exit_code == 1]
    assert not alarms, f"CHAOS_SEED={SEED}: {figures}\n" + "\n".join(alarms)
