"""`runwire cluster`: a deployment of many processes with one command, which mends itself and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cluster.deployment import ROLE_AGENTS, free_port
from tests.outside import Outside, http
from tests.postgres import PostgresServer

READY = re.compile(r"^(\w+) +\| ready .* \(process (\d+)\)$", re.MULTILINE)


async def until(is_so: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(60):
            while not is_so():  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within 60 s: {what}") from None


def started(words: list[str], *, said: Path, told: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "runwire", *words]
    with said.open("wb") as err, told.open("wb") as out:
        return subprocess.Popen(command, cwd=said.parent, stdout=out, stderr=err, start_new_session=True)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # Where nobody waits for orphans, as in many containers, one that has ended stays as a zombie.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self/stat").exists()


@pytest.mark.timeout(240)
async def test_a_killed_cluster_is_cleared_away_by_the_next_one_and_serves_all_its_databases(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    urls = [await postgres_server.create_database(), await postgres_server.create_database()]
    lines = [
        f"database_url = {json.dumps(urls)}",
        *("[breakers.tool]", "open_s = 5"),  # tables are handed on, too
        *("[[issuers]]", 'name = "company"', 'issuer = "https://id.example"', 'audience = "runwire"'),
    ]
    (tmp_path / "runwire.toml").write_text("\n".join(lines), encoding="utf-8")
    port = free_port()
    words = ["cluster", str(ROLE_AGENTS), "--gateways", "1", "--workers", "1", "--port", str(port)]
    first, second = tmp_path / "first", tmp_path / "second"
    killed = started(words, said=first, told=tmp_path / "out1")
    again: subprocess.Popen[bytes] | None = None
    try:
        await until(lambda: killed.poll() is not None or "Ctrl-C" in (tmp_path / "out1").read_text(), "all are up")
        assert len(re.findall(r"^worker1 +\|   database ", first.read_text(), re.MULTILINE)) == len(urls)
        beside = started(words, said=tmp_path / "beside", told=tmp_path / "out2")
        assert await asyncio.to_thread(beside.wait, 30) == 78
        assert f"its cluster runs, process {killed.pid};" in (tmp_path / "beside").read_text()
        orphans = {int(pid) for _, pid in READY.findall(first.read_text())}
        killed.kill()
        await asyncio.to_thread(killed.wait)
        assert all(map(lives, orphans)), "there is nothing to clear away"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            words[-1] = str(taken.getsockname()[1])
            again = started(words, said=second, told=tmp_path / "out3")
            assert await asyncio.to_thread(again.wait, 60) == 78
        said = second.read_text()
        assert "is left of a cluster that was killed; it is stopped" in said
        assert not any(map(lives, orphans))
        # What a person reads of a port that somebody has, before anything is started: which, why, and no traceback.
        assert f"configuration: port: cannot listen on 127.0.0.1:{words[-1]} (" in said
        assert not READY.findall(said)
        assert "Traceback" not in said + (tmp_path / "beside").read_text()
    finally:
        for process in (killed, again):
            if process is not None and process.poll() is None:
                process.terminate()
                await asyncio.to_thread(process.wait, 60)
        for pid in re.findall(r'\[(\d+), "', (tmp_path / ".runwire-cluster" / "processes.json").read_text()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


@pytest.mark.timeout(240)
async def test_one_command_runs_every_role_mends_what_dies_and_ends_all_of_it(tmp_path: Path) -> None:
    port = free_port()
    words = ["cluster", str(ROLE_AGENTS), "--gateways", "1", "--workers", "1", "--port", str(port)]
    said, told = tmp_path / "err", tmp_path / "out"
    process = started(words, said=said, told=told)
    try:
        await until(lambda: process.poll() is not None or "Ctrl-C" in told.read_text(), "all are up")
        assert process.poll() is None, said.read_text()
        (link,) = re.findall(rf"http://127.0.0.1:{port}/\?link=(\S+)", told.read_text())
        _, granted = await asyncio.to_thread(http, "POST", f"http://127.0.0.1:{port}/auth/sessions", {"link": link})
        person = Outside(f"http://127.0.0.1:{port}", granted["access_token"])
        async with person.connected():
            sent = await person.send("whales", agent="golden")
            (*_, last) = await person.until_end(sent["run"])
            assert last["type"] == "agent_completed"
        pids = {int(pid) for _, pid in READY.findall(said.read_text())}
        (worker,) = [int(pid) for name, pid in READY.findall(said.read_text()) if name == "worker1"]
        os.kill(worker, signal.SIGKILL)
        await until(lambda: len(READY.findall(said.read_text())) > len(pids), "the worker is started again")
        assert "worker1   | ended (SIGKILL); it is started again" in said.read_text()
        pids |= {int(pid) for _, pid in READY.findall(said.read_text())}
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, 60) == 0, said.read_text()
        assert not [pid for pid in pids if lives(pid)], "something of it still runs"
        assert "Traceback" not in said.read_text()
        folder = tmp_path / ".runwire-cluster"
        secrets = re.findall(r"requirepass (\S+)", (folder / "redis.conf").read_text())
        secrets.append((folder / "postgres.secret").read_text())
        assert not [secret for secret in secrets if secret in said.read_text() + told.read_text()]
        assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir() if path.is_file())
    finally:
        if process.poll() is None:
            process.terminate()
            await asyncio.to_thread(process.wait, 60)
        # As root, PostgreSQL's data are not in the folder.
        for data in re.findall(r"up, data in (\S+)/postgres$", said.read_text(), re.MULTILINE):
            await asyncio.to_thread(shutil.rmtree, data, ignore_errors=True)
