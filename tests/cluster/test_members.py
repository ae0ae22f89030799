"""Workers with different agents in one deployment: who runs what, and what becomes of a run whose worker is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.deployment import Cluster, RoleProcess
from tests.outside import Outside
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(180)  # a busy machine may take its time to start a process

ABSENT_S = 3.0  # of those that are not to be waited for
LONG_S = 600.0  # of one that comes back, however slowly it starts
PATIENCE_S = 45.0  # for a bound of ABSENT_S, the time that it takes to prove oneself steady, and a poll
AGENT = """
import os

async def {name}(ctx, message):
    return f"{name} {{os.getpid()}}"

agents = {{"{name}": {name}}}
"""


def agent_file(folder: Path, name: str) -> str:
    path = folder / f"agents_{name}.py"
    path.write_text(AGENT.format(name=name), encoding="utf-8")
    return str(path)


@pytest.fixture
async def fleet(postgres_server: PostgresServer, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A gateway that serves no agents, and two workers: one has only `left`, the other only `right`."""
    url = await postgres_server.create_database()
    cluster = Cluster(tmp_path, url, gateways=1, workers=0, agent_absent_s=ABSENT_S)
    left = cluster.add(("worker",), agent_absent_s=LONG_S)
    right = cluster.add(("worker",))
    cluster.workers = [left, right]
    for worker, name in ((left, "left"), (right, "right")):
        worker.target = agent_file(tmp_path, name)
    await cluster.start()
    yield cluster
    await cluster.end()


async def send(ada: Outside, agent: str | None) -> dict[str, Any]:
    async with ada.connected():
        return await ada.command("send", content="hello", agent=agent)


async def run_of(ada: Outside, agent: str | None) -> str:
    reply = await send(ada, agent)
    assert reply["ok"], reply
    return str(reply["data"]["run"])


async def run_of_a_new_agent(ada: Outside, agent: str) -> str:
    """Send as soon as the gateway knows it: at once, unless the machine is too busy to be asked in time."""

    async def look() -> dict[str, Any] | None:
        reply = await send(ada, agent)
        return reply if reply["ok"] else None

    return str((await eventually(look))["data"]["run"])


async def shown(ada: Outside, run: str) -> dict[str, Any]:
    status, found = await asyncio.to_thread(ada.http, "GET", f"/v1/runs/{run}")
    assert status == 200, found
    return dict(found)


async def eventually(look: Callable[[], Awaitable[Any]]) -> Any:
    """Look again and again until it gives something."""
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(int(PATIENCE_S * 10)):
            if found := await look():
                return found
            await asyncio.sleep(0.1)
    raise AssertionError("it did not come about")


async def ended(ada: Outside, run: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        found = await shown(ada, run)
        return found if found["status"] in ("completed", "failed", "cancelled") else None

    return dict(await eventually(look))


async def assert_run_by(ada: Outside, worker: RoleProcess, agent: str | None, *, name: str) -> None:
    found = await ended(ada, await run_of(ada, agent))
    assert (found["status"], found["output"]) == ("completed", f"{name} {worker.pid}")


async def test_fleet_of_different_workers(fleet: Cluster, tmp_path: Path) -> None:
    """One deployment for all of it: starting it is what takes time."""
    left, right = fleet.workers
    ada = Outside(fleet.gateways[0].url, await fleet.key("ada"))
    for _ in range(3):
        await assert_run_by(ada, left, "left", name="left")
        await assert_run_by(ada, right, "right", name="right")
    await _see_who_may_be_asked(fleet, ada)
    renamed = fleet.add(("worker",))
    renamed.target = agent_file(tmp_path, "renamed")
    await _lose_a_worker_and_have_it_back(fleet, ada, meanwhile=renamed)
    await _give_an_agent_another_name(fleet, ada, renamed)


async def _see_who_may_be_asked(fleet: Cluster, ada: Outside) -> None:
    _, page = await asyncio.to_thread(ada.http, "GET", "/v1/agents")
    assert page["items"] == [{"agent": "left", "default": False}, {"agent": "right", "default": False}]
    for unknown in ("nobody", None):
        refused = await send(ada, unknown)
        assert (refused["ok"], refused["error"]["code"]) == (False, "bad_request")
        assert "served here: left, right" in refused["error"]["message"]
    rows = json.loads(await fleet.cli("members", "--json"))
    found = sorted((row["roles"], row["agents"]) for row in rows)
    assert found == [(["auth"], []), (["gateway"], []), (["worker"], ["left"]), (["worker"], ["right"])]
    assert "live" in {row["state"] for row in rows}
    head, *lines = (await fleet.cli("members")).splitlines()
    assert head.split()[:3] == ["NODE", "ROLES", "STATE"]
    assert sorted(line.split()[1] for line in lines) == ["auth", "gateway", "worker", "worker"]


async def _lose_a_worker_and_have_it_back(fleet: Cluster, ada: Outside, *, meanwhile: RoleProcess) -> None:
    """Nobody fails the runs of a worker that comes back within the time for which its word is good."""
    left, right = fleet.workers
    await left.kill9()
    waiting = await run_of(ada, "left")
    for _ in range(3):
        await assert_run_by(ada, right, "right", name="right")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(meanwhile.start())
        # Beyond the time after which the other one would end what nobody has.
        tasks.create_task(asyncio.sleep(ABSENT_S * 1.5))
    assert (await shown(ada, waiting))["status"] == "queued"
    config = left.config.read_text(encoding="utf-8")
    left.config.write_text(config.replace(f"absent_s = {LONG_S}", f"absent_s = {ABSENT_S}"), encoding="utf-8")
    await left.start()
    found = await ended(ada, waiting)
    assert (found["status"], found["output"]) == ("completed", f"left {left.pid}")


async def _give_an_agent_another_name(fleet: Cluster, ada: Outside, renamed: RoleProcess) -> None:
    """By a rolling deploy: new workers first. Who is lost for good after it takes its agent along."""
    left, right = fleet.workers
    found = await ended(ada, await run_of_a_new_agent(ada, "renamed"))
    assert (found["status"], found["output"]) == ("completed", f"renamed {renamed.pid}")
    await assert_run_by(ada, right, "right", name="right")
    await right.stop()  # the old worker says goodbye

    async def is_refused() -> bool:
        reply = await send(ada, "right")
        return not reply["ok"] and "served here: left, renamed." in reply["error"]["message"]

    await eventually(is_refused)
    await renamed.kill9()  # and this one does not
    lost = await ended(ada, await run_of(ada, "renamed"))
    assert (lost["status"], lost["error"]["code"]) == ("failed", "agent_unavailable")
    await assert_run_by(ada, left, "left", name="left")
