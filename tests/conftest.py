"""What every room of the tests may ask for."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import structlog
from tests.postgres import PostgresServer

# Here for all: campaigns and mission-critical tests share these, and whichever is collected first imports them.
pytest.register_assert_rewrite(
    "tests.chaos.oracle",
    "tests.chaos.people",
    "tests.cluster.deployment",
    "tests.cluster.screen",
    "tests.mission_critical.fleet",
    "tests.mission_critical.killing",
    "tests.mission_critical.troubles",
    "tests.mission_critical.zombies",
    "tests.outside",
)


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Put structlog's configuration back: a server that was run in this process has set it for all."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


RESTS: Final = pytest.StashKey[dict[Path, list[Callable[[], None]]]]()
"""Folder → what stops the deployments that its tests share; whoever hands one out starts it again."""


def pytest_configure(config: pytest.Config) -> None:
    """Make room for what rests."""
    config.stash[RESTS] = {}


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stop what a folder shares when other tests follow: a deployment that nobody asks takes a twentieth of a core."""
    folder = item.path.parent
    if nextitem is None or nextitem.path.parent != folder:
        for rest in item.config.stash[RESTS].get(folder, ()):
            rest()


def pytest_collection_finish() -> None:
    """Put what is there for good out of the collector's sight: a collection need not look through all tests again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Start one PostgreSQL for all tests of this process, when the first asks; who kills or pauses one starts another.

    There is no way to skip it: where no PostgreSQL is installed, a wheel brings one.
    """
    server = PostgresServer.start(tmp_path_factory.mktemp("postgres"))
    yield server
    server.remove()
