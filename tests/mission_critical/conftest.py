"""One server for most tests; one of its own for those that kill it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.mission_critical.deployment import Deployment


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    server = Deployment(tmp_path_factory.mktemp("deployment"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.kill9())


@pytest.fixture
async def own_deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    server = Deployment(tmp_path, slow_reader_s=3.0)
    await server.start()
    yield server
    await server.kill9()
