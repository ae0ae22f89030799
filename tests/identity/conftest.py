"""One deployment for all tests of this room: starting one takes some seconds; who breaks something mends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.identity.house import House
from tests.postgres import PostgresServer


@pytest.fixture(scope="session")
def started(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    house = asyncio.run(House.start(folder, postgres_server, auths=2, access_ttl_s=900, registration="invite"))
    yield house
    asyncio.run(house.end())


@pytest.fixture
async def house(started: House) -> AsyncIterator[House]:
    """Return the deployment, with everybody there."""
    await started.mend()
    async with started:
        yield started
