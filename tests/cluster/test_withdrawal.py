"""Access that an auth service withdraws over HTTP, in a process that knows no run, ends runs wherever they are."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from tests.cluster.deployment import Cluster
from tests.outside import Outside, http

PASSWORD = "correct horse battery staple"
WITHIN_S = 15.0  # takes about a second where nothing else runs


class Runs:
    """What the database says of some runs."""

    def __init__(self, connection: asyncpg.Connection, runs: list[str]) -> None:
        self._connection = connection
        self._runs = runs

    async def states(self) -> list[str]:
        rows = await self._connection.fetch("SELECT id, status, worker FROM run WHERE id = ANY ($1)", self._runs)
        found = {row["id"]: row["status"] + ("" if row["worker"] is None else ", held") for row in rows}
        return [found[run] for run in self._runs]

    async def become(self, wanted: list[str]) -> None:
        states: list[str] = []
        try:
            async with asyncio.timeout(WITHIN_S):
                while (states := await self.states()) != wanted:  # noqa: ASYNC110 - rows of a database
                    await asyncio.sleep(0.05)
        except TimeoutError:
            assert states == wanted


@pytest.mark.timeout(60)  # some verbs of the command line, each a process
async def test_what_runs_queues_and_waits_ends_when_its_user_is_disabled_or_deleted_elsewhere(cluster: Cluster) -> None:
    url = cluster.gateways[0].url
    await cluster.cli("user", "add", "root", "--role", "admin", "--password-stdin", stdin=PASSWORD)
    _, root = await asyncio.to_thread(http, "POST", f"{url}/auth/sessions", {"user": "root", "password": PASSWORD})
    connection = await asyncpg.connect(cluster.url)
    try:
        other = Outside(url, await cluster.key("otto"))
        async with other.connected():
            spared = Runs(connection, [(await other.send("hello", agent="asks"))["run"]])
            await spared.become(["waiting"])
            for name, method, what in (("dora", "POST", "/disable"), ("dirk", "DELETE", "")):
                one = Outside(url, await cluster.key(name))
                async with one.connected() as welcome:
                    walked = await one.send("hello", agent="walk")
                    queued = await one.send("hello", agent="walk", thread=walked["thread"])
                    asked = await one.send("hello", agent="asks")
                    runs = Runs(connection, [walked["run"], queued["run"], asked["run"]])
                    await runs.become(["running, held", "queued", "waiting"])
                    path = f"{url}/auth/users/{welcome['user']}{what}"
                    status, _ = await asyncio.to_thread(http, method, path, None, token=root["access_token"])
                    assert status in (200, 204)
                    await runs.become(["cancelled"] * 3)
            assert await spared.states() == ["waiting"]
    finally:
        await connection.close()
