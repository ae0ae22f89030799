"""A deployment of which only the auth service runs: a doctor looks at a gateway and a worker that are not started."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.cluster.deployment import ROLE_AGENTS, Cluster
from tests.doctor.world import Doctor, World
from tests.postgres import PostgresServer
from tests.redis_server import PASSWORD, RedisServer


@pytest.fixture(scope="package")
def doctor() -> Iterator[Doctor]:
    with Doctor() as made:
        yield made


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory, doctor: Doctor) -> Iterator[World]:
    """Start servers of its own: tests stop them where they are."""
    folder = tmp_path_factory.mktemp("doctor")
    postgres = PostgresServer.start(folder / "postgres")
    redis = RedisServer.start(folder / "redis", password=PASSWORD)
    url = asyncio.run(postgres.create_database())
    cluster = Cluster(folder / "cluster", url, redis_url=redis.url, gateways=1, workers=1, agents=ROLE_AGENTS)
    asyncio.run(cluster.auths[0].start())
    yield World(folder, cluster, postgres, redis, doctor)
    asyncio.run(cluster.end())
    redis.remove()
    postgres.remove()
