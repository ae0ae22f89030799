"""A disk without room: nothing acknowledged is lost, refusals are clear, and all goes on when there is room again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.chaos.deployment import ChaosServer
from tests.chaos.oracle import judge_file, stored_events
from tests.outside import Broken, Outside, assert_one_run, http, text_of

NOTICE_S = 15.0  # a full disk is noticed, or its end, within that time; on an idle machine it is one second


class Disk(Protocol):
    """A place for the data folder that can be filled."""

    @property
    def path(self) -> Path: ...
    def fill(self, server: ChaosServer) -> None: ...
    def free(self, server: ChaosServer) -> None: ...


class SmallDisk:
    """A file system of its own, filled with ballast: ENOSPC. Needs the right to mount."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)], check=True, capture_output=True)

    def fill(self, server: ChaosServer) -> None:
        with self._ballast.open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))

    def free(self, server: ChaosServer) -> None:
        self._ballast.unlink()

    def remove(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True)

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"


class Limit:
    """A limit of the server process: no file may be written at all (EFBIG). Anybody may set that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def fill(self, server: ChaosServer) -> None:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def free(self, server: ChaosServer) -> None:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def remove(self) -> None:
        pass


def _may_mount() -> bool:
    """Return whether this process may mount: root of a machine may, a user and most containers may not."""
    words = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return os.geteuid() == 0 and subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


# Always at least one of them runs.
WAYS: dict[str, Callable[[Path], SmallDisk | Limit]] = {"limit": Limit} | ({"disk": SmallDisk} if _may_mount() else {})


# The limit is quicker to have, so the other is left to the campaigns.
@pytest.fixture(params=["limit", *(pytest.param(way, marks=pytest.mark.campaign) for way in WAYS if way != "limit")])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk | Limit]:
    disk = WAYS[request.param](tmp_path / "disk")
    yield disk
    disk.remove()


async def until_ready(server: ChaosServer, is_wanted: bool) -> dict[str, Any]:
    until_s = time.monotonic() + NOTICE_S
    while True:
        status, body = await asyncio.to_thread(http, "GET", f"{server.url}/health/ready")
        if (status == 200) == is_wanted:
            found: dict[str, Any] = body
            return found
        assert time.monotonic() < until_s, f"still {status} {body}\n{server.logs(lines=30)}"
        await asyncio.sleep(0.1)  # another process is asked again


@pytest.mark.timeout(120)
async def test_a_full_disk_loses_nothing_and_all_goes_on_when_there_is_room(disk: Disk, tmp_path: Path) -> None:
    server = ChaosServer(tmp_path / "run", data_dir=disk.path / "data")
    server.environment["CHAOS_FILE_BYTES"] = str(2**40)  # so that the limit, when it comes, is an error and no signal
    server.log_path = disk.path / "server.log"  # what it has to say about it goes to the same disk
    await server.start()
    try:
        ann = Outside(server.url, await server.key("ann"))
        async with ann.connected():
            sent = await ann.send("a long way parts=25", agent="voyage", key="first")
            await ann.until(lambda e: e["type"] == "tool_completed")
            disk.fill(server)
            assert (await until_ready(server, is_wanted=False))["reason"] == "database_unavailable"
            assert (await asyncio.to_thread(http, "GET", f"{server.url}/health/live"))[0] == 200
            reply = await ann.command("send", content="is there room?", agent="voyage", key="refused")
            assert reply["error"]["code"] == "unavailable", reply
            status, problem = await asyncio.to_thread(
                ann.http, "POST", f"/v1/threads/{sent['thread']}/messages", {"content": "here?", "agent": "voyage"}
            )
            assert (status, problem["code"]) == (503, "unavailable"), problem
            # What is stored can be read all the same.
            stored = await asyncio.to_thread(stored_events, ann, sent["thread"])
            held = ann.events[sent["thread"]]
            assert stored[: len(held)] == held
            disk.free(server)
            await until_ready(server, is_wanted=True)
            later = await ann.send("there is room parts=2", agent="voyage", key="refused")
            await ann.until_end(sent["run"])
            await ann.until_end(later["run"]) if later["run"] not in _ended(ann) else None
        stored = await asyncio.to_thread(stored_events, ann, sent["thread"])
        assert stored == ann.events[sent["thread"]]
        assert_one_run(stored, sent["run"])
        assert stored[-1]["type"] == "agent_completed"
        assert {e["attempt"] for e in stored} == {0, 1}  # nobody had to take it over
        assert text_of(stored, sent["run"]).endswith("[24.5]")
        assert len([e for e in server.effects(sent["run"]) if e["phase"] == "begun"]) == 25
        assert "Traceback" not in server.logs(lines=10_000)
    finally:
        await server.kill9()
    await asyncio.to_thread(judge_file, server, is_over=True)


def _ended(client: Outside) -> set[str]:
    return {e["run"] for events in client.events.values() for e in events if e["type"] == "agent_completed"}


@pytest.mark.timeout(120)
async def test_killed_on_a_full_disk_it_has_everything_it_acknowledged(disk: Disk, tmp_path: Path) -> None:
    server = ChaosServer(tmp_path / "run", data_dir=disk.path / "data")
    server.environment["CHAOS_FILE_BYTES"] = str(2**40)
    await server.start()
    try:
        ann = Outside(server.url, await server.key("ann"))
        async with ann.connected():
            sent = await ann.send("a long way parts=15", agent="voyage")
            await ann.until(lambda e: e["type"] == "tool_completed")
            disk.fill(server)
            await until_ready(server, is_wanted=False)
            with contextlib.suppress(TimeoutError):  # what was committed before may still be on its way
                await ann.until(lambda _e: False, timeout_s=0.5)
        await server.kill9()
        if isinstance(disk, SmallDisk):
            said = await server.refused()  # no room: it says so, and names the place
            assert "ended with status 78" in said or "ended with status 1" in said, said
            assert str(server.data_dir) in said
            assert "Traceback" not in said
            disk.free(server)
        await server.start()
        ann.ws_url, ann.url = server.url.replace("http", "ws", 1) + "/v1/ws", server.url
        async with ann.connected():
            await ann.subscribe(sent["thread"])
            await ann.until_end(sent["run"])
        stored = await asyncio.to_thread(stored_events, ann, sent["thread"])
        assert stored == ann.events[sent["thread"]]
        assert_one_run(stored, sent["run"])
        assert stored[-1]["type"] == "agent_completed"
    except Broken:
        print(server.logs())
        raise
    finally:
        await server.kill9()
    await asyncio.to_thread(judge_file, server, is_over=True)
