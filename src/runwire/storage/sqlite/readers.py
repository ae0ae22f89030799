"""Reader threads, each with its own read-only connection; WAL lets them read beside the writer."""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Sequence
from typing import Any, Final

from runwire.errors import Unavailable
from runwire.storage.sql import load
from runwire.storage.sqlite.jobs import Job, deliver

__all__ = ["MAX_WAITING", "Readers"]

MAX_WAITING: Final = 5_000

_SQL: Final = load("sqlite.sql")


class Readers:
    """Threads that execute reads, each in one read transaction: a job sees one moment of the database.

    The queue holds `MAX_WAITING` jobs; one more is refused with `Unavailable`.
    """

    def __init__(self, connections: Sequence[sqlite3.Connection]) -> None:
        self._queue: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._entrance = threading.Lock()  # so that no job is queued behind the last one
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._run, args=(connection,), name="runwire-sqlite-reader", daemon=True)
            for connection in connections
        ]
        for thread in self._threads:
            thread.start()

    def put(self, job: Job[Any]) -> None:
        """Queue a job. Any thread may call.

        Raises:
            Unavailable: the queue is full, or the database is closed.
        """
        with self._entrance:
            if self._is_closed:
                raise Unavailable("The database is closed.")
            if self._queue.qsize() >= MAX_WAITING:
                raise Unavailable("Too many reads are waiting for the database; try again.", retry_after_s=1.0)
            self._queue.put(job)

    def close(self) -> None:
        """Execute what is queued, then close the connections; blocks until that is done. Idempotent."""
        with self._entrance:
            if not self._is_closed:
                self._is_closed = True
                for _ in self._threads:
                    self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self, connection: sqlite3.Connection) -> None:
        while (job := self._queue.get()) is not None:
            if not job.future.cancelled():
                _execute(job, connection)
                deliver([job])
        connection.close()


def _execute(job: Job[Any], connection: sqlite3.Connection) -> None:
    try:
        connection.execute(_SQL["begin_read"])
        job.execute(connection)
        if connection.in_transaction:
            connection.execute(_SQL["rollback"])
    except sqlite3.Error as error:
        job.error = job.error or error
