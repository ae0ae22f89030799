"""A supervisor that speaks sd_notify, in systemd's place: what it is told by a real server, and when."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

import httpx2
import pytest

from runwire.app.supervisor import Supervisor
from runwire.settings import Supervision, supervision
from runwire.testing.server import ServerProcess

WATCHDOG_S = 0.6


class Listener:
    """The socket that `NOTIFY_SOCKET` names, and what has come."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    async def next(self, *, timeout_s: float = 20.0) -> str:
        async with asyncio.timeout(timeout_s):
            return (await asyncio.get_running_loop().sock_recv(self._socket, 4_096)).decode()

    async def until(self, said: str, *, timeout_s: float = 20.0) -> list[str]:
        """Return what came before this."""
        before: list[str] = []
        while said not in (now := await self.next(timeout_s=timeout_s)).split("\n"):
            before.append(now)
        return before

    def drain(self) -> int:
        """Return how many have come."""
        count = 0
        while True:
            try:
                self._socket.recv(4_096)
            except BlockingIOError:
                return count
            count += 1

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("kind", ["file", "abstract"])
async def test_it_is_told_when_the_server_serves_lives_and_stops(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(tmp_path / "notify") if kind == "file" else f"@runwire-test-{os.getpid()}"
    listener = Listener(address)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", str(round(WATCHDOG_S * 1_000_000)))
    server = ServerProcess("runwire.guide:agent", data_dir=tmp_path / "data")
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.start())
            await listener.until("READY=1")
        async with httpx2.AsyncClient(timeout=10) as http:
            (await http.get(f"{server.url.rstrip('/')}/health/ready")).raise_for_status()
        await listener.until("WATCHDOG=1")
        os.kill(server.pid, signal.SIGSTOP)  # a loop that does not turn
        await asyncio.sleep(WATCHDOG_S)
        listener.drain()
        await asyncio.sleep(2 * WATCHDOG_S)
        assert listener.drain() == 0, "nobody who stands still says that he lives"
        os.kill(server.pid, signal.SIGCONT)
        await listener.until("WATCHDOG=1")
        async with asyncio.TaskGroup() as tasks:
            stopping = tasks.create_task(server.stop())
            assert not any("READY=1" in said for said in await listener.until("STOPPING=1"))
        assert stopping.result() == 0
    finally:
        listener.close()
        await server.kill9()


async def test_a_blocked_loop_gives_no_sign_of_life(tmp_path: Path) -> None:
    listener = Listener(str(tmp_path / "notify"))
    async with asyncio.TaskGroup() as tasks:
        living = tasks.create_task(Supervisor(Supervision(str(tmp_path / "notify"), 0.03)).live())
        await listener.until("WATCHDOG=1")
        await listener.until("WATCHDOG=1")
        listener.drain()
        time.sleep(0.3)  # noqa: ASYNC251 - the block is what is tested
        assert listener.drain() == 0
        await listener.until("WATCHDOG=1")
        living.cancel()
    listener.close()


async def test_a_supervisor_that_is_gone_disturbs_nobody(tmp_path: Path) -> None:
    Supervisor(Supervision(str(tmp_path / "nobody"), None)).say("READY=1")
    await Supervisor(Supervision(None, 1.0)).live()


def test_the_environment_is_read_as_systemd_means_it() -> None:
    mine = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    assert supervision(mine) == Supervision("@x", 30.0)
    assert supervision(mine | {"WATCHDOG_PID": "1"}) == Supervision("@x", None), "it is for another process"
    assert supervision({"WATCHDOG_USEC": "0"}) == Supervision(None, None)
    assert supervision({}) == Supervision(None, None)
