"""A gateway dies, and all its clients come to the other one at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.cluster.deployment import ROLE_AGENTS, Cluster
from tests.cluster.storm import Crowd, memory_bytes, reads
from tests.postgres import PostgresServer

BACK_S = 15.0  # until the last one has all it missed
READS = 2.0  # of the database, for each subscription of a small crowd, where what a deployment asks idle is much
READS_OF_MANY = 0.5  # of a large one: what is asked at once is asked together


async def storm(cluster: Cluster, count: int, *, people: int, with_keys: bool = False) -> dict[str, float]:
    """Connect a crowd, drop it, and say what that cost."""
    crowd = await Crowd.of(cluster, count, people=people, with_keys=with_keys)
    async with crowd.connected():
        other = cluster.gateways[1]
        await reads(crowd)  # what the coming of all has cost is counted by then
        idle, idle_at_s = await reads(crowd), time.monotonic()
        before, bytes_before, at_s = await reads(crowd), memory_bytes(other), time.monotonic()
        per_s = (before - idle) / (at_s - idle_at_s)
        took = await crowd.dropped(limit_s=4 * BACK_S)
        asked = await reads(crowd) - before - per_s * (time.monotonic() - at_s)
        figures = {
            "last_s": took[-1],
            "p50_s": took[len(took) // 2],
            "p99_s": took[len(took) * 99 // 100],
            "reads": asked / count,
            "idle_per_s": per_s,
            "kib_each": (memory_bytes(other) - bytes_before) / count / 1024,
        }
        print({name: round(value, 2) for name, value in figures.items()}, dict(crowd.refusals))
        refused = {name: n for name, n in crowd.refusals.items() if name.startswith(("HTTP/1.1 5", "bye 40", "unav"))}
        assert sum(refused.values()) <= count, refused  # nobody is sent away more than once, on average
    return figures


@pytest.mark.timeout(180)
async def test_a_crowd_that_lost_its_gateway_is_back_soon_and_costs_two_reads_each(cluster: Cluster) -> None:
    figures = await storm(cluster, 200, people=20)
    assert figures["last_s"] <= BACK_S
    assert figures["reads"] <= READS


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize("with_keys", [False, True], ids=["tokens", "keys"])
async def test_three_thousand_are_back_within_fifteen_seconds(
    postgres_server: PostgresServer, tmp_path: Path, with_keys: bool
) -> None:
    url = await postgres_server.create_database()
    cluster = Cluster(tmp_path, url, agents=ROLE_AGENTS, workers=1)
    await cluster.start()
    try:
        figures = await storm(cluster, 3_000, people=300, with_keys=with_keys)
        assert figures["last_s"] <= BACK_S
        assert figures["reads"] <= READS_OF_MANY
        assert figures["kib_each"] <= 64
    finally:
        await cluster.end()
