"""Pytest fixtures for people's own agent projects; pytest finds them by itself once Runwire is installed.

::

    def test_my_agent_answers(golden_path):
        assert "server" in golden_path("What is Runwire?").output

Everything of Runwire is imported when a fixture is first used: a project that does not use them pays nothing.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import pytest

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from runwire.client import Client
    from runwire.testing.golden import Told
    from runwire.testing.model import FakeModel
    from runwire.testing.server import ServerProcess

    Two = tuple[Client, Client]

_SERVERS: Final = pytest.StashKey["list[ServerProcess]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting that names the agent under test, and what `runwire test` says to pytest."""
    parser.addini(
        "runwire_target", "what is served for the fixture runwire_server; default: [tool.runwire]", default=""
    )
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
    """Return what the server serves: the setting `runwire_target`, else what pyproject.toml names, else `agent.py`.

    Override this fixture for another.
    """
    said = str(pytestconfig.getini("runwire_target"))
    return said or ("" if _names_agents(pytestconfig.rootpath / "pyproject.toml") else "agent.py")


def _names_agents(path: Path) -> bool:
    if not path.is_file():
        return False
    table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("runwire", {})
    return "agent" in table or "agents" in table


@pytest.fixture(scope="session")
def runwire_server(
    runwire_target: str,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
    request: pytest.FixtureRequest,
) -> Iterator[ServerProcess]:
    """Start a real server once for all tests, on a free port and a fresh folder; its log is shown on failure.

    With `runwire test --services auto` it is a deployment of many processes, with a URL one on that service.
    """
    with pytest.MonkeyPatch.context() as environment:
        if any("fake_model" in getattr(item, "fixturenames", ()) for item in request.session.items):
            model: FakeModel = request.getfixturevalue("_runwire_model")
            for name, value in {
                "OPENAI_BASE_URL": model.url,
                "OPENAI_API_KEY": "fake",
                "ANTHROPIC_BASE_URL": model.origin,
                "ANTHROPIC_API_KEY": "fake",
            }.items():
                environment.setenv(name, value)
        server = _server(runwire_target, tmp_path_factory.mktemp("runwire"), pytestconfig)
        pytestconfig.stash.setdefault(_SERVERS, []).append(server)
        asyncio.run(server.start())
        yield server
        asyncio.run(server.end())


def _server(target: str, folder: Path, config: pytest.Config) -> ServerProcess:
    from runwire.testing.deployed import ClusterProcess
    from runwire.testing.server import ServerProcess

    services = [str(url) for url in config.getoption("--runwire-service")]
    if "auto" in services:
        return ClusterProcess(target, data_dir=folder / "data", cwd=config.rootpath)
    options: tuple[str, ...] = ()
    if services:
        names = {url: "redis_url" if url.startswith("redis") else "database_url" for url in services}
        path = folder / "runwire.toml"
        path.write_text("".join(f"{name} = {json.dumps(url)}\n" for url, name in names.items()), encoding="utf-8")
        options = ("--config", str(path))
    server = ServerProcess(target, data_dir=folder / "data", options=options, cwd=config.rootpath)
    server.cli_cwd = folder if services else None
    return server


@pytest.fixture(scope="session")
def runwire_key(runwire_server: ServerProcess) -> str:
    """Return an API key of a fresh user of the server."""
    return asyncio.run(runwire_server.create_user(_fresh("tester")))


def _fresh(name: str) -> str:
    # The database of `--services URL` has seen the tests before, and other processes of xdist use it now.
    return f"{name}-{secrets.token_hex(4)}"


@pytest.fixture
def runwire_client(
    runwire_server: ServerProcess, runwire_key: str
) -> Callable[[], AbstractAsyncContextManager[Client]]:
    """Return what opens a connected client, in any event loop, by `async with`."""
    from runwire.client import connect

    return lambda: connect(runwire_server.url, runwire_key)


@pytest.fixture
def two_users(
    runwire_server: ServerProcess, runwire_key: str, _runwire_other_key: str
) -> Callable[[], AbstractAsyncContextManager[Two]]:
    """Return what opens connected clients of two people, in any event loop, by `async with`."""
    from runwire.client import connect

    @asynccontextmanager
    async def opened() -> AsyncIterator[Two]:
        async with (
            connect(runwire_server.url, runwire_key) as one,
            connect(runwire_server.url, _runwire_other_key) as other,
        ):
            yield one, other

    return opened


@pytest.fixture(scope="session")
def _runwire_other_key(runwire_server: ServerProcess) -> str:
    return asyncio.run(runwire_server.create_user(_fresh("other")))


class GoldenPath(Protocol):
    """Ask the agent, and see that all is in order."""

    def __call__(self, message: str, agent: str | None = None, *, timeout_s: float = 30.0) -> Told:
        """Send a message and return what its run came to.

        Raises:
            AssertionError: with the events, if the run did not complete or was out of order.
        """
        ...


@pytest.fixture
def golden_path(runwire_server: ServerProcess, runwire_key: str) -> GoldenPath:
    """Return what asks the agent as a person does and sees that every event comes in order, once, to the end."""
    from runwire.testing.golden import ask

    def asked(message: str, agent: str | None = None, *, timeout_s: float = 30.0) -> Told:
        return ask(runwire_server.url, runwire_key, message, agent=agent, timeout_s=timeout_s)

    return asked


@pytest.fixture
def kill_server(runwire_server: ServerProcess) -> Callable[[], Awaitable[None]]:
    """Return a coroutine that kills the server with SIGKILL and starts it on the same folder and port."""

    async def kill() -> None:
        await runwire_server.restart(kill=True)

    return kill


@pytest.fixture(scope="session")
def _runwire_model() -> Iterator[FakeModel]:
    from runwire.testing.model import FakeModel

    with FakeModel() as model:
        yield model


@pytest.fixture
def fake_model(_runwire_model: FakeModel) -> FakeModel:
    """Return a model that says what the test tells it; the server is started with its address in the environment."""
    _runwire_model.forget()
    return _runwire_model


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
