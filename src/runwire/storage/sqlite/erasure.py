"""The end of a person's data in a SQLite file."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Final

import msgspec

from runwire.errors import Unavailable
from runwire.storage.base_erasure import Erased
from runwire.storage.base_members import RESERVED
from runwire.storage.clock import now_ms
from runwire.storage.sql import load
from runwire.storage.sqlite.database import SqliteDatabase

__all__ = ["SqliteErasure"]

ROWS: Final = 500  # of each table, deleted by one write: others wait for it some milliseconds
SIZE_BYTES: Final = 4_194_304  # likewise, of events and stored values

_TRIES: Final = 100  # of emptying the write-ahead log: a reader of an older state keeps it, for as long as it reads
_TRY_S: Final = 0.05

_SQL: Final = load("sqlite_erasure.sql")


class SqliteErasure:
    """The end of people's data, in one SQLite file."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def erase(self, user: str, *, is_forced: bool = False) -> Erased:
        """Delete some of what a user has; see `Erasure.erase`."""

        def work(connection: sqlite3.Connection) -> Erased:
            ((unfinished,),) = connection.execute(_SQL["unfinished"], (user,)).fetchall()
            if unfinished and not is_forced:
                return Erased(runs=0, threads=(), unfinished=unfinished, has_more=True)
            if _drop(connection, "segments", user) or _drop(connection, "blobs", user):
                return Erased(runs=0, threads=(), unfinished=unfinished, has_more=True)
            runs = [key for (key,) in connection.execute(_SQL["runs"], (user, ROWS))]
            for block in ("drop_pinned", "drop_waits", "drop_runs") if runs else ():
                connection.execute(_SQL[block], (_text(runs),))
            if len(runs) == ROWS:
                return Erased(runs=len(runs), threads=(), unfinished=unfinished, has_more=True)
            threads = connection.execute(_SQL["threads"], (user, ROWS)).fetchall()
            connection.execute(_SQL["drop_threads"], (_text([key for key, _ in threads]),))
            gone = tuple(ident for _, ident in threads)
            if user.startswith(RESERVED):
                connection.execute(_SQL["drop_user"], (user,))
            return Erased(runs=len(runs), threads=gone, unfinished=0, has_more=len(threads) == ROWS)

        # All that refers to a run goes before it, by the statements above.
        return await self._database.write(work, checks_references=False)

    async def leftovers(self, *, older_s: float) -> list[str]:
        """Return names of processes that left something; see `Erasure.leftovers`."""
        before = now_ms() - round(older_s * 1000)
        rows = await self._database.read(lambda db: db.execute(_SQL["leftovers"], (RESERVED, before)).fetchall())
        return [name for (name,) in rows]

    async def wipe(self, *, is_thorough: bool = False) -> None:
        """Write the file anew, and empty its log; see `Erasure.wipe`."""

        def vacuum(connection: sqlite3.Connection) -> None:
            connection.execute(_SQL["vacuum"])

        def checkpoint(connection: sqlite3.Connection) -> bool:
            ((busy, _, _),) = connection.execute(_SQL["checkpoint"]).fetchall()
            return not busy

        await self._database.alone(vacuum)
        for _ in range(_TRIES):
            if await self._database.alone(checkpoint):
                return
            await asyncio.sleep(_TRY_S)
        raise Unavailable("Somebody reads an older state of the database all the time; try again.", retry_after_s=5.0)


def _drop(connection: sqlite3.Connection, find: str, user: str) -> bool:
    """Delete rows up to the bounds of a write; return whether there may be more."""
    keys: list[int] = []
    size = 0
    for key, size_bytes in connection.execute(_SQL[find], (user,)):
        keys.append(key)
        size += size_bytes
        if len(keys) == ROWS or size >= SIZE_BYTES:
            break
    connection.execute(_SQL[f"drop_{find}"], (_text(keys),))
    return len(keys) == ROWS or size >= SIZE_BYTES


def _text(keys: list[int]) -> str:
    """Return JSON for a statement that takes many rows at once."""
    return msgspec.json.encode(keys).decode()
