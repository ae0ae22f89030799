"""Conversations in SQLite."""

from __future__ import annotations

import builtins
import sqlite3
from collections.abc import Collection
from typing import Final

import msgspec

from runwire.errors import NotFound
from runwire.protocol.ids import new_id
from runwire.storage.base import CancelRequest, ThreadRow
from runwire.storage.clock import now_ms
from runwire.storage.sql import load
from runwire.storage.sqlite.cancelling import Unfinished, call_off
from runwire.storage.sqlite.database import SqliteDatabase

__all__ = ["SqliteThreads", "add_thread", "find_thread", "user_key"]

_SQL: Final = load("sqlite.sql")
_ISSUER: Final = "builtin"  # the auth service of this installation, whose `sub` is the user id


class SqliteThreads:
    """The conversations of users, in one SQLite file."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def create(self, user: str, *, title: str | None = None) -> ThreadRow:
        """Create an empty thread; the user's row is made on first contact."""
        thread, now = new_id("th"), now_ms()

        def work(connection: sqlite3.Connection) -> ThreadRow:
            add_thread(connection, user_key(connection, user, now=now), thread=thread, title=title, now=now)
            return _row(connection, user, thread)

        return await self._database.write(work)

    async def get(self, user: str, thread: str) -> ThreadRow:
        """Return a thread of this user. Raises NotFound."""
        return await self._database.read(lambda connection: _row(connection, user, thread))

    async def get_many(self, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], ThreadRow]:
        """Return threads of users; see `Threads.get_many`."""
        asked = msgspec.json.encode(list(pairs)).decode()
        rows = await self._database.read(
            lambda connection: connection.execute(_SQL["thread_rows"], (asked,)).fetchall()
        )
        return {(row[1], row[0]): _thread_row(row) for row in rows}

    async def list(self, user: str, *, before: str | None = None, limit: int = 50) -> builtins.list[ThreadRow]:
        """List a user's threads, newest first."""
        rows = await self._database.read(
            lambda connection: connection.execute(_SQL["list_threads"], (user, before, limit)).fetchall()
        )
        return [_thread_row(row) for row in rows]

    async def rename(self, user: str, thread: str, title: str | None) -> ThreadRow:
        """Set the title. Raises NotFound."""
        now = now_ms()

        def work(connection: sqlite3.Connection) -> ThreadRow:
            key, _ = find_thread(connection, user, thread)
            connection.execute(_SQL["rename_thread"], (key, title, now))
            return _row(connection, user, thread)

        return await self._database.write(work)

    async def delete(self, user: str, thread: str) -> builtins.list[str]:
        """Leave a tombstone and call off what is unfinished; see `Threads.delete`."""
        log, now = self._database.log, now_ms()

        def work(connection: sqlite3.Connection) -> builtins.list[str]:
            key, _ = find_thread(connection, user, thread)
            runs = [Unfinished(*row) for row in connection.execute(_SQL["unfinished_of_thread"], (key,))]
            call_off(connection, log, runs, CancelRequest(by="user", reason="thread deleted"))
            connection.execute(_SQL["delete_thread"], (key, now))
            return [run.run for run in runs if run.status == "running"]

        return await self._database.write(work)

    async def reset_from(self, thread: str) -> int:
        """Return PROTOCOL's `from` for a reset of this thread. Raises NotFound."""
        found = await self._database.read(
            lambda connection: connection.execute(_SQL["reset_from"], (thread,)).fetchone()
        )
        if found is None:
            raise _no_thread()
        seq: int = found[0]
        return seq


def user_key(connection: sqlite3.Connection, user: str, *, now: int) -> int:
    """Return the key of a user's row, made on first contact."""
    found = (
        connection.execute(_SQL["user_key"], (user,)).fetchall()
        or connection.execute(_SQL["add_user"], (user, _ISSUER, user, now)).fetchall()
    )
    key: int = found[0][0]
    return key


def add_thread(connection: sqlite3.Connection, owner_key: int, *, thread: str, title: str | None, now: int) -> int:
    """Insert an empty thread and return its key."""
    key: int
    ((key,),) = connection.execute(_SQL["add_thread"], (thread, owner_key, title, now)).fetchall()
    return key


def find_thread(connection: sqlite3.Connection, user: str, thread: str) -> tuple[int, int]:
    """Return key and head of a thread of this user. Raises NotFound."""
    found = connection.execute(_SQL["thread_of_user"], (thread, user)).fetchone()
    if found is None:
        raise _no_thread()
    key, head = found
    return key, head


def _row(connection: sqlite3.Connection, user: str, thread: str) -> ThreadRow:
    found = connection.execute(_SQL["thread_row"], (thread, user)).fetchone()
    if found is None:
        raise _no_thread()
    return _thread_row(found)


def _thread_row(row: tuple[str, str, str | None, int, int, int, int]) -> ThreadRow:
    thread, user, title, head, floor, created_at, updated_at = row
    return ThreadRow(
        thread=thread,
        user=user,
        title=title,
        head=head,
        floor=floor,
        created_at=created_at,
        updated_at=updated_at,
    )


def _no_thread() -> NotFound:
    return NotFound("There is no such thread.", field="thread")
