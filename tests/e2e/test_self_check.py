"""No server is ready whose own run did not come through: what is broken is found, named, and forgiven when mended."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import sys
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from tests.e2e.test_supervisor import Listener

from runwire.errors import Unavailable
from runwire.testing.server import ServerProcess

FAULTS: Final = {
    "stores no message": "send",
    "claims nothing": "claim",
    "runs no code": "execute",
    "appends nothing": "append",
    "hears nothing": "deliver",
    "doubles": "deliver",
    "loses": "deliver",
    "wrong prev": "deliver",
    "wrong order": "deliver",
    "of another run": "deliver",
    "of another thread": "deliver",
    "another answer": "deliver",
}


class BrokenServer(ServerProcess):
    """A server that is broken as the file `broken_as` says at each moment."""

    def __init__(self, folder: Path, *, fault: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.place = folder / "broken_as"
        self.at = f"http://127.0.0.1:{port}"
        self.break_as(fault)
        super().__init__("runwire.guide:agent", data_dir=folder / "data", port=port, start_timeout_s=120.0)

    def break_as(self, fault: str) -> None:
        new = self.place.with_suffix(".new")
        new.write_text(fault, encoding="utf-8")
        new.replace(self.place)  # a reader sees one fault or the other

    def _command(self) -> list[str]:
        words = super()._command()
        words[words.index("runwire")] = "tests.e2e.broken_server"
        return words


async def ask(http: httpx2.AsyncClient, path: str) -> httpx2.Response | None:
    try:
        return await http.get(path)
    except httpx2.TransportError:
        return None


async def until_unready(http: httpx2.AsyncClient) -> None:
    async with asyncio.timeout(60):
        while True:
            answer = await ask(http, "/health/ready")
            if answer is not None and answer.json().get("reason") == "self_check":
                assert answer.status_code == 503
                return
            await asyncio.sleep(0.05)


async def failures(http: httpx2.AsyncClient) -> dict[str, float]:
    lines = (await http.get("/metrics")).text.splitlines()
    name = 'process_self_check_failures_total{step="'
    return {
        line[len(name) :].partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)
    }


def steps_after(log: str, mark: int) -> list[str]:
    """Return the steps that failed, of each line of the log after the mark."""
    lines = [line for line in log[mark:].splitlines() if "self_check_failed" in line]
    return [line.partition("step=")[2].split()[0] for line in lines]


@pytest.mark.timeout(180)
async def test_whoever_does_not_deliver_is_not_ready_and_says_where_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener(str(tmp_path / "notify"))
    server = BrokenServer(tmp_path, fault=next(iter(FAULTS)))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("BROKEN_AS", str(server.place))
    monkeypatch.setenv("RUNWIRE_LOG_LEVEL", "info")
    try:
        async with asyncio.TaskGroup() as tasks, httpx2.AsyncClient(base_url=server.at, timeout=10) as http:
            hearing = tasks.create_task(listener.until("READY=1", timeout_s=120.0))
            starting = tasks.create_task(server.start())
            await until_unready(http)
            assert (await http.get("/health/live")).status_code == 200, "a restart would mend nothing"
            for fault, step in FAULTS.items():
                server.break_as(fault)
                mark = len(server.logs(lines=100_000))
                async with asyncio.timeout(60):
                    # The try during which the fault began may fail at either; a slow machine, at any.
                    while step not in steps_after(server.logs(lines=100_000), mark)[1:]:
                        assert not starting.done(), f"{fault}: it says that it is ready"
                        await asyncio.sleep(0.05)
                await until_unready(http)
                assert (await failures(http))[step] >= 1
                assert not hearing.done(), f"{fault}: its supervisor hears that it is ready"
            doctor = await examine(server)
            assert [(line["what"], line["state"]) for line in doctor if "self-check" in line["found"]] == [
                ("port", "fault")
            ]
            server.break_as("")
            await starting
            assert (await http.get("/health/ready")).status_code == 200
        assert any("EXTEND_TIMEOUT_USEC=" in one for one in hearing.result()), "or systemd would cut the start off"
        assert await server.stop() == 0
        assert leftovers(server) == []
    finally:
        listener.close()
        await server.kill9()


async def until_leftovers(server: ServerProcess, *, are_there: bool) -> None:
    async with asyncio.timeout(30):
        while bool(leftovers(server)) != are_there:  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.05)


async def ends_early(server: ServerProcess) -> None:
    with pytest.raises(Unavailable):
        await server.start()


async def test_what_a_kill_in_the_middle_leaves_is_deleted_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = BrokenServer(tmp_path, fault="claims nothing")
    monkeypatch.setenv("BROKEN_AS", str(server.place))
    monkeypatch.setenv("BROKEN_TRY_S", "600")  # it is killed before it could clear away after itself
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ends_early(server))
            async with httpx2.AsyncClient(base_url=server.at, timeout=10) as http:
                await until_unready(http)
            await until_leftovers(server, are_there=True)
            await server.kill9()
        assert any(name.startswith("~") for name in leftovers(server))
        server.break_as("")
        await server.start()
        await until_leftovers(server, are_there=False)
    finally:
        await server.kill9()


async def examine(server: ServerProcess) -> list[dict[str, Any]]:
    config = server.data_dir.with_suffix(".toml")
    config.write_text(f'environment = "development"\nport = {server.port}\n', encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runwire", "doctor", "--json", "--only", "network", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        printed, _ = await process.communicate()
    found: list[dict[str, Any]] = json.loads(printed)["findings"]
    return found


def leftovers(server: ServerProcess) -> list[str]:
    """Return all that was ever sent on a folder that no person has used."""
    connection = sqlite3.connect(server.data_dir / "runwire.db")
    try:
        rows = connection.execute("SELECT id FROM user UNION ALL SELECT agent FROM run UNION ALL SELECT id FROM thread")
        return [row[0] for row in rows]
    finally:
        connection.close()
