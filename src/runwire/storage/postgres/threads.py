"""Conversations in PostgreSQL."""

from __future__ import annotations

import builtins
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from runwire.errors import NotFound
from runwire.protocol.ids import new_id
from runwire.storage.base import CancelRequest, ThreadRow
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.postgres.stamping import cancelled
from runwire.storage.sql import load

if TYPE_CHECKING:
    from asyncpg import Record

__all__ = ["ISSUER", "PostgresThreads"]

_SQL: Final = load("postgres.sql")
ISSUER: Final = "builtin"  # the auth service of this installation, whose `sub` is the user id
_DELETED: Final = cancelled(CancelRequest(by="user", reason="thread deleted"))


class PostgresThreads:
    """The conversations of users, in one PostgreSQL database."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def create(self, user: str, *, title: str | None = None) -> ThreadRow:
        """Create an empty thread; the user's row is made on first contact."""
        thread = new_id("th")
        now: int = await self._database.fetchval(_SQL["create_thread"], user, ISSUER, thread, title)
        return ThreadRow(thread=thread, user=user, title=title, head=0, floor=0, created_at=now, updated_at=now)

    async def get(self, user: str, thread: str) -> ThreadRow:
        """Return a thread of this user. Raises NotFound."""
        return _found(await self._database.fetchrow(_SQL["thread_row"], thread, user))

    async def get_many(self, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], ThreadRow]:
        """Return threads of users; see `Threads.get_many`."""
        users, threads = [user for user, _ in pairs], [thread for _, thread in pairs]
        rows = await self._database.fetch(_SQL["thread_rows"], threads, users)
        return {(row[1], row[0]): _found(row) for row in rows}

    async def list(self, user: str, *, before: str | None = None, limit: int = 50) -> builtins.list[ThreadRow]:
        """List a user's threads, newest first."""
        return [_found(row) for row in await self._database.fetch(_SQL["list_threads"], user, before, limit)]

    async def rename(self, user: str, thread: str, title: str | None) -> ThreadRow:
        """Set the title. Raises NotFound."""
        return _found(await self._database.fetchrow(_SQL["rename_thread"], thread, user, title))

    async def delete(self, user: str, thread: str) -> builtins.list[str]:
        """Leave a tombstone and call off what is unfinished; see `Threads.delete`."""
        stop: builtins.list[str] | None = await self._database.fetchval(_SQL["delete_thread"], user, thread, *_DELETED)
        if stop is None:
            raise no_thread()
        return stop

    async def reset_from(self, thread: str) -> int:
        """Return PROTOCOL's `from` for a reset of this thread. Raises NotFound."""
        seq: int | None = await self._database.fetchval(_SQL["reset_from"], thread)
        if seq is None:
            raise no_thread()
        return seq


def no_thread() -> NotFound:
    """Return the error for a thread that is unknown, deleted, or somebody else's."""
    return NotFound("There is no such thread.", field="thread")


def _found(row: Record | None) -> ThreadRow:
    if row is None:
        raise no_thread()
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
