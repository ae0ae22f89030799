"""The writer thread: groups, savepoints, void groups, bounds and cancellation; the readers beside it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from runwire.errors import Conflict, Unavailable
from runwire.storage.sqlite.database import SqliteDatabase
from runwire.storage.sqlite.writer import MAX_GROUP, MAX_QUEUED

ADD = "INSERT INTO user (id, iss, sub, created_at) VALUES (?1, 'test', ?1, 1)"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = await SqliteDatabase.open(tmp_path / "runwire.db")
    yield opened
    await opened.close()


class Blocked:
    """Keeps the writer busy, so that what is queued meanwhile becomes one group."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._is_busy = threading.Event()
        self._may_go = threading.Event()

    async def __aenter__(self) -> Blocked:
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self._group.create_task(self._database.write(self._wait))
        assert await asyncio.to_thread(self._is_busy.wait, 10)
        return self

    async def __aexit__(self, *details: object) -> None:
        self._may_go.set()
        await self._group.__aexit__(None, None, None)

    def queue(self, work: Callable[[sqlite3.Connection], object]) -> asyncio.Task[object]:
        async def outcome() -> object:
            try:
                return await self._database.write(work)
            except (Unavailable, Conflict) as error:
                return error

        return self._group.create_task(outcome())

    def _wait(self, _: sqlite3.Connection) -> None:
        self._is_busy.set()
        assert self._may_go.wait(10)


def add(name: str) -> Callable[[sqlite3.Connection], object]:
    def work(connection: sqlite3.Connection) -> str:
        connection.execute(ADD, (name,))
        return name

    return work


async def names(database: SqliteDatabase) -> list[str]:
    return [
        name for (name,) in await database.read(lambda connection: connection.execute("SELECT id FROM user").fetchall())
    ]


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def statements(database: SqliteDatabase) -> list[str]:
    seen: list[str] = []
    await database.write(lambda connection: connection.set_trace_callback(seen.append))
    return seen


async def test_what_queued_up_is_one_commit_and_one_wake_up(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = await statements(database)
    loop = asyncio.get_running_loop()
    wake_ups: list[object] = []
    wake = loop.call_soon_threadsafe

    def counted(*call: Any, **options: Any) -> asyncio.Handle:
        wake_ups.append(call)
        return wake(*call, **options)

    async with Blocked(database) as writer:
        tasks = [writer.queue(add(f"u{number}")) for number in range(50)]
        await settle()
        seen.clear()
        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    assert [task.result() for task in tasks] == [f"u{number}" for number in range(50)]
    assert seen.count("COMMIT") == 2  # of the job that blocked, and of the group behind it
    assert len(wake_ups) == 2


async def test_group_is_bounded(database: SqliteDatabase) -> None:
    seen = await statements(database)
    async with Blocked(database) as writer:
        for number in range(MAX_GROUP + 1):
            writer.queue(add(f"u{number}"))
        await settle()
        seen.clear()
    assert seen.count("COMMIT") == 3


async def test_no_result_before_the_commit(database: SqliteDatabase) -> None:
    is_committing, may_commit = threading.Event(), threading.Event()

    def trace(statement: str) -> None:
        if statement == "COMMIT":
            is_committing.set()
            assert may_commit.wait(10)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(database.write(lambda connection: connection.set_trace_callback(trace)))
        assert await asyncio.to_thread(is_committing.wait, 10)
        await settle()
        assert not task.done()
        may_commit.set()


async def test_failing_job_undoes_only_itself(database: SqliteDatabase) -> None:
    def fails(connection: sqlite3.Connection) -> None:
        connection.execute(ADD, ("half",))
        raise Conflict("no")

    async with Blocked(database) as writer:
        tasks = [writer.queue(work) for work in (add("a"), fails, add("b"), add("a"), add("c"))]
    results = [task.result() for task in tasks]
    assert results[0::2] == ["a", "b", "c"]
    assert isinstance(results[1], Conflict)
    assert isinstance(results[3], Unavailable)
    assert isinstance(results[3].__cause__, sqlite3.IntegrityError)
    assert await names(database) == ["a", "b", "c"]


async def test_full_disk_voids_the_group_and_only_the_guilty_job_fails(database: SqliteDatabase) -> None:
    ((pages,),) = await database.write(lambda connection: connection.execute("PRAGMA page_count").fetchall())
    await database.write(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages + 40}").fetchall())
    saw_void = []

    def guilty(connection: sqlite3.Connection) -> None:
        try:
            connection.execute(ADD, ("x" * 1_000_000,))
        finally:
            saw_void.append(not connection.in_transaction)

    async with Blocked(database) as writer:
        before = [writer.queue(add(f"before{number}")) for number in range(10)]
        culprit = writer.queue(guilty)
        behind = [writer.queue(add(f"behind{number}")) for number in range(10)]
    error = culprit.result()
    assert isinstance(error, Unavailable)
    assert "SQLITE_FULL" in error.message
    assert saw_void[0], "this test must see SQLite roll everything back"
    expected = [f"before{number}" for number in range(10)] + [f"behind{number}" for number in range(10)]
    assert [task.result() for task in before + behind] == expected
    assert sorted(await names(database)) == sorted(expected)
    assert await database.write(add("later")) == "later"


async def test_commit_that_fails_is_the_fault_of_one_job(database: SqliteDatabase) -> None:
    def guilty(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA defer_foreign_keys = ON")
        connection.execute("INSERT INTO thread (id, user_key, created_at, updated_at) VALUES ('th_1', 4711, 1, 1)")

    async with Blocked(database) as writer:
        tasks = [writer.queue(work) for work in (add("a"), guilty, add("b"))]
    results = [task.result() for task in tasks]
    assert results[0::2] == ["a", "b"]
    assert isinstance(results[1], Unavailable)
    assert await names(database) == ["a", "b"]


async def test_database_that_cannot_be_written_refuses_the_whole_group_at_once(tmp_path: Path) -> None:
    database = await SqliteDatabase.open(tmp_path / "runwire.db")
    await database.write(lambda connection: connection.execute("PRAGMA busy_timeout = 50").fetchall())
    other = sqlite3.connect(tmp_path / "runwire.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="SQLITE_BUSY"):
            await database.write(add("a"))
        other.execute("ROLLBACK")
        assert await database.write(add("b")) == "b"
    finally:
        other.close()
        await database.close()


async def test_queue_is_bounded(database: SqliteDatabase) -> None:
    async with Blocked(database) as writer:
        tasks = [writer.queue(add(f"u{number}")) for number in range(MAX_QUEUED)]
        await settle()
        with pytest.raises(Unavailable) as refusal:
            await database.write(add("one too many"))
        assert refusal.value.retry_after_s
    assert not [task for task in tasks if isinstance(task.result(), Exception)]
    assert len(await names(database)) == MAX_QUEUED


async def test_cancelled_caller_leaves_the_write_whole(database: SqliteDatabase) -> None:
    def both(connection: sqlite3.Connection) -> None:
        add("a")(connection)
        add("b")(connection)

    async with Blocked(database) as writer:
        task = writer.queue(both)
        await settle()
        task.cancel()
    assert task.cancelled()
    await database.write(lambda _: None)
    assert await names(database) == ["a", "b"]


async def test_two_loops_share_a_group(database: SqliteDatabase) -> None:
    async with Blocked(database) as writer:
        here = writer.queue(add("here"))
        elsewhere = asyncio.to_thread(asyncio.run, database.write(add("elsewhere")))
        async with asyncio.TaskGroup() as group:
            there = group.create_task(elsewhere)
            writer._may_go.set()
    assert (here.result(), there.result()) == ("here", "elsewhere")


async def test_readers_cannot_write_and_see_one_moment(database: SqliteDatabase) -> None:
    with pytest.raises(Unavailable, match="SQLITE_READONLY"):
        await database.read(lambda connection: connection.execute(ADD, ("a",)))
    counted, may_count = threading.Event(), threading.Event()

    def twice(connection: sqlite3.Connection) -> list[int]:
        count = "SELECT count(*) FROM user"
        first = connection.execute(count).fetchone()[0]
        counted.set()
        assert may_count.wait(10)
        return [first, connection.execute(count).fetchone()[0]]

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(database.read(twice))
        assert await asyncio.to_thread(counted.wait, 10)
        await database.write(add("a"))
        may_count.set()
    assert reading.result() == [0, 0]
    assert await names(database) == ["a"]


async def test_close_finishes_what_is_queued_and_refuses_the_rest(tmp_path: Path) -> None:
    database = await SqliteDatabase.open(tmp_path / "runwire.db")
    async with Blocked(database) as writer:
        queued = writer.queue(add("a"))
        await settle()
        closing = writer._group.create_task(database.close())
        await settle()
    assert closing.done()
    assert queued.result() == "a"
    for call in (database.write, database.read):
        with pytest.raises(Unavailable):
            await call(lambda _: None)
    await database.close()
    again = await SqliteDatabase.open(tmp_path / "runwire.db")
    assert await names(again) == ["a"]
    await again.close()


async def test_commits_reach_the_disk(database: SqliteDatabase) -> None:
    def settings(connection: sqlite3.Connection) -> list[object]:
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]

    assert await database.write(settings) == ["wal", 2]  # 2: FULL, an fsync for every commit
