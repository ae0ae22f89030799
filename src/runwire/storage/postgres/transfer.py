"""Export of a PostgreSQL database: its rows as lines of `storage/transfer.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, BinaryIO, Final

import asyncpg

from runwire.errors import NotFound
from runwire.storage.clock import now_ms
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.sql import load
from runwire.storage.transfer import FORMAT, KINDS, Header, Record, kind_of, write_export
from runwire.storage.transfer_rows import BLOCKS, record_of

if TYPE_CHECKING:
    from asyncpg import Connection
    from asyncpg import Record as PgRecord

__all__ = ["Progress", "beside", "export_database", "records_of"]

Progress = Callable[[int, int], None]  # (done, in all)

_SQL: Final = load("postgres_transfer.sql")
_STATEMENT_S: Final = 3_600.0
_ROWS: Final = 256  # read in one go


async def export_database(
    url: str,
    out: BinaryIO,
    *,
    release: str,
    user_name: str | None = None,
    user: str | None = None,
    progress: Progress | None = None,
) -> Header:
    """Write an export of a database as it is at one moment, while servers use it.

    Args:
        url: of a database that `migrate` has made ready.
        out: where the lines go, one at a time, in a thread.
        release: of this program, for the header.
        user_name: only what belongs to the user of this name.
        user: only what belongs to the user of this id, whose account may be in another database.
        progress: called now and then.

    Raises:
        ConfigurationError: the database cannot be used.
        NotFound: no such user.
        Unavailable: it cannot be read.
        OSError: `out` does not take it.
    """
    async with beside(url) as (connection, log):
        await connection.execute(_SQL["be_patient"])
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            user = user if user_name is None else await _user(connection, user_name)
            counts = {kind_of(kind): await connection.fetchval(_SQL[BLOCKS[kind].counting], user) for kind in KINDS}
            header = Header(format=FORMAT, release=release, log=log, created_at=now_ms(), user=user_name, counts=counts)
            records = records_of(connection, user, sum(counts.values()), progress)
            await asyncio.to_thread(write_export, out, header, records)
    return header


@asynccontextmanager
async def beside(url: str, *, is_importing: bool = False) -> AsyncIterator[tuple[Connection[PgRecord], str]]:
    """Give a connection with time, and the log of its history."""
    database = await PostgresDatabase.open(url, is_importing=is_importing)
    try:
        async with database.alone(statement_timeout_s=_STATEMENT_S) as connection:
            yield connection, database.log
    finally:
        await database.close()


async def _user(connection: Connection[PgRecord], name: str) -> str:
    user: str | None = await connection.fetchval(_SQL["account_of_name"], name)
    if user is None:
        raise NotFound(f"There is no user {name}; `runwire user list` shows who there is.", field="--user")
    return user


def records_of(
    connection: Connection[PgRecord], user: str | None, total: int, progress: Progress | None
) -> Iterator[Record]:
    """Yield every record, in the caller's transaction; not in the thread of the connection's loop, which must go on."""
    loop = asyncio.get_running_loop()

    def read() -> Iterator[Record]:
        done = 0
        for kind in KINDS:
            opened = connection.cursor(_SQL[BLOCKS[kind].reading], user)
            cursor = asyncio.run_coroutine_threadsafe(_begun(opened), loop).result()
            while rows := asyncio.run_coroutine_threadsafe(cursor.fetch(_ROWS), loop).result():
                for row in rows:
                    yield record_of(kind, tuple(row))
                done += len(rows)
                if progress is not None:
                    progress(done, total)

    return read()


async def _begun(opened: asyncpg.cursor.CursorFactory[PgRecord]) -> asyncpg.cursor.Cursor[PgRecord]:
    return await opened
