"""One deployment for all tests of this room: starting one takes some seconds; who breaks something mends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.conftest import RESTS
from tests.identity.house import House
from tests.postgres import PostgresServer


@pytest.fixture(scope="session")
def started(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    house = asyncio.run(House.start(folder, postgres_server, auths=2, access_ttl_s=900, registration="invite"))
    pytestconfig.stash[RESTS].setdefault(Path(__file__).parent, []).append(lambda: asyncio.run(house.cluster.rest()))
    yield house
    asyncio.run(house.end())


@pytest.fixture
async def house(started: House) -> AsyncIterator[House]:
    """Return the deployment, with everybody there."""
    await started.mend()
    async with started:
        yield started
