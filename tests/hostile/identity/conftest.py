"""One server for all cases of identity."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import RESTS
from tests.hostile.identity.household import Household, started


@pytest.fixture(scope="session")
def one_household(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Household]:
    running = started(tmp_path_factory.mktemp("household"))
    pytestconfig.stash[RESTS].setdefault(Path(__file__).parent, []).append(lambda: asyncio.run(running.end()))
    yield running
    asyncio.run(running.end())


@pytest.fixture(scope="module")
def household(one_household: Household) -> Household:
    """Return a server whose secrets the tests know."""
    if not one_household.process.is_running:
        asyncio.run(one_household.process.start())
    return one_household
