"""A process is ready when a run of its own has come through: each role alone, and nothing is left of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx2
import pytest
from tests.cluster.deployment import ROLE_AGENTS, Cluster, RoleProcess
from tests.postgres import PostgresServer

from runwire.storage.base import IncomingMessage, Member
from runwire.storage.postgres.storage import PostgresStorage

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).resolve().parents[2]
OWN = """
    SELECT id FROM "user" WHERE id LIKE '~%'
    UNION ALL SELECT agent FROM run WHERE agent LIKE '~%'
"""
SAID = "SELECT agents FROM member WHERE agents LIKE '%~%' AND left_at IS NULL"


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(90):
        while not await is_so():  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.1)


async def readiness(process: RoleProcess) -> str:
    """Return the reason not to be ready, "" if it is, "nobody" if nobody answers."""
    try:
        async with httpx2.AsyncClient(timeout=10) as http:
            answer = await http.get(f"http://127.0.0.1:{process.port}/health/ready")
    except httpx2.TransportError:
        return "nobody"
    assert (answer.status_code == 200) == (answer.json()["status"] == "ok")
    return str(answer.json().get("reason", ""))


async def figure(process: RoleProcess, name: str) -> float:
    async with httpx2.AsyncClient(timeout=10) as http:
        lines = (await http.get(f"{process.url}/metrics")).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@asynccontextmanager
async def held(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Let nobody store an event, as long as this is entered; reading goes on."""
    connection = await asyncpg.connect(url)
    holding = connection.transaction()
    await holding.start()
    await connection.execute("LOCK TABLE segment IN EXCLUSIVE MODE")
    try:
        yield connection
    finally:
        await holding.rollback()
        await connection.close()


async def own(url: str, sql: str = OWN) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return [row[0] for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def test_each_role_tries_itself_and_leaves_no_trace(cluster: Cluster) -> None:
    ada = await cluster.key("ada")
    async with asyncio.TaskGroup() as tasks:
        for process in cluster.gateways + cluster.workers:
            tasks.create_task(process.restart())
    for process in cluster.processes:
        assert await readiness(process) == ""
        has_tried = await figure(process, "process_self_check_seconds") > 0
        assert has_tried == (process.roles != ("auth",)), "who bears no messages has nothing to try"
        assert await figure(process, "process_self_check_failures_total") == 0, "others at once took nothing of it"
        assert await figure(process, "runtime_claimed_runs_total") == 0, "nobody's run is counted"
    async with httpx2.AsyncClient(timeout=10, headers={"Authorization": f"Bearer {ada}"}) as http:
        assert "~" not in (await http.get(f"{cluster.gateways[0].url}/v1/agents")).text
        name = (await own_name(cluster)) or "~nobody"
        threads = f"{cluster.gateways[0].url}/v1/threads"
        thread = (await http.post(threads, json={})).json()["thread"]
        sent = await http.post(f"{threads}/{thread}/messages", json={"agent": name, "content": "hello"})
        assert (sent.status_code, sent.json()["field"]) == (400, "agent"), f"it answers nobody else: {sent.text}"
    assert "~" not in await cluster.cli("members", "--json")

    async def is_clean() -> bool:  # who is ready may still be about to take its own agent back
        return not await own(cluster.url) and not await own(cluster.url, SAID)

    await until(is_clean)


async def own_name(cluster: Cluster) -> str | None:
    connection = await asyncpg.connect(cluster.url)
    try:
        node = await connection.fetchval("SELECT node FROM member WHERE left_at IS NULL LIMIT 1")
    finally:
        await connection.close()
    return f"~{node}" if node else None


async def leave(url: str) -> None:
    """Leave what processes leave that are killed during their self-check: `dead` is gone, `there` may be starting."""
    storage = await PostgresStorage.open(url, lease_s=3.0)
    try:
        for node in ("dead", "there"):
            await storage.members.announce(Member(node=node, roles=("worker",), agents=(f"~{node}",)))
            await storage.runs.send(IncomingMessage(user=f"~{node}", thread=None, agent=f"~{node}", content="?"))
        later = """UPDATE "user" SET created_at = created_at + 600000 WHERE id = '~there'"""
        await storage.database.execute(later)
    finally:
        await storage.close()


async def test_a_database_that_takes_nothing_keeps_all_unready_and_what_the_killed_left_is_deleted(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = await postgres_server.create_database()
    cluster = Cluster(tmp_path, url, agents=ROLE_AGENTS, gateways=1, workers=2, agent_absent_s=3.0)
    unready = [cluster.gateways[0], *cluster.workers]
    for process in unready:
        process.module = "tests.cluster.one_clock"
        process.within = ("env", f"PYTHONPATH={ROOT}:{ROOT / 'src'}")
    await cluster.auths[0].start()
    await leave(url)
    assert sorted(set(await own(url))) == ["~dead", "~there"]
    try:
        async with asyncio.TaskGroup() as tasks:
            async with held(url):
                starting = [tasks.create_task(process.start()) for process in unready[:2]]
                doomed = tasks.create_task(suppressed(unready[2]))
                for process in unready:

                    async def is_waiting(process: RoleProcess = process) -> bool:
                        return await readiness(process) == "self_check" and "self_check_failed" in process.logs()

                    await until(is_waiting)
                assert not any(task.done() for task in starting), "it says that it is ready"
                os.killpg(unready[2].pid, signal.SIGKILL)
                await doomed
                # Too young to be cleared away by who is ready now: it may still be starting.
                await own(url, """UPDATE "user" SET created_at = runwire_now() WHERE id = '~dead' RETURNING id""")
            await asyncio.wait(starting)
        for process in unready[:2]:
            assert await readiness(process) == ""
            assert "self-check, " in process.logs(), "the person who started it reads why"
            assert await figure(process, "process_self_check_failures_total") >= 1

        async def is_clean() -> bool:
            return set(await own(url)) == {"~there"}

        await until(is_clean)
    finally:
        await cluster.end()


async def suppressed(process: RoleProcess) -> None:
    try:
        await process.start()
    except Exception:  # it is killed before it says that it is ready
        return
    raise AssertionError("it says that it is ready")


async def test_without_redis_the_poll_delivers(postgres_server: PostgresServer, tmp_path: Path) -> None:
    url = await postgres_server.create_database()
    cluster = Cluster(tmp_path, url, redis_url="redis://127.0.0.1:1/0", agents=ROLE_AGENTS, workers=0)
    both = cluster.add(("gateway", "worker"), auth_url=f"http://127.0.0.1:{cluster.auths[0].port}")
    try:
        await cluster.auths[0].start()
        await both.start()
        assert await readiness(both) == ""
    finally:
        await cluster.end()
