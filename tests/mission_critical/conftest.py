"""One server for most tests; one of its own for those that kill it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.conftest import RESTS
from tests.mission_critical.deployment import Deployment
from tests.mission_critical.staging import OwnStaging
from tests.postgres import PostgresServer


@pytest.fixture(scope="session")
def one_deployment(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Deployment]:
    server = Deployment(tmp_path_factory.mktemp("deployment"))
    pytestconfig.stash[RESTS].setdefault(Path(__file__).parent, []).append(lambda: asyncio.run(server.kill9()))
    yield server
    asyncio.run(server.kill9())


@pytest.fixture(scope="module")
def deployment(one_deployment: Deployment) -> Deployment:
    if not one_deployment.process.is_running:
        asyncio.run(one_deployment.start())
    return one_deployment


@pytest.fixture(scope="session")
def own_staging(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[OwnStaging]:
    """Start many processes on PostgreSQL and Redis; who kills one starts it again."""
    own = OwnStaging(tmp_path_factory.mktemp("staging"), postgres_server)
    pytestconfig.stash[RESTS].setdefault(Path(__file__).parent, []).append(lambda: asyncio.run(own.cluster.rest()))
    try:
        yield own.start()
    finally:
        own.end()


@pytest.fixture
async def own_deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    server = Deployment(tmp_path, slow_reader_s=3.0)
    await server.start()
    yield server
    await server.kill9()
