"""Pytest fixtures for people's own agent projects; pytest finds them by itself once Runwire is installed.

::

    # pytest.ini:  runwire_target = agent.py
    def test_my_agent_answers(runwire_client):
        async def ask():
            async with runwire_client() as client:
                run = await client.send("What is Runwire?")
                return await run.result()

        assert "server" in asyncio.run(ask())

Everything of Runwire is imported when a fixture is first used: a project that does not use them pays nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from runwire.client import Client
    from runwire.testing.server import ServerProcess

_SERVERS: Final = pytest.StashKey["list[ServerProcess]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting that names the agent under test, and what `runwire test` says to pytest."""
    parser.addini("runwire_target", "what `runwire dev` serves for the fixture runwire_server", default="agent.py")
    group = parser.getgroup("runwire", "what `runwire test` says")
    group.addoption("--runwire-service", action="append", default=[], help="auto, or a service's URL; repeatable")
    group.addoption("--runwire-record", type=Path, help="file for what becomes of each test")
    group.addoption("--runwire-together", action="append", default=[], help="folder that one process runs; repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Listen for `runwire test`, in the process that it has started."""
    record: Path | None = config.getoption("--runwire-record")
    if record is None or hasattr(config, "workerinput"):  # a process of xdist tells the one that started it
        return
    from runwire.testing.recorder import Recorder
    from runwire.testing.spread import Spread

    config.pluginmanager.register(Recorder(record), "runwire-recorder")
    config.pluginmanager.register(Spread(config.getoption("--runwire-together")), "runwire-spread")


@pytest.fixture(scope="session")
def runwire_target(pytestconfig: pytest.Config) -> str:
    """Return what the server serves: the setting `runwire_target`; override this fixture for another."""
    return str(pytestconfig.getini("runwire_target"))


@pytest.fixture(scope="session")
def runwire_server(
    runwire_target: str, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[ServerProcess]:
    """Start a real server once for all tests, on a free port and a fresh folder; its log is shown on failure."""
    from runwire.testing.server import ServerProcess

    server = ServerProcess(runwire_target, data_dir=tmp_path_factory.mktemp("runwire") / "data")
    pytestconfig.stash.setdefault(_SERVERS, []).append(server)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.kill9())


@pytest.fixture(scope="session")
def runwire_key(runwire_server: ServerProcess) -> str:
    """Return an API key of a fresh user of the server."""
    return asyncio.run(runwire_server.create_user("tester"))


@pytest.fixture
def runwire_client(
    runwire_server: ServerProcess, runwire_key: str
) -> Callable[[], AbstractAsyncContextManager[Client]]:
    """Return what opens a connected client, in any event loop, by `async with`."""
    from runwire.client import connect

    return lambda: connect(runwire_server.url, runwire_key)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the servers' logs to the report of a test that failed."""
    report = yield
    if report.failed:
        for server in item.config.stash.get(_SERVERS, []):
            report.sections.append((f"log of {server.url or server.target}", server.logs()))
    return report
