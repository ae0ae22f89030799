"""The checker against our own server, in its own processes: no false alarm."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.test_command import runwire as command

import runwire
from runwire.conformance import Report, as_text, check
from runwire.testing import ServerProcess

AGENTS = str(Path(__file__).parent.parent / "agents" / "golden.py")
WAITING = str(Path(__file__).parent.parent / "agents" / "waiting.py")
FOR_CHECKS = "runwire.conformance.agents:agents"
PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("own")
    (folder / "runwire.toml").write_text("ping_s = 1.0\ndeadline_s = 4.0\n", encoding="utf-8")
    process = ServerProcess(AGENTS, data_dir=folder / "data", cwd=folder, options=(FOR_CHECKS,))
    asyncio.run(process.start())
    yield process
    asyncio.run(process.kill9())


@pytest.fixture(scope="module")
def given(server: ServerProcess) -> dict[str, Any]:
    """Give what a check of everything needs."""

    async def made() -> dict[str, Any]:
        key = await server.create_user("checker", password=PASSWORD)
        ended = (await server.cli("token", "create", "--user", "checker", "--ttl", "1")).strip()
        ended_at_s = time.monotonic() + 1.5  # at the latest: what is made above lives one second
        other = await server.create_user("other")
        await asyncio.sleep(max(0.0, ended_at_s - time.monotonic()))
        return {
            "credentials": key,
            "agent": "golden",
            "expect": "five",
            "other_token": other,
            "expired_token": ended,
            "person": ("checker", PASSWORD),
            "kill": lambda: server.restart(kill=True),
        }

    return asyncio.run(made())


@pytest.mark.timeout(120)
def test_our_server_keeps_every_promise(server: ServerProcess, given: dict[str, Any]) -> None:
    report = asyncio.run(check(server.url, **given, workers=3))
    assert report.exit_code == 0, as_text(report)
    assert not report.of("not_checked"), as_text(report)


def test_agents_that_use_no_tools_or_fail_are_in_order_too(server: ServerProcess, given: dict[str, Any]) -> None:
    async def checked() -> list[Report]:
        options = {**given, "expect": "any", "categories": ("golden_path", "resume")}
        async with asyncio.TaskGroup() as tasks:
            checks = [
                tasks.create_task(check(server.url, **{**options, "agent": agent}))
                for agent in ("plain", "failing", "tool_fails")
            ]
        return [one.result() for one in checks]

    for report in asyncio.run(checked()):
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


@pytest.fixture(scope="module")
def ways(server: ServerProcess) -> dict[str, tuple[tuple[str, ...], str]]:
    """Give how each way in is said, and its secret."""

    async def made() -> dict[str, tuple[tuple[str, ...], str]]:
        async with asyncio.TaskGroup() as tasks:
            person = tasks.create_task(server.create_user("person", password=PASSWORD))
            robot = tasks.create_task(server.create_user("robot", role="service"))
        return {
            "token": (("--token", person.result()), ""),
            "user": (("--user", "person", "--password-stdin"), PASSWORD),
            "client": (("--client-id", "robot", "--password-stdin"), robot.result()),
        }

    return asyncio.run(made())


async def _checked(server: ServerProcess, tmp_path: Path, words: tuple[str, ...], secret: str) -> tuple[int, str]:
    options = ("--agent", "golden", "--only", "golden_path", "--report", "report.md")
    status, out, err = await command(server.url, *words, *options, cwd=tmp_path, stdin=f"{secret}\n".encode())
    return status, out + err


@pytest.mark.parametrize("way", ["token", "user", "client"])
async def test_each_way_in_is_taken_and_its_secret_is_said_nowhere(
    server: ServerProcess, ways: dict[str, tuple[tuple[str, ...], str]], tmp_path: Path, way: str
) -> None:
    words, secret = ways[way]
    status, said = await _checked(server, tmp_path, words, secret)
    assert status == 0, said
    assert (secret or words[1]) not in said + (tmp_path / "report.md").read_text("utf-8")


@pytest.mark.parametrize("way", ["token", "user", "client"])
async def test_a_wrong_secret_could_not_be_checked_and_a_sentence_says_why(
    server: ServerProcess, ways: dict[str, tuple[tuple[str, ...], str]], tmp_path: Path, way: str
) -> None:
    words = ("--token", "rw_wrong") if way == "token" else ways[way][0]
    status, said = await _checked(server, tmp_path, words, "wrong-secret-here")
    assert status == 2, said
    assert {"token": "credentials are refused", "user": "password", "client": "no such service account"}[way] in said
    assert "wrong-secret-here" not in said


def test_many_checks_at_once_raise_no_alarm(server: ServerProcess, given: dict[str, Any]) -> None:
    assert asyncio.run(_alarms(server, given, at_once=4, times=4, categories=("golden_path", "resume"))) == []


async def _alarms(
    server: ServerProcess, given: dict[str, Any], *, at_once: int, times: int, **options: Any
) -> list[str]:
    """Return the reports of those checks that did not pass, of so many, some at once."""
    free = asyncio.Semaphore(at_once)

    async def one() -> Report:
        async with free:
            return await check(server.url, **{**given, **options})

    async with asyncio.TaskGroup() as tasks:
        checks = [tasks.create_task(one()) for _ in range(times)]
    return [as_text(task.result()) for task in checks if task.result().exit_code]


@pytest.mark.campaign
@pytest.mark.timeout(1_800)
def test_twenty_full_checks_and_two_hundred_golden_paths_under_load_raise_no_alarm(
    server: ServerProcess, given: dict[str, Any]
) -> None:
    async def under_load() -> list[str]:
        async with asyncio.TaskGroup() as tasks:
            full = tasks.create_task(_alarms(server, {**given, "kill": None}, at_once=2, times=20, workers=2))
            paths = tasks.create_task(_alarms(server, given, at_once=4, times=200, categories=("golden_path",)))
        return full.result() + paths.result()

    assert asyncio.run(under_load()) == []
