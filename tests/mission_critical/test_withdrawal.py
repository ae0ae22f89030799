"""An administrator withdraws access over HTTP: whatever was begun for that person ends, wherever it is."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.mission_critical.deployment import Deployment
from tests.outside import Outside, http

PASSWORD = "correct horse battery staple"
WITHIN_S = 15.0  # takes well below a second where nothing else runs
AGENTS = """
from runwire import Context


async def agent(ctx: Context, message: str) -> str:
    await ctx.approve("go on?")
    return "done"
"""


def _unended(data: Path) -> int:
    with closing(sqlite3.connect(f"{(data / 'runwire.db').as_uri()}?mode=ro", uri=True)) as connection:
        (number,) = connection.execute("SELECT count(*) FROM run WHERE terminal_seq IS NULL").fetchone()
    return int(number)


@pytest.mark.parametrize(("method", "what"), [("POST", "/disable"), ("DELETE", "")], ids=["disable", "delete"])
async def test_runs_that_wait_and_runs_that_queue_end_with_the_access_of_whose_they_are(
    tmp_path: Path, method: str, what: str
) -> None:
    agents = tmp_path / "asking.py"
    agents.write_text(AGENTS, encoding="utf-8")
    # Put aside at once, so that no worker holds the one that waits; and one at a time, so that others queue.
    server = Deployment(tmp_path / "server", agents=agents, park_after_s=0, user_run_limit=1)
    await server.start()
    try:
        ann, bob = Outside(server.url, await server.key("ann")), Outside(server.url, await server.key("bob"))
        await server.process.cli("user", "add", "root", "--role", "admin", "--password-stdin", stdin=PASSWORD)
        _, root = await asyncio.to_thread(
            http, "POST", f"{server.url}/auth/sessions", {"user": "root", "password": PASSWORD}
        )
        async with ann.connected() as welcome, bob.connected():
            asked = [await one.send("hello") for one in (ann, ann, bob)]
            for one, sent in ((ann, asked[0]), (bob, asked[2])):
                await one.subscribe(sent["thread"])
                await one.until(lambda event: event["type"] == "agent_waiting")
            assert await asyncio.to_thread(_unended, server.process.data_dir) == 3
            path = f"{server.url}/auth/users/{welcome['user']}{what}"
            status, _ = await asyncio.to_thread(http, method, path, None, token=root["access_token"])
            assert status in (200, 204)
            async with asyncio.timeout(WITHIN_S):
                while await asyncio.to_thread(_unended, server.process.data_dir) > 1:  # noqa: ASYNC110 - a file
                    await asyncio.sleep(0.05)
            # The one that is left is of somebody else, and goes on.
            (wait,) = [
                event["data"]["wait"] for event in bob.events[asked[2]["thread"]] if event["type"] == "agent_waiting"
            ]
            await bob.command("answer", run=asked[2]["run"], wait=wait, value=True)
            await bob.until_end(asked[2]["run"])
        assert await asyncio.to_thread(_unended, server.process.data_dir) == 0
    finally:
        await server.kill9()
