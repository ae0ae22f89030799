"""The checker against our own server, in its own process: no false alarm."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire.conformance import as_text, check
from runwire.testing import ServerProcess

AGENTS = str(Path(__file__).parent.parent / "agents" / "golden.py")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(AGENTS, data_dir=tmp_path_factory.mktemp("own") / "data")
    asyncio.run(process.start())
    yield process
    asyncio.run(process.kill9())


@pytest.fixture(scope="module")
def key(server: ServerProcess) -> str:
    return asyncio.run(server.create_user("checker"))


def test_our_server_keeps_every_promise_five_times(server: ServerProcess, key: str) -> None:
    for _ in range(5):
        report = asyncio.run(check(server.url, key, agent="golden", expect="five"))
        assert report.exit_code == 0, as_text(report)
        assert [result.case for result in report.of("not_checked")] == ["position_frame"]


@pytest.mark.parametrize("agent", ["plain", "failing", "tool_fails"])
def test_agents_that_use_no_tools_or_fail_are_in_order_too(server: ServerProcess, key: str, agent: str) -> None:
    report = asyncio.run(check(server.url, key, agent=agent, expect="any"))
    assert report.exit_code == 0, as_text(report)


def test_a_wrong_key_could_not_be_checked(server: ServerProcess) -> None:
    report = asyncio.run(check(server.url, "rw_wrong"))
    assert report.exit_code == 2, as_text(report)
    assert report.problem
    assert "refused" in report.problem


def test_many_checks_at_once_raise_no_alarm(server: ServerProcess, key: str) -> None:
    async def together() -> list[str]:
        async with asyncio.TaskGroup() as tasks:
            checks = [tasks.create_task(check(server.url, key, agent="golden", expect="five")) for _ in range(6)]
        return [as_text(task.result()) for task in checks if task.result().exit_code]

    assert asyncio.run(together()) == []
