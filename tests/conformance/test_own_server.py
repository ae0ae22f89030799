"""The checker against our own server, in its own process: no false alarm."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import runwire
from runwire.conformance import as_text, check
from runwire.testing import ServerProcess

AGENTS = str(Path(__file__).parent.parent / "agents" / "golden.py")
WAITING = str(Path(__file__).parent.parent / "agents" / "waiting.py")


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
        report = asyncio.run(
            check(server.url, key, agent="golden", expect="five", categories=("golden_path", "resume"))
        )
        assert report.exit_code == 0, as_text(report)
        assert [result.case for result in report.of("not_checked")] == ["position_frame"]


@pytest.mark.parametrize("agent", ["plain", "failing", "tool_fails"])
def test_agents_that_use_no_tools_or_fail_are_in_order_too(server: ServerProcess, key: str, agent: str) -> None:
    report = asyncio.run(check(server.url, key, agent=agent, expect="any", categories=("golden_path", "resume")))
    assert report.exit_code == 0, as_text(report)


def test_runs_that_wait_call_helpers_and_are_tried_again_are_in_order_too(tmp_path: Path) -> None:
    async def answered(client: runwire.client.Client) -> None:
        """Approve whatever is asked."""
        while True:
            for run in (await client.http.runs())["items"]:
                if run["status"] in ("running", "waiting"):
                    for wait in (await client.http.run(run["run"]))["waits"]:
                        if wait["by"] is None:
                            await client.http.answer(run["run"], wait["wait"], True)
            await asyncio.sleep(0.05)

    async def checked() -> list[str]:
        reports = []
        async with ServerProcess(WAITING, data_dir=tmp_path / "data", cwd=tmp_path) as server:
            key = await server.create_user("checker")
            async with runwire.connect(server.url, key) as client, asyncio.TaskGroup() as tasks:
                answering = tasks.create_task(answered(client))
                for agent in ("approves", "delegates"):
                    report = await check(server.url, key, agent=agent, categories=["golden_path"])
                    reports += [as_text(report)] if report.exit_code else []
                answering.cancel()
        return reports

    assert asyncio.run(checked()) == []


def test_a_wrong_key_could_not_be_checked(server: ServerProcess) -> None:
    report = asyncio.run(check(server.url, "rw_wrong"))
    assert report.exit_code == 2, as_text(report)
    assert report.problem
    assert "refused" in report.problem


def test_many_checks_at_once_raise_no_alarm(server: ServerProcess, key: str) -> None:
    async def together() -> list[str]:
        async with asyncio.TaskGroup() as tasks:
            checks = [
                tasks.create_task(
                    check(server.url, key, agent="golden", expect="five", categories=("golden_path", "resume"))
                )
                for _ in range(6)
            ]
        return [as_text(task.result()) for task in checks if task.result().exit_code]

    assert asyncio.run(together()) == []
