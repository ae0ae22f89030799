"""A server that tests may kill: it comes back on its folder and port, and what it said is there to read."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

import runwire
from runwire.errors import Unavailable
from runwire.testing import ServerProcess

AGENTS = str(Path(__file__).parent.parent / "agents" / "golden.py")


def test_killed_and_started_again_it_has_the_same_port_and_the_same_runs(tmp_path: Path) -> None:
    async def run() -> None:
        async with ServerProcess(AGENTS, data_dir=tmp_path / "data") as server:
            key = await server.create_user("ada", password="correct horse")
            url, pid = server.url, server.pid
            async with runwire.connect(url, key) as client:
                sent = await client.send("hello", agent="plain")
                assert await sent.result() == "echo hello"
                await server.kill9()
                assert not server.is_running
                with pytest.raises(ProcessLookupError):
                    os.kill(pid, 0)
                await server.start()
                assert server.url == url
                again = [item.type async for item in sent.events()]
            assert again[-1] == "agent_completed"
            signed = await runwire.sign_in(url, user="ada", password="correct horse")
            assert signed.user == client.user
            await server.stop()
            assert not server.is_running

    asyncio.run(run())


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def agent(:\n")

    async def run() -> None:
        async with ServerProcess(str(tmp_path / "broken.py"), data_dir=tmp_path / "data"):
            pass

    with pytest.raises(Unavailable, match=r"(?s)ended with status 78.*broken\.py"):
        asyncio.run(run())


def test_a_verb_that_fails_says_why(tmp_path: Path) -> None:
    server = ServerProcess(AGENTS, data_dir=tmp_path / "data")
    with pytest.raises(Unavailable, match="user add"):
        asyncio.run(server.create_token("nobody"))
