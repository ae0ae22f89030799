"""One server for all cases of identity."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.hostile.identity.household import Household, started


@pytest.fixture(scope="session")
def household(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Household]:
    """Start a server whose secrets the tests know."""
    running = started(tmp_path_factory.mktemp("household"))
    yield running
    asyncio.run(running.end())
