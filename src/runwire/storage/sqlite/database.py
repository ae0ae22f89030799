"""One SQLite file: a writer thread, reader threads, and the lock that makes this process its owner."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from runwire.storage.sqlite.jobs import Job
from runwire.storage.sqlite.lock import OwnerLock
from runwire.storage.sqlite.prepare import Prepared, connect_reader, prepare
from runwire.storage.sqlite.readers import Readers
from runwire.storage.sqlite.writer import Writer

__all__ = ["SqliteDatabase"]

READERS: Final = 2  # they share the GIL with everything else: more wait for it, not for the disk

T = TypeVar("T")


class SqliteDatabase:
    """An open data file. Its methods may be called from any event loop."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._writer = Writer(prepared.connection)
        self._readers = Readers([connect_reader(prepared.path) for _ in range(READERS)])

    @classmethod
    async def open(cls, path: Path) -> SqliteDatabase:
        """Own, create, migrate and open a data file.

        Raises:
            ConfigurationError: owned by another process (`OwnedElsewhere`), not a file of ours, of a newer
                release, or not to be opened.
        """
        return cls(await asyncio.to_thread(prepare, path))

    @property
    def path(self) -> Path:
        """The data file."""
        return self._prepared.path

    @property
    def lock(self) -> OwnerLock:
        """The lock that this process holds on the file."""
        return self._prepared.lock

    @property
    def log(self) -> str:
        """Identity of the database's history."""
        return self._prepared.log

    @property
    def incarnation(self) -> int:
        """Number of this ownership: greater than that of every process that owned the file before."""
        return self._prepared.incarnation

    async def write(self, work: Callable[[sqlite3.Connection], T], *, checks_references: bool = True) -> T:
        """Execute `work` in the writer thread, and return its value after the COMMIT that made it durable.

        Args:
            work: statements and nothing else: it runs in its own savepoint of a group's transaction, and once
                more from the start when the group is void. What it raises undoes its savepoint only, and is
                raised here. It must neither begin nor end a transaction.
            checks_references: whether foreign keys are checked. Only work that deletes runs says no: each of them
                would cost a walk through all segments, and it deletes those before. It shares no transaction with
                work that says yes.

        Raises:
            Unavailable: in place of every `sqlite3.Error`: nothing was written. Also when 5,000 writes wait.

        Promises: a cancelled caller leaves the work whole, done or not done.
        """
        job = Job(work, checks_references=checks_references)
        self._writer.put(job)
        return await job.future

    async def alone(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Execute `work` in the writer thread outside of any transaction, for what SQLite does nowhere else.

        All writes wait meanwhile.

        Raises:
            Unavailable: in place of every `sqlite3.Error`; also when 5,000 writes wait.
        """
        job = Job(work, is_alone=True)
        self._writer.put(job)
        return await job.future

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Execute `work` in a reader thread, in one read transaction, and return its value.

        Raises:
            Unavailable: in place of every `sqlite3.Error`; also when 5,000 reads wait.
        """
        job = Job(work)
        self._readers.put(job)
        return await job.future

    async def close(self) -> None:
        """Finish queued work, close the file, then let another process own it. Idempotent."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._readers.close()
        self._writer.close()
        self._prepared.lock.release()
