"""A stop while a process starts: it ends at once and with status 0, whatever it waits for just then."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cluster.deployment import SECRET, Cluster, free_port

_WITHIN_S = 3.0  # a second is promised
_SLOW = "from pathlib import Path\nimport time\nPath('mark').touch()\nwhile True:\n    time.sleep(1)\n"
_GRUDGING = _SLOW.replace(
    "    time.sleep(1)", "    try:\n        time.sleep(1)\n    except BaseException:\n        pass"
)


def started(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "runwire", "serve", *words, "--port", "0"]
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)


async def until(is_so: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(15):
        while not is_so():
            assert process.poll() is None, "it has ended before it was told to"
            await asyncio.sleep(0.01)


async def stopped(process: subprocess.Popen[bytes], folder: Path, is_so: Callable[[], bool], how: int) -> None:
    try:
        await until(is_so, process)
        began_s = time.monotonic()
        process.send_signal(how)
        assert await asyncio.to_thread(process.wait, 15) == 0
        assert time.monotonic() - began_s < _WITHIN_S
    finally:
        process.kill()
        process.wait()
    said = (folder / "said").read_text()
    assert "Traceback" not in said
    assert "ready " not in said


def settings(cluster: Cluster, folder: Path) -> None:
    lines = {
        "environment": "test",
        "database_url": cluster.url,
        "service_secret": SECRET,
        "public_url": "http://127.0.0.1:1",
        "auth_url": f"http://127.0.0.1:{free_port()}",  # nobody is there
    }
    text = "".join(f'{name} = "{value}"\n' for name, value in lines.items())
    (folder / "runwire.toml").write_text(text, encoding="utf-8")


async def test_a_gateway_that_waits_for_its_auth_service(cluster: Cluster, tmp_path: Path) -> None:
    settings(cluster, tmp_path)
    process = started(tmp_path, "--role", "gateway")
    await stopped(process, tmp_path, lambda: b"waiting for" in (tmp_path / "said").read_bytes(), signal.SIGTERM)


@pytest.mark.parametrize("module", [_SLOW, _GRUDGING])
async def test_a_worker_whose_agents_take_long_to_import(cluster: Cluster, tmp_path: Path, module: str) -> None:
    settings(cluster, tmp_path)
    (tmp_path / "agent.py").write_text(module, encoding="utf-8")
    process = started(tmp_path, "agent.py", "--role", "worker")
    await stopped(process, tmp_path, (tmp_path / "mark").exists, signal.SIGTERM)


async def test_an_auth_service_whose_database_does_not_answer(cluster: Cluster, tmp_path: Path) -> None:
    settings(cluster, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts, and nobody answers
        nowhere = f"postgresql://ada:hush@127.0.0.1:{silent.getsockname()[1]}/none"
        config = tmp_path / "runwire.toml"
        config.write_text(config.read_text(encoding="utf-8").replace(cluster.url, nowhere), encoding="utf-8")
        process = started(tmp_path, "--role", "auth")
        await stopped(process, tmp_path, lambda: b"settings" in (tmp_path / "said").read_bytes(), signal.SIGTERM)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="how a process takes signals is read from there")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_that_has_not_even_imported_what_it_needs(tmp_path: Path, how: int) -> None:
    process = started(tmp_path, "agent.py")

    def takes_signals() -> bool:
        lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
        (caught,) = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")]
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    await stopped(process, tmp_path, takes_signals, how)
    assert os.listdir(tmp_path) == ["said"]  # nothing was begun
