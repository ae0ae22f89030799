"""A server under attack, a person who notices nothing of it, and what must be so after each attack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.conftest import RESTS
from tests.hostile.target import Target
from tests.mission_critical.deployment import Deployment


@pytest.fixture(scope="session")
def one_besieged(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Target]:
    server = Deployment(tmp_path_factory.mktemp("besieged"), ping_s=1.0, pong_s=1.0, slow_reader_s=3.0)
    target = Target(server)
    pytestconfig.stash[RESTS].setdefault(Path(__file__).parent, []).append(lambda: asyncio.run(server.kill9()))
    yield target
    asyncio.run(server.kill9())


@pytest.fixture(scope="module")
def besieged(one_besieged: Target) -> Target:
    """Return one server for all attacks; short times, so that each deadline is seen."""
    if not one_besieged.server.process.is_running:
        asyncio.run(one_besieged.server.start())
        asyncio.run(one_besieged.warm_up())
    return one_besieged


@pytest.fixture
async def target(besieged: Target) -> AsyncIterator[Target]:
    """Hand out the server, with a neighbour whose run goes on meanwhile; then look what the attack has left."""
    async with besieged.watched():
        yield besieged
