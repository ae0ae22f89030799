"""Import into a PostgreSQL database, in many short transactions: one that was stopped goes on where it was.

Each transaction also says how far it has come, in a table that exists only until all is there. While it exists,
whoever opens the database is refused. The file is read from its beginning all the same: so what is stored already is
known to be of this very file, and its last line's checksum covers all of it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

import asyncpg
import msgspec

from runwire.errors import Conflict, ProtocolError, Unavailable
from runwire.storage.postgres.transfer import Progress, beside, records_of
from runwire.storage.sql import load
from runwire.storage.transfer import KINDS, Account, ApiKey, Damaged, Header, Record, Run, kind_of, read_export
from runwire.storage.transfer_rows import BLOCKS, Row, row_of

if TYPE_CHECKING:
    from asyncpg import Connection
    from asyncpg import Record as PgRecord

__all__ = ["import_database"]

_SQL: Final = load("postgres_transfer.sql")
_SQLITE: Final = b"SQLite format 3\0"
_ROWS: Final = 256  # written in one go, and one transaction: a disk that takes 5 ms for it costs a tenth
_BYTES: Final = 4_194_304  # likewise
_PATIENCE_S: Final = 10.0  # for the connection of an import that was killed: its server may be at its last statement
_PAUSE_S: Final = 0.1
_FAULTS: Final = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, ValueError, OverflowError)


class _Mark(NamedTuple):
    """How far an import has come."""

    lines: int  # of the file, that are stored
    sha256: str  # of these


class _Read:
    """A file of which is known what was read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def readline(self, limit: int = -1) -> bytes:
        line = self._file.readline(limit)
        self._digest.update(line)
        return line

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def sha256(self) -> str:
        return self._digest.copy().hexdigest()


class _Sum:
    """How many records of each kind there are, and what they say, in whatever order."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._sum = 0

    def add(self, record: Record) -> None:
        if isinstance(record, Account):  # a set, which the database keeps in order
            record = msgspec.structs.replace(record, roles=sorted(record.roles))
        if isinstance(record, ApiKey):
            record = msgspec.structs.replace(record, scopes=sorted(record.scopes))
        self.counts[kind_of(record)] += 1
        self._sum += int.from_bytes(hashlib.sha256(msgspec.json.encode(record)).digest(), "big")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Sum) and (self.counts, self._sum) == (other.counts, other._sum)

    __hash__ = None  # type: ignore[assignment]  # it changes


async def import_database(
    url: str,
    source: Path,
    *,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
) -> Counter[str]:
    """Fill an empty database from an export, or go on with that where it was stopped.

    Args:
        url: of a database that `migrate` has made ready, and that nobody uses.
        source: the export.
        progress: called now and then.
        announce: told what a person should know.

    Returns:
        How many of each kind it has.

    Raises:
        ConfigurationError: the database cannot be used.
        Conflict: the database has something in it, somebody uses it, or half of another file is in it.
        ProtocolError: the source is damaged, or is something else; the database is empty again.
        Unavailable: it cannot be read or written; import the same file again, and it goes on.
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
        async with beside(url, is_importing=True) as (connection, _):
            await _be_the_only_one(connection)
            await connection.execute(_SQL["be_patient"])
            mark = await _begin(connection)
            if mark.lines and announce is not None:
                announce(f"going on with the import that was stopped: {mark.lines} lines are stored")
            filling = _Filling(connection, mark, progress)
            try:
                await filling.fill(file)
                await _verify(connection, filling.told)
            except Damaged:
                if filling.is_same_file:
                    await _undo(connection)
                raise
            await connection.execute(_SQL["end_import"])
            return filling.told.counts


async def _be_the_only_one(connection: Connection[PgRecord]) -> None:
    """Wait for an import that was killed to be over, and refuse to work beside one that was not."""
    until_s = asyncio.get_running_loop().time() + _PATIENCE_S
    while not await connection.fetchval(_SQL["lock_import"]):
        if asyncio.get_running_loop().time() >= until_s:
            raise Conflict("Another import into this database is under way; wait for its end.")
        await asyncio.sleep(_PAUSE_S)


async def _begin(connection: Connection[PgRecord]) -> _Mark:
    """Return how far an import has come; a new one begins only in an empty database that nobody uses."""
    if await connection.fetchval(_SQL["is_unfinished"]):
        row = await connection.fetchrow(_SQL["mark"])
        assert row is not None  # it was committed with its table
        return _Mark(row["lines"], row["sha256"])
    async with connection.transaction():
        await connection.execute(_SQL["lock_tables"])
        await _check_empty(connection)
        await connection.execute(_SQL["begin_import"])
        await connection.execute(_SQL["first_mark"])
    # After the commit: who connects from now on sees the table, and whoever was there before is seen here.
    if others := await connection.fetchval(_SQL["others"]):
        await connection.execute(_SQL["end_import"])
        raise Conflict(f"Servers use this database ({others} connections): stop them, then import.")
    return _Mark(0, "")


async def _check_empty(connection: Connection[PgRecord]) -> None:
    row = await connection.fetchrow(_SQL["contents"])
    if row is not None and any(row):
        accounts, threads, runs, people, noted = row
        has = f"{max(accounts, people)} users, {threads} threads and {runs} runs, and {noted} lines of audit"
        raise Conflict(f"The database is not empty: it has {has}. An import needs an empty one: name another.")


async def _undo(connection: Connection[PgRecord]) -> None:
    """Empty the database again: the file will never be whole."""
    async with connection.transaction():
        await connection.execute(_SQL["forget_import"])
        await connection.execute(_SQL["end_import"])


class _Filling:
    """What is under way: a file is read from its beginning, and stored from the mark on."""

    def __init__(self, connection: Connection[PgRecord], mark: _Mark, progress: Progress | None) -> None:
        self.told = _Sum()
        self.is_same_file = mark.lines == 0  # what is stored is known to be of this file
        self._connection = connection
        self._mark = mark
        self._progress = progress
        self._waiting: list[tuple[int, Record]] = []  # of one kind
        self._size = 0

    async def fill(self, file: BinaryIO) -> None:
        """Read it all; afterwards all is stored."""
        read, total, number = _Read(file), 0, 0
        done = _Mark(0, "")  # all lines but the one that was just read
        for number, record in read_export(read):
            if isinstance(record, Header):
                total = sum(record.counts.values())
            else:
                if self._is_full(record):
                    await self._store(done)
                    if self._progress is not None:
                        self._progress(self.told.counts.total(), total)
                self.told.add(record)
                if number > self._mark.lines:
                    self._waiting.append((number, record))
                    self._size += _size_of(record)
            done = _Mark(number, read.sha256())
            if number == self._mark.lines:
                self.is_same_file = done == self._mark
            if number >= self._mark.lines and not self.is_same_file:
                raise _another_file()
        if number < self._mark.lines:
            raise _another_file()
        await self._store(done)

    def _is_full(self, following: Record) -> bool:
        waiting = self._waiting
        is_many = len(waiting) >= _ROWS or self._size >= _BYTES
        return bool(waiting) and (is_many or type(following) is not type(waiting[0][1]))

    async def _store(self, done: _Mark) -> None:
        """Store what waits, and that it is, in one transaction."""
        if self._waiting:
            async with self._connection.transaction():
                await _add(self._connection, self._waiting)
                await self._connection.execute(_SQL["set_mark"], *done)
        self._waiting, self._size = [], 0


def _another_file() -> Conflict:
    return Conflict("Half of another file is in this database: import that one, or make the database anew.")


async def _verify(connection: Connection[PgRecord], told: _Sum) -> None:
    """Read all of it back: it is what the file says, and hangs together."""
    if (gap := await connection.fetchval(_SQL["gaps"])) is not None:
        raise Damaged(f"The events of thread {gap} have a gap, or do not end at its head.")
    if (misplaced := await connection.fetchval(_SQL["misplaced"])) is not None:
        raise Damaged(f"The message, start or end of run {misplaced} is not where it says.")
    there = _Sum()

    def count() -> None:
        for record in records:
            there.add(record)

    async with connection.transaction(isolation="repeatable_read", readonly=True):
        records = records_of(connection, None, told.counts.total(), None)
        await asyncio.to_thread(count)
    if there != told:
        missing = ", ".join(
            f"{there.counts[kind]} of {told.counts[kind]} {kind}"
            for kind in map(kind_of, KINDS)
            if there.counts[kind] != told.counts[kind]
        )
        raise Damaged(f"The database does not have what the file says ({missing or 'a value differs'}).")


def _size_of(record: Record) -> int:
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
