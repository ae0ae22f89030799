"""The checker against our own server as a cluster: two gateways, two workers that it may kill, PostgreSQL."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.cluster.deployment import Cluster
from tests.postgres import PostgresServer

from runwire.conformance import as_text, check

FOR_CHECKS = Path("runwire.conformance.agents:agents")


@pytest.mark.timeout(150)
def test_our_cluster_keeps_its_promises_at_two_gateways(postgres_server: PostgresServer, tmp_path: Path) -> None:
    async def checked() -> str:
        url = await postgres_server.create_database()
        cluster = Cluster(tmp_path, url, agents=FOR_CHECKS, ping_s=1.0)
        for worker in cluster.workers:
            worker.may_say_tracebacks = True  # of the agents that fail on purpose

        async def kill_workers() -> None:
            for worker in cluster.workers:
                await worker.kill9()
            async with asyncio.TaskGroup() as tasks:
                for worker in cluster.workers:
                    tasks.create_task(worker.start())

        await cluster.start()
        try:
            report = await check(
                cluster.gateways[0].url,
                await cluster.key("checker"),
                others=[cluster.gateways[1].url],
                other_token=await cluster.key("other"),
                agent="check_tool",
                expect="five",
                kill=kill_workers,
                skip=("breaker", "timing"),  # one process shows them as well, and they take their time
                workers=4,
            )
        finally:
            await cluster.end()
        unchecked = {result.id for result in report.of("not_checked")}
        # An API key makes no sign-in that could be withdrawn; the deadline is ten minutes; and no old token is there.
        is_so = unchecked == {"auth/expired", "auth/revocation", "terminal/deadline"}
        return "" if report.exit_code == 0 and is_so else as_text(report)

    assert asyncio.run(checked()) == ""
