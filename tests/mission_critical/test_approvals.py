"""Three approvals in one run, each across a restart of everything: asked once, done once, the first answer counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.mission_critical.deployment import AGENTS

import runwire
from runwire.client import Client, Event
from runwire.errors import Conflict
from runwire.testing import ServerProcess

WAITING = str(AGENTS.with_name("waiting.py"))
GOES_ON_S = 3.0  # the promise is 1 s on a machine of its own

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runwire.client.link.random.random", lambda: 0.0)  # a server that was down is not waited for


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with ServerProcess(WAITING, data_dir=tmp_path / "data", cwd=tmp_path) as started:
        yield started


async def _answer(client: Client, run: str, wait: str, value: bool) -> str:
    try:
        await client.answer(run, wait, value)
    except Conflict as error:
        return error.message
    return ""


async def _answer_at_once(client: Client, other: Client, run: str, wait: str) -> bool:
    """Say yes and no at the same moment, and return which of them won."""
    async with asyncio.TaskGroup() as tasks:
        told = [
            tasks.create_task(_answer(client, run, wait, True)),
            tasks.create_task(_answer(other, run, wait, False)),
        ]
    lost = [task.result() for task in told]
    assert sorted(lost) == ["", "You have answered this otherwise, elsewhere."]
    return lost[0] == ""


async def test_three_approvals_across_restarts_are_asked_once_each_and_the_first_answer_counts(
    server: ServerProcess, tmp_path: Path
) -> None:
    key = await server.create_user("ann")
    seen: list[Event] = []
    won: list[bool] = []
    async with runwire.connect(server.url, key) as client, runwire.connect(server.url, key) as other:
        run = await client.send("please", agent="three_times")
        async with asyncio.timeout(90), aclosing(run.events()) as items:
            async for event in items:
                assert isinstance(event, Event)
                seen.append(event)
                if event.type == "agent_waiting":
                    await server.restart(kill=len(won) != 1)
                    won.append(await _answer_at_once(client, other, run.id, event.data["wait"]))
    of: dict[str, list[Any]] = {}
    for event in seen:
        of.setdefault(event.type, []).append(event.data)
    assert [each["prompt"] for each in of["agent_waiting"]] == ["Do one?", "Do two?", "Do three?"]
    assert [each["value"] for each in of["agent_resumed"]] == won
    assert [each["content"] for each in of["message_completed"]] == ["The plan: one, two, three."]
    assert of["agent_completed"][0]["output"] == won
    assert (tmp_path / "deleted").read_text(encoding="utf-8").split() == ["one", "two", "three"]
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    assert Counter(event.type for event in seen)["agent_started"] == 1
    for before, after in pairwise(seen):
        if before.type == "agent_resumed":
            assert (after.ts - before.ts) / 1000 < GOES_ON_S, (before, after)
