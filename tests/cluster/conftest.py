"""One deployment for all tests of this room: starting one takes some seconds; who breaks something mends it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.deployment import ROLE_AGENTS, Cluster
from tests.conftest import RESTS
from tests.postgres import PostgresServer


@pytest.fixture(scope="session")
def started(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Cluster]:
    url = asyncio.run(postgres_server.create_database())
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), url, agents=ROLE_AGENTS, park_after_s=0)
    asyncio.run(cluster.start())
    pytestconfig.stash[RESTS].setdefault(Path(__file__).parent, []).append(lambda: asyncio.run(cluster.rest()))
    yield cluster
    asyncio.run(cluster.end())


@pytest.fixture
async def cluster(started: Cluster) -> Cluster:
    """Return the deployment, with everybody there."""
    (started.marks / "over").unlink(missing_ok=True)
    await started.wake()
    return started
