"""A server under attack, a person who notices nothing of it, and what must be so after each attack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.hostile.target import Target
from tests.mission_critical.deployment import Deployment


@pytest.fixture(scope="session")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Start one server for all attacks; short times, so that each deadline is seen."""
    server = Deployment(tmp_path_factory.mktemp("besieged"), ping_s=1.0, pong_s=1.0, slow_reader_s=3.0)
    asyncio.run(server.start())
    target = Target(server)
    asyncio.run(target.warm_up())
    yield target
    asyncio.run(server.kill9())


@pytest.fixture
async def target(besieged: Target) -> AsyncIterator[Target]:
    """Hand out the server, with a neighbour whose run goes on meanwhile; then look what the attack has left."""
    async with besieged.watched():
        yield besieged
