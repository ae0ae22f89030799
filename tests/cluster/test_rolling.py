"""Every process of a deployment is replaced under load: people notice a resume and nothing else."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.cluster.deployment import Cluster, RoleProcess
from tests.cluster.rollout import AGENTS_FILE, RETRIED_S, Door, Notes, Tab, program
from tests.outside import http
from tests.postgres import PostgresServer

PASSWORD = "one that is long enough 7"
GAP_S = 20.0  # the spread of a drain (5 s) and what a busy machine adds; p99 is told


class Rollout:
    """A deployment behind two doors, its people, and how it is deployed anew."""

    def __init__(self, folder: Path, url: str, *, people: int, workers: int) -> None:
        self.before = folder / "before.py"
        self.after = folder / "after.py"
        self.before.write_text(AGENTS_FILE.format(code="1", names=["walk", "old"]), encoding="utf-8")
        # The old name of the renamed one stays for a release: runs of it may be under way or queued.
        names = ["walk", "old", "renamed", "new"]
        self.after.write_text(AGENTS_FILE.format(code="2", names=names), encoding="utf-8")
        # Deltas stay, so that all can be compared.
        self.cluster = Cluster(folder, url, workers=workers, auths=2, agents=self.before, compact_after_s=100_000.0)
        self.keys: list[str] = []
        self.people, self.service = Door(), Door()
        self.notes = Notes()
        self.over = asyncio.Event()
        self.names = ["walk", "old"]
        self.signed_in: Counter[int] = Counter()
        self.took: dict[str, float] = {}  # from SIGTERM to the end
        self._count = people
        self._turn = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with self.people.opened(), self.service.opened():
            try:
                await self._start()
                yield
            finally:
                await self.cluster.end()

    async def _start(self) -> None:
        cluster = self.cluster
        self.people.targets, self.service.targets = cluster.gateways, cluster.auths
        for n, gateway in enumerate(cluster.gateways):
            text = gateway.config.read_text(encoding="utf-8")
            asks = f"http://127.0.0.1:{cluster.auths[n].port}"
            assert asks in text
            gateway.config.write_text(text.replace(asks, self.service.url), encoding="utf-8")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(cluster.start())
            tasks.create_task(self._enrol())  # meanwhile: it asks nobody but the database

    async def _enrol(self) -> None:
        """Make people. Few: each verb of the command line is a process, which a busy machine feels."""
        await self.cluster.cli("user", "add", "ann", "--password-stdin", stdin=PASSWORD)
        self.keys = [await self.cluster.key(f"person{n}") for n in range(self._count)]

    def agent(self) -> str:
        self._turn += 1
        return self.names[self._turn % len(self.names)]

    async def deploy(self) -> None:
        """Do as docs/how-to/deploy-with-postgresql.md says: tables, auth services, workers, gateways."""
        cluster = self.cluster
        await _migrate(cluster.marks)
        for auth in cluster.auths:
            await self._replace(auth, self.service)
        for worker in cluster.workers:
            worker.target = str(self.after)
            await self._replace(worker)
        self.names = ["walk", "renamed", "new"]
        for gateway in cluster.gateways:
            await self._replace(gateway, self.people)

    async def _replace(self, process: RoleProcess, door: Door | None = None) -> None:
        """Take it from its door, stop it, start the next one."""
        if door is not None:
            door.away.add(process)
        began_s = time.monotonic()
        status = await process.stop()
        self.took[process.name] = time.monotonic() - began_s
        assert status == 0, f"{process.name} ended with {status}\n{process.logs()}"
        await process.start()
        if door is not None:
            door.away.discard(process)

    async def sign_in(self) -> None:
        """Sign in again and again: nobody is ever told anything but that it worked."""
        while not self.over.is_set():
            status, _ = await asyncio.to_thread(
                http, "POST", f"{self.people.url}/auth/sessions", {"user": "ann", "password": PASSWORD}
            )
            self.signed_in[status] += 1
            await asyncio.sleep(0.7)


async def _migrate(folder: Path) -> None:
    """Run the verb with a patience that a machine under load may need."""
    words = (sys.executable, "-m", "runwire", "migrate")
    process = await asyncio.create_subprocess_exec(*words, cwd=folder, stdout=asyncio.subprocess.DEVNULL)
    async with asyncio.timeout(120):
        assert await process.wait() == 0


async def _roll(rollout: Rollout, *, rounds: int, screens: int) -> None:
    """Deploy so many times under load; each person has so many screens."""
    async with rollout.opened():
        keys = rollout.keys
        tabs = [
            Tab(rollout.people, key, rollout.notes, over=rollout.over, agent=rollout.agent)
            for key in keys
            for _ in range(screens)
        ]
        async with asyncio.TaskGroup() as tasks:
            for tab in tabs:
                tasks.create_task(tab.live())
            tasks.create_task(program(rollout.people, keys[0], rollout.notes, over=rollout.over, agent=rollout.agent))
            tasks.create_task(rollout.sign_in())
            for _ in range(rounds):
                await rollout.deploy()
            before = rollout.notes.agents["new"]
            async with asyncio.timeout(30):
                while rollout.notes.agents["new"] == before:  # noqa: ASYNC110 - people's screens tell it
                    await asyncio.sleep(0.1)
            rollout.over.set()
        for tab in tabs:
            await tab.check()


def _judge(rollout: Rollout) -> str:
    notes = rollout.notes
    said = (
        f"{len(notes.sents)} runs of tabs {dict(notes.agents)}, ends {dict(notes.ends)}, handed over"
        f" {dict(notes.retrying)}, refused {dict(notes.refusals)}, sign-ins {dict(rollout.signed_in)},"
        f" stopped within {max(rollout.took.values()):.1f} s, gap on a screen p99 {notes.gap_s(0.99):.2f} s,"
        f" longest {max(notes.gaps_s):.2f} s"
    )
    assert not notes.failures, notes.failures
    assert set(notes.ends) == {"bye 4001"}, said
    assert set(notes.notices) == {"draining"}, dict(notes.notices)
    assert set(notes.refusals) <= {"unavailable"}, said
    assert max(notes.retried_s, default=0.0) <= RETRIED_S, said
    assert notes.retrying, "no run was handed over: nothing was proven"
    assert set(notes.retrying) <= {"drained", "deploy"}, said
    assert set(rollout.signed_in) == {201}, said
    assert notes.agents["renamed"], said
    assert notes.agents["by the client"], said
    assert max(notes.gaps_s) <= GAP_S, said
    for sent in notes.sents:
        assert rollout.cluster.marked(f"worked-{sent['run']}") == [str(n) for n in range(8)], "a tool was called twice"
    return said


@pytest.mark.timeout(240)
async def test_each_process_is_replaced_under_load_and_people_notice_a_resume_and_nothing_else(
    postgres_server: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = await postgres_server.create_database()
    rollout = Rollout(tmp_path, url, people=1, workers=2)
    await _roll(rollout, rounds=1, screens=4)
    request.node.user_properties.append(("fleet", f"rolling deploy: {_judge(rollout)}"))


@pytest.mark.campaign
@pytest.mark.timeout(1800)
async def test_ten_deploys_in_a_row_under_load(
    postgres_server: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    began_s = time.monotonic()
    rollout = Rollout(tmp_path, await postgres_server.create_database(), people=12, workers=3)
    await _roll(rollout, rounds=10, screens=2)
    request.node.user_properties.append(
        ("fleet", f"ten rolling deploys in {time.monotonic() - began_s:.0f} s: {_judge(rollout)}")
    )
