"""The writer thread: natural group commit. What queued up while one commit ran is the next group."""

from __future__ import annotations

import queue
import sqlite3
import threading
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import structlog

from runwire.errors import Unavailable
from runwire.storage.sql import load
from runwire.storage.sqlite.jobs import Job, deliver

__all__ = ["MAX_GROUP", "MAX_QUEUED", "Writer"]

MAX_GROUP: Final = 500  # jobs of one commit; reference/performance §3c: larger groups gain nothing
MAX_QUEUED: Final = 5_000  # ten groups: beyond it the disk is not keeping up

_KIND: Final = attrgetter("checks_references", "is_alone")
_SQL: Final = load("sqlite.sql")
_log = structlog.get_logger()


class Writer:
    """The only connection that writes, on its own thread.

    The queue holds `MAX_QUEUED` jobs; one more is refused with `Unavailable`.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._queue: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._entrance = threading.Lock()  # so that no job is queued behind the last one
        self._is_closed = False
        self._checks_references = True  # as `prepare` opened the connection
        self._thread = threading.Thread(target=self._run, name="runwire-sqlite-writer", daemon=True)
        self._thread.start()

    def put(self, job: Job[Any]) -> None:
        """Queue a job; it will be delivered after its COMMIT. Any thread may call.

        Raises:
            Unavailable: the queue is full, or the database is closed. The job will not be executed.
        """
        with self._entrance:
            if self._is_closed:
                raise Unavailable("The database is closed.")
            if self._queue.qsize() >= MAX_QUEUED:
                raise Unavailable("Too many writes are waiting for the disk; try again.", retry_after_s=1.0)
            self._queue.put(job)

    def close(self) -> None:
        """Execute what is queued, then close the connection; blocks until that is done. Idempotent."""
        with self._entrance:
            if not self._is_closed:
                self._is_closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            group, is_open = self._take_group()
            # In order, and each kind by itself: nobody's work loses the check because another job needs none.
            for _, alike in groupby(group, key=_KIND):
                self._commit(jobs := list(alike))
                deliver(jobs)
        self._connection.close()

    def _take_group(self) -> tuple[list[Job[Any]], bool]:
        group: list[Job[Any]] = []
        job = self._queue.get()
        while job is not None:
            group.append(job)
            if len(group) == MAX_GROUP:
                return group, True
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, group: list[Job[Any]]) -> None:
        """Execute jobs that are alike in what is checked in one transaction; then every outcome stands in its job."""
        if not group:
            return
        if group[0].is_alone:
            for job in group:
                job.execute(self._connection)
            return
        try:
            self._check_references(group[0].checks_references)
            self._connection.execute(_SQL["begin_write"])
        except sqlite3.Error as error:  # nobody can write: dividing the group would only wait again
            _fail(group, error)
            return
        try:
            for job in group:
                self._execute(job)
            self._connection.execute(_SQL["commit"])
        except sqlite3.Error as error:
            self._divide(group, error)

    def _check_references(self, wanted: bool) -> None:
        """Have SQLite check foreign keys or not; it can be told so only between two transactions."""
        if wanted != self._checks_references:
            self._connection.execute(_SQL["foreign_keys" if wanted else "no_foreign_keys"])
            self._checks_references = wanted

    def _execute(self, job: Job[Any]) -> None:
        """Execute one job in its savepoint; raises when the whole transaction is gone."""
        execute = self._connection.execute
        execute(_SQL["savepoint_job"])
        job.execute(self._connection)
        if job.error is not None:
            # SQLITE_FULL, IOERR and NOMEM may roll everything back, and then the jobs before it are undone, too.
            # Without a transaction this statement fails, which voids the group.
            execute(_SQL["rollback_job"])
        execute(_SQL["release_job"])

    def _divide(self, group: list[Job[Any]], error: sqlite3.Error) -> None:
        """Execute a void group again in halves, in order, until only the guilty job fails."""
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):  # should even this fail, the next BEGIN does, and says so to everybody
                self._connection.execute(_SQL["rollback"])
        _log.warning("sqlite_group_void", jobs=len(group), error=type(error).__name__)
        if len(group) == 1:
            _fail(group, _first_sqlite_error(group[0].error) or error)
            return
        middle = len(group) // 2
        self._commit(group[:middle])
        self._commit(group[middle:])


def _fail(group: list[Job[Any]], error: sqlite3.Error) -> None:
    for job in group:
        job.value, job.error = None, error


def _first_sqlite_error(error: BaseException | None) -> sqlite3.Error | None:
    """Return the driver's error that a job met: it says more than the one met while cleaning up."""
    return error if isinstance(error, sqlite3.Error) else None
