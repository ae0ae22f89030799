"""What upkeep writes to a SQLite file: short jobs, however long a run or a thread is, and nobody else's rows."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest

from runwire.errors import Unavailable
from runwire.storage.base import IncomingMessage
from runwire.storage.sqlite.database import SqliteDatabase
from runwire.storage.sqlite.storage import SqliteStorage
from runwire.storage.sqlite.upkeep import WRITE_PIECES, SqliteUpkeep

T = TypeVar("T")

_USER = "INSERT INTO user (key, id, iss, sub, created_at) VALUES (1, 'usr_1', 'i', 's', 0)"
_THREAD = "INSERT INTO thread (key, id, user_key, head, created_at, updated_at) VALUES (?1, ?2, 1, ?3, 0, 0)"
_RUN = """INSERT INTO run (key, id, thread_key, user_key, agent, message, seq, status, attempt, started_seq,
  terminal_seq, created_at, ended_at) VALUES (?1, ?2, ?3, 1, 'a', 'm', ?4, 'completed', 1, ?5, ?6, 0, ?7)"""
_SEGMENT = """INSERT INTO segment (thread_key, first_seq, last_seq, run_key, attempt, flags, events)
  VALUES (?1, ?2, ?2, ?3, 1, 0, ?4)"""


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SqliteStorage]:
    opened = await SqliteStorage.open(tmp_path / "runwire.db")
    await opened.database.write(lambda connection: connection.execute(_USER))
    yield opened
    await opened.close()


def event(kind: str, **data: Any) -> bytes:
    return json.dumps([[0, kind, 1, data, ""]]).encode()


async def test_a_message_of_very_many_commits_goes_at_once_and_in_short_writes(
    storage: SqliteStorage, tmp_path: Path
) -> None:
    commits = 6 * WRITE_PIECES
    deltas = [event("text_delta", message="msg_1", offset=n, text="x") for n in range(commits)]
    events = [
        event("user_message", message="msg_0", content="x"),
        event("agent_started", agent="a", message="msg_0"),
        *deltas,
        event("message_completed", message="msg_1", content="x" * commits, complete=True),
        event("agent_completed", output="x", duration_ms=1),
    ]

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute(_THREAD, (1, "th_1", len(events)))
        connection.execute(_RUN, (1, "run_1", 1, 1, 2, len(events), 5))
        connection.executemany(_SEGMENT, [(1, seq, 1, packed) for seq, packed in enumerate(events, start=1)])

    await storage.database.write(fill)
    rows, left = [], set()
    with closing(sqlite3.connect(tmp_path / "runwire.db", check_same_thread=False)) as other:

        def watch(connection: sqlite3.Connection) -> None:
            def trace(statement: str) -> None:
                if statement == "BEGIN IMMEDIATE":
                    stored = b"".join(packed for (packed,) in other.execute("SELECT events FROM segment"))
                    left.add(stored.count(b"text_delta"))
                if statement in ("BEGIN IMMEDIATE", "COMMIT"):
                    rows.append(connection.total_changes)

            connection.set_trace_callback(trace)

        await storage.database.write(watch)
        done = await storage.upkeep.compact(ended_before=10)
        await storage.database.write(lambda connection: connection.set_trace_callback(None))
    assert (done.runs, done.events, done.has_more) == (1, commits, False)
    assert left == {commits, 0}, "a reader in the middle of the message would wait for what never comes"
    assert max(after - before for before, after in pairwise(rows[1:])) <= 2 * WRITE_PIECES
    page = await storage.events.read("th_1", after=0)
    assert [e.seq for e in page.events] == [1, 2, commits + 3, commits + 4]


async def test_what_retention_writes_costs_the_same_in_a_thread_of_any_length(tmp_path: Path) -> None:
    short, long = [await _cost_of_trimming(tmp_path / str(runs), runs) for runs in (100, 20_000)]
    assert long < 3 * short


async def _cost_of_trimming(folder: Path, runs: int) -> int:
    """Delete four runs of a thread that has many, and count SQLite's steps in the writer."""
    storage = await SqliteStorage.open(folder / "runwire.db")
    steps: list[None] = []

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute(_USER)
        connection.execute(_THREAD, (1, "th_1", 3 * runs))
        rows = [(n + 1, f"run_{n}", 1, 3 * n + 1, 3 * n + 2, 3 * n + 3, n) for n in range(runs)]
        connection.executemany(_RUN, rows)

    await storage.database.write(fill)
    await storage.database.write(lambda connection: connection.set_progress_handler(lambda: steps.append(None), 10))
    trimmed = await storage.upkeep.trim(ended_before=4, deleted_before=0, runs=4)
    assert (trimmed.runs, trimmed.threads) == (4, (("th_1", 12),))
    await storage.close()
    return len(steps)


async def test_only_who_needs_no_check_of_references_goes_without(storage: SqliteStorage) -> None:
    def orphan(connection: sqlite3.Connection) -> None:
        connection.execute(_SEGMENT, (4711, 1, 4711, b"[]"))

    def nothing(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT 1").fetchall()

    async def outcome(work: Callable[[sqlite3.Connection], None], *, checks: bool) -> type[Any]:
        try:
            await storage.database.write(work, checks_references=checks)
        except Unavailable as error:
            return type(error.__cause__)
        return type(None)

    async with asyncio.TaskGroup() as group:  # all are queued before the writer has done the first: one group
        tasks = [group.create_task(outcome(nothing if n % 2 else orphan, checks=not n % 2)) for n in range(20)]
    assert [task.result() for task in tasks] == [sqlite3.IntegrityError, type(None)] * 10


class _Interrupted(SqliteDatabase):
    """A database in which something happens after the first read."""

    def __init__(self, database: SqliteDatabase, between: Callable[[], Any]) -> None:
        self.__dict__.update(database.__dict__)
        self._between: Callable[[], Any] | None = between

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        value = await super().read(work)
        if self._between is not None:
            between, self._between = self._between, None
            await between()
        return value


async def test_a_run_with_the_key_of_one_that_was_deleted_meanwhile_is_not_taken_for_it(
    storage: SqliteStorage,
) -> None:
    message = IncomingMessage(user="usr_1", thread=None, agent="a", content="x")
    old = await storage.runs.send(message)
    await storage.threads.delete("usr_1", old.thread)  # which cancels the run

    async def between() -> None:
        await storage.upkeep.trim(ended_before=None, deleted_before=2**50)
        await storage.runs.send(message)

    upkeep = SqliteUpkeep(_Interrupted(storage.database, between))
    await upkeep.compact(ended_before=2**50)
    rows = await storage.database.read(
        lambda connection: connection.execute("SELECT key, status, compacted_at FROM run").fetchall()
    )
    assert rows == [(1, "queued", None)]
