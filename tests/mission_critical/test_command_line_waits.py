"""What a run asks, in a terminal and in a pipe; answers and retries by command."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.mission_critical.deployment import AGENTS

import runwire
from runwire.testing import ServerProcess

WAITING = AGENTS.with_name("waiting.py")
WAIT_S = 30

pytestmark = pytest.mark.timeout(90)


class Terminal:
    """A `runwire run` on a terminal of its own."""

    def __init__(self, process: asyncio.subprocess.Process, number: int) -> None:
        self.process = process
        self.screen = ""
        self._number = number
        self._heard = asyncio.Event()
        asyncio.get_running_loop().add_reader(number, self._hear)

    def _hear(self) -> None:
        try:
            self.screen += os.read(self._number, 65_536).decode()
        except OSError:  # the other side is closed
            asyncio.get_running_loop().remove_reader(self._number)
        self._heard.set()

    async def until(self, text: str, *, count: int = 1) -> str:
        async with asyncio.timeout(WAIT_S):
            while self.screen.count(text) < count:
                self._heard.clear()
                await self._heard.wait()
        return self.screen

    def type(self, text: str) -> None:
        os.write(self._number, text.encode())


@asynccontextmanager
async def terminal(server: ServerProcess, *words: str) -> AsyncIterator[Terminal]:
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runwire", "run", *words, "--data-dir", str(server.data_dir),
        stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "NO_COLOR": "1", "TERM": "dumb"},  # noqa: TID251
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        asyncio.get_running_loop().remove_reader(ours)
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("waits")
    process = ServerProcess(str(WAITING), data_dir=folder / "data", cwd=folder)
    asyncio.run(process.start())
    yield process
    asyncio.run(process.kill9())


async def _command(server: ServerProcess, *words: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "runwire", *words, "--data-dir", str(server.data_dir)],
        capture_output=True, text=True, timeout=WAIT_S, stdin=subprocess.DEVNULL,
    )  # fmt: skip


async def test_a_run_at_a_terminal_asks_until_it_is_answered_here_or_elsewhere(server: ServerProcess) -> None:
    async with terminal(server, "/srv", "--agent", "approves") as shown:
        await shown.until("approve? [y/n]")
        shown.type("maybe\n")
        await shown.until("approve? [y/n]", count=2)
        shown.type("y\n")
        assert await shown.process.wait() == 0
        await shown.until("completed in")
        assert "approved" in shown.screen
    assert (server.data_dir.parent / "deleted").read_text(encoding="utf-8") == "/srv\n"
    async with terminal(server, "trip", "--agent", "asks") as shown:
        await shown.until("answer:")
        (wait,) = set(re.findall(r"wt_\w+", shown.screen))
        async with runwire.connect(server.url, await server.create_token("developer")) as client:
            run = (await client.http.runs())["items"][0]["run"]
        done = await _command(server, "answer", run, wait, "Ulm")
        assert done.returncode == 0, done.stderr
        await shown.until("Going to Ulm.")
        assert re.search(r"answer: \r?\n.*answered: \"Ulm\"", shown.screen), shown.screen
        again = await _command(server, "answer", run, wait, "Bonn")
        assert (again.returncode, again.stdout) == (1, "")
        assert "answered this otherwise" in again.stderr


async def test_a_run_in_a_pipe_says_how_to_answer_and_waits_on(server: ServerProcess) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runwire", "run", "/srv", "--agent", "approves", "--json",
        "--data-dir", str(server.data_dir),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr
    async with asyncio.timeout(WAIT_S):
        said = (await process.stderr.readline()).decode()
    words = said.split("runwire ")[1].split()
    assert words[0] == "answer"
    assert words[3] == "true|false"
    wrong = await _command(server, *words[:3], "perhaps")
    assert wrong.returncode == 1
    assert "true or false" in wrong.stderr
    assert (await _command(server, *words[:3], "false")).returncode == 0
    out, _ = await process.communicate()
    events = [json.loads(line) for line in out.decode().splitlines()]
    assert process.returncode == 0
    assert [e["data"]["value"] for e in events if e["type"] == "agent_resumed"] == [False]
    assert events[-1]["data"]["output"] == "Nothing was deleted."


async def test_a_failed_run_is_tried_again_by_command(server: ServerProcess) -> None:
    failed = await _command(server, "run", "please", "--agent", "fails_first", "--json")
    assert failed.returncode == 1
    run = json.loads(failed.stdout.splitlines()[0])["run"]
    again = await _command(server, "retry", run, "--json")
    assert again.returncode == 0, again.stderr
    events = [json.loads(line) for line in again.stdout.splitlines()]
    assert events[0]["data"]["retry_of"] == run
    assert events[-1]["data"]["output"] == "It worked this time."
    nobody = await _command(server, "retry", "run_nobody")
    assert nobody.returncode == 1
    assert "no such run" in nobody.stderr
