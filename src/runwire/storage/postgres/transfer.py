"""Export and import of a PostgreSQL database: its rows as lines of `storage/transfer.py`, and back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import asyncpg

from runwire.errors import Conflict, NotFound, ProtocolError, Unavailable
from runwire.storage.clock import now_ms
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.sql import load
from runwire.storage.transfer import FORMAT, KINDS, Damaged, Header, Record, Run, kind_of, read_export, write_export
from runwire.storage.transfer_rows import BLOCKS, Row, record_of, row_of

if TYPE_CHECKING:
    from asyncpg import Connection
    from asyncpg import Record as PgRecord

__all__ = ["export_database", "import_database"]

Progress = Callable[[int, int], None]  # (done, in all)

_SQL: Final = load("postgres_transfer.sql")
_SQLITE: Final = b"SQLite format 3\0"
_STATEMENT_S: Final = 3_600.0
_ROWS: Final = 256  # read, or written, in one go
_BYTES: Final = 4_194_304  # written in one go


async def export_database(
    url: str, out: BinaryIO, *, release: str, user_name: str | None = None, progress: Progress | None = None
) -> Header:
    """Write an export of a database as it is at one moment, while servers use it.

    Args:
        url: of a database that `migrate` has made ready.
        out: where the lines go, one at a time, in a thread.
        release: of this program, for the header.
        user_name: only what belongs to the user of this name.
        progress: called now and then.

    Raises:
        ConfigurationError: the database cannot be used.
        NotFound: no such user.
        Unavailable: it cannot be read.
        OSError: `out` does not take it.
    """
    async with _alone(url) as (connection, log):
        await connection.execute(_SQL["be_patient"])
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            user = None if user_name is None else await _user(connection, user_name)
            counts = {kind_of(kind): await connection.fetchval(_SQL[BLOCKS[kind].counting], user) for kind in KINDS}
            header = Header(format=FORMAT, release=release, log=log, created_at=now_ms(), user=user_name, counts=counts)
            records = _records(connection, user, sum(counts.values()), progress)
            await asyncio.to_thread(write_export, out, header, records)
    return header


async def import_database(url: str, source: Path, *, progress: Progress | None = None) -> Counter[str]:
    """Fill an empty database from an export, whole or not at all; nobody else writes to it meanwhile.

    Returns:
        How many of each kind it has.

    Raises:
        ConfigurationError: the database cannot be used.
        Conflict: the database has something in it.
        ProtocolError: the source is damaged, or is something else.
        Unavailable: it cannot be read or written; the database is as it was.
    """
    try:
        file = source.open("rb")
    except OSError as error:
        raise Unavailable(f"{source} cannot be read ({error.strerror}).", field="FILE") from error
    with file:
        if not file.seekable():
            raise Unavailable(f"{source} is a pipe: write it to a file, and import that.", field="FILE")
        if file.read(len(_SQLITE)) == _SQLITE:
            way = "import it into a data folder, and export that"
            raise ProtocolError(f"{source} is a backup of a data file, which only a data file can be made of: {way}.")
        file.seek(0)
        async with _alone(url) as (connection, _), connection.transaction():
            await connection.execute(_SQL["lock_tables"])
            await _check_empty(connection)
            return await _fill(connection, file, progress)


@asynccontextmanager
async def _alone(url: str) -> AsyncIterator[tuple[Connection[PgRecord], str]]:
    """Give a connection with time, and the log of its history."""
    database = await PostgresDatabase.open(url)
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


def _records(
    connection: Connection[PgRecord], user: str | None, total: int, progress: Progress | None
) -> Iterator[Record]:
    """Yield every record in a thread that is not the connection's loop, which must go on meanwhile."""
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


async def _check_empty(connection: Connection[PgRecord]) -> None:
    row = await connection.fetchrow(_SQL["contents"])
    if row is not None and any(row):
        accounts, threads, runs, people = row
        has = f"{max(accounts, people)} users, {threads} threads and {runs} runs"
        raise Conflict(f"The database is not empty: it has {has}. An import needs an empty one: name another.")


async def _fill(connection: Connection[PgRecord], file: BinaryIO, progress: Progress | None) -> Counter[str]:
    counts: Counter[str] = Counter()
    total = size = 0
    waiting: list[tuple[int, Record]] = []  # of one kind
    for number, record in read_export(file):
        if isinstance(record, Header):
            total = sum(record.counts.values())
            continue
        if waiting and (type(record) is not type(waiting[0][1]) or len(waiting) >= _ROWS or size >= _BYTES):
            await _add(connection, waiting)
            waiting, size = [], 0
            if progress is not None:
                progress(sum(counts.values()), total)
        waiting.append((number, record))
        size += _size(record)
        counts[kind_of(record)] += 1
    if waiting:
        await _add(connection, waiting)
    if (gap := await connection.fetchval(_SQL["gaps"])) is not None:
        raise Damaged(f"The events of thread {gap} have a gap, or do not end at its head.")
    if (misplaced := await connection.fetchval(_SQL["misplaced"])) is not None:
        raise Damaged(f"The message, start or end of run {misplaced} is not where it says.")
    return counts


def _size(record: Record) -> int:
    """Return about how large a record is, if it may be large."""
    events = getattr(record, "events", ())
    return sum(len(event.data) for event in events) + len(getattr(record, "data", "")) + 100


async def _add(connection: Connection[PgRecord], numbered: list[tuple[int, Record]]) -> None:
    """Insert records of one kind; of what the database refuses the line is named."""
    try:
        async with connection.transaction():
            await _insert(connection, numbered)
    except _FAULTS as error:
        if len(numbered) > 1:  # again, line by line: to name it
            for one in numbered:
                await _add(connection, [one])
        ((number, record), *_) = numbered
        if isinstance(error, asyncpg.NotNullViolationError):
            raise Damaged(
                f"Line {number}: this {kind_of(record)} names something that no line before it has."
            ) from error
        raise Damaged(f"Line {number}: the database refuses it ({type(error).__name__}).") from error


async def _insert(connection: Connection[PgRecord], numbered: list[tuple[int, Record]]) -> None:
    records = [record for _, record in numbered]
    rows: list[Row] = [row_of(record) for record in records]
    await connection.executemany(_SQL[BLOCKS[type(records[0])].adding], rows)
    pinned = [(run.run, run.pinned.encode()) for run in records if isinstance(run, Run) and run.pinned is not None]
    if pinned:
        await connection.executemany(_SQL["add_pinned"], pinned)


_FAULTS: Final = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, ValueError, OverflowError)
