"""One process owns one file, and what it acknowledged outlives its death."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from tests.contract.adapters import claim_one, thought

from runwire.protocol.events import decode_data
from runwire.storage.base import Batch, Fenced
from runwire.storage.sqlite.database import SqliteDatabase
from runwire.storage.sqlite.lock import OwnedElsewhere, OwnerLock, read_owner
from runwire.storage.sqlite.storage import SqliteStorage


@contextmanager
def owner(path: Path, what: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Run another process that owns the file; it is killed at the end."""
    program = Path(__file__).with_name("owner.py")
    with subprocess.Popen([sys.executable, program, path, what], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "open\n"
            yield process, process.stdout
        finally:
            process.kill()


async def test_second_process_is_refused_naming_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "data" / "runwire.db"
    with owner(path, "hold") as (process, _):
        with pytest.raises(OwnedElsewhere) as refusal:
            await SqliteDatabase.open(path)
        assert f"process {process.pid}" in refusal.value.message
        assert str(path) in refusal.value.message
        assert refusal.value.owner == read_owner(path)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        database = await SqliteDatabase.open(path)  # at once after kill -9
        await database.close()


async def test_this_process_is_refused_too_until_the_file_is_closed(tmp_path: Path) -> None:
    first = await SqliteDatabase.open(tmp_path / "runwire.db")
    with pytest.raises(OwnedElsewhere):
        await SqliteDatabase.open(tmp_path / "runwire.db")
    await first.close()
    second = await SqliteDatabase.open(tmp_path / "runwire.db")
    assert second.log == first.log
    assert second.incarnation == first.incarnation + 1
    await second.close()


def test_lock_names_its_owner_even_when_its_text_is_torn(tmp_path: Path) -> None:
    lock = OwnerLock(tmp_path / "runwire.db")
    (tmp_path / "runwire.db.lock").write_bytes(b'{"pid":')
    with pytest.raises(OwnedElsewhere, match="another process"):
        OwnerLock(tmp_path / "runwire.db")
    lock.release()
    lock.release()
    OwnerLock(tmp_path / "runwire.db").release()


@pytest.mark.parametrize("acknowledgements", [1, 7, 60, 300])
async def test_acknowledged_events_survive_kill_9_in_the_middle_of_appending(
    tmp_path: Path, acknowledgements: int
) -> None:
    path = tmp_path / "runwire.db"
    acknowledged: dict[str, tuple[str, int]] = {}
    with owner(path, "append") as (process, output):
        for _ in range(acknowledgements):
            thread, run, last = output.readline().split()
            acknowledged[run] = (thread, int(last))
        process.send_signal(signal.SIGKILL)
        for line in output.read().splitlines(keepends=True):
            if line.endswith("\n"):
                thread, run, last = line.split()
                acknowledged[run] = (thread, int(last))
    storage = await SqliteStorage.open(path)
    for run, (thread, last_seq) in acknowledged.items():
        page = await storage.events.read(thread, after=0, limit=10**6, size_bytes=10**9)
        assert page.head >= last_seq
        assert [event.seq for event in page.events] == list(range(1, page.head + 1))
        thoughts = [decode_data(event).text for event in page.events[1:]]
        assert thoughts == [str(number) for number in range(len(thoughts))]
        # The dead owner's attempt cannot write any more; the next one goes on where the log ends.
        zombie = Batch(run=run, attempt=1, ordinal=len(thoughts), events=(thought("zombie"),))
        assert await storage.events.append([zombie]) == [Fenced()]
    claim = await claim_one(storage)
    assert claim.attempt == 2
    assert claim.ordinal == (await storage.threads.get("usr_ada", claim.thread)).head - 1
    await storage.close()
