"""A data folder that cannot be written: at start one sentence that names it, in mid-run a pause."""

from __future__ import annotations

import asyncio
import shutil
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


def _make_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file", encoding="utf-8")


def _make_missing(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.parent.chmod(0o500)


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir(mode=0o500)


# In this order: each spoils more than the one before, and only the first three are put right again.
_FAULTS: dict[str, Callable[[Path], None]] = {
    "a folder without the right to write": lambda folder: folder.chmod(0o500),
    "a file without it": lambda folder: (folder / "runwire.db").chmod(0o400),
    "a lock file without it": lambda folder: (folder / "runwire.db.lock").chmod(0o400),
    "an empty folder without it": _make_empty,
    "a file in place of the folder": _make_file,
}


def _put_right(folder: Path) -> None:
    if folder.is_dir():
        folder.chmod(0o700)
        for file in folder.iterdir():
            file.chmod(0o600)
    elif folder.exists():
        folder.unlink()
        folder.mkdir()


async def test_what_cannot_be_written_is_named_at_start(server: ChaosServer) -> None:
    for name, spoil in (_FAULTS | {"a folder that cannot be made": _make_missing}).items():
        await asyncio.to_thread(spoil, server.data_dir)
        said = await server.refused()
        assert "ended with status 78" in said, name
        faults = [line for line in said.splitlines() if line.startswith("configuration: ")]
        assert any(str(server.data_dir) in fault for fault in faults), (name, said)
        assert "Traceback" not in said, (name, said)
        await asyncio.to_thread(_put_right, server.data_dir)


def _capabilities(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))


def _turn(server: ChaosServer, *, is_read_only: bool) -> None:
    switch = Path(server.environment["CHAOS_READ_ONLY"])
    if is_read_only:
        switch.touch()
    else:
        switch.unlink()


@pytest.mark.timeout(60)
async def test_a_folder_that_turns_read_only_stops_writing_and_nothing_else(server: ChaosServer) -> None:
    await server.start()
    assert _capabilities(server.pid) & 0b1110 == 0  # else modes would be no hindrance
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
