"""A data folder that cannot be written: at start one sentence that names it, in mid-run a pause."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.chaos.deployment import ChaosServer
from tests.chaos.oracle import judge_file, stored_events
from tests.chaos.test_disk import until_ready
from tests.outside import Outside, assert_one_run


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ChaosServer]:
    """A server that was there before, stopped; as root it may not pass over modes, like anybody else."""
    server = ChaosServer(tmp_path, data_dir=tmp_path / "place" / "data")
    server.data_dir.parent.mkdir()
    server.environment["CHAOS_UNPRIVILEGED"] = "1"
    server.environment["CHAOS_READ_ONLY"] = str(tmp_path / "switch")
    await server.start()
    await server.stop()
    yield server
    await server.kill9()
    for path in (server.data_dir.parent, server.data_dir, server.file):
        if path.exists():
            path.chmod(0o700)


def _folder(server: ChaosServer) -> None:
    server.data_dir.chmod(0o500)


def _file(server: ChaosServer) -> None:
    server.file.chmod(0o400)


def _lock_file(server: ChaosServer) -> None:
    server.file.with_name("runwire.db.lock").chmod(0o400)


def _nothing_may_be_made(server: ChaosServer) -> None:
    for file in server.data_dir.iterdir():
        file.unlink()
    server.data_dir.rmdir()
    server.data_dir.parent.chmod(0o500)


def _new_folder(server: ChaosServer) -> None:
    for file in server.data_dir.iterdir():
        file.unlink()
    server.data_dir.chmod(0o500)


def _no_folder(server: ChaosServer) -> None:
    for file in server.data_dir.iterdir():
        file.unlink()
    server.data_dir.rmdir()
    server.data_dir.write_text("a file", encoding="utf-8")


@pytest.mark.parametrize("spoil", [_folder, _file, _lock_file, _nothing_may_be_made, _new_folder, _no_folder])
async def test_what_cannot_be_written_is_named_at_start(
    server: ChaosServer, spoil: Callable[[ChaosServer], None]
) -> None:
    spoil(server)
    said = await server.refused()
    assert "ended with status 78" in said
    faults = [line for line in said.splitlines() if line.startswith("configuration: ")]
    assert any(str(server.data_dir) in fault for fault in faults), said
    assert "Traceback" not in said


def _capabilities(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))


async def test_the_test_build_does_not_pass_over_modes(server: ChaosServer) -> None:
    await server.start()
    assert _capabilities(server.pid) & 0b1110 == 0


def _turn(server: ChaosServer, *, is_read_only: bool) -> None:
    switch = Path(server.environment["CHAOS_READ_ONLY"])
    if is_read_only:
        switch.touch()
    else:
        switch.unlink()


@pytest.mark.timeout(60)
async def test_a_folder_that_turns_read_only_stops_writing_and_nothing_else(server: ChaosServer) -> None:
    await server.start()
    ann = Outside(server.url, await server.key("ann"))
    async with ann.connected():
        sent = await ann.send("a long way parts=20", agent="voyage")
        await ann.until(lambda e: e["type"] == "tool_completed")
        _turn(server, is_read_only=True)
        assert (await until_ready(server, is_wanted=False))["reason"] == "database_unavailable"
        reply = await ann.command("send", content="may I write?", agent="voyage")
        assert reply["error"]["code"] == "unavailable", reply
        reply = await ann.command("cancel", run=sent["run"])
        assert reply["error"]["code"] == "unavailable", reply
        await asyncio.to_thread(stored_events, ann, sent["thread"])  # what is there can be read
        _turn(server, is_read_only=False)
        await until_ready(server, is_wanted=True)
        await ann.until_end(sent["run"])
    stored = await asyncio.to_thread(stored_events, ann, sent["thread"])
    assert stored == ann.events[sent["thread"]]
    assert_one_run(stored, sent["run"])
    assert stored[-1]["type"] == "agent_completed"
    assert "Traceback" not in server.logs(lines=10_000)
    await server.stop()
    await asyncio.to_thread(judge_file, server, is_over=True)
