"""The log in SQLite: one segment per run and commit, in order of arrival.

Every seq is born in `extend`, in the statement `move_head`: append, send and cancel all come through here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from runwire.errors import NotFound
from runwire.protocol.events import StoredEvent, unpack
from runwire.storage.base import (
    AlreadyStored,
    Batch,
    Committed,
    Fenced,
    Head,
    Outcome,
    Overtaken,
    Page,
    Stored,
    Unstorable,
)
from runwire.storage.batches import FLAG_STARTED, Frozen, distinct, freeze
from runwire.storage.clock import now_ms
from runwire.storage.sql import load
from runwire.storage.sqlite.database import SqliteDatabase
from runwire.storage.turns import Behind, read_in_turns

__all__ = ["SqliteEventLog", "Stretch", "extend"]

_SQL: Final = load("sqlite.sql")
# What the driver raises for values that it cannot take or a constraint that they break. Everything else
# (disk full, locked, corrupt) is no fault of one batch.
_DATA_ERRORS: Final = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
_VALUE_ERRORS: Final = (OverflowError, TypeError, ValueError)


class Stretch(NamedTuple):
    """Packed events of one run that are about to get their seqs."""

    thread_key: int
    run_key: int
    run: str
    attempt: int
    ordinal: int | None  # of the first one among those of the run's workers; None: written by a gateway
    size: int
    flags: int
    packed: bytes


class SqliteEventLog:
    """The append-only log of every thread, in one SQLite file."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def append(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Append events of runs to their threads; see `EventLog.append`."""
        outcomes: dict[int, Outcome] = {}
        frozen: dict[int, Frozen] = {}
        for place, batch in enumerate(distinct(batches)):
            packed = freeze(batch)
            if isinstance(packed, Unstorable):
                outcomes[place] = packed
            else:
                frozen[place] = packed
        if frozen:
            ready = list(frozen.values())
            stored = await self._database.write(lambda connection: self._append(connection, ready))
            outcomes.update(zip(frozen, stored, strict=True))
        return [outcomes[place] for place in range(len(batches))]

    async def read(self, thread: str, *, after: int, limit: int = 500, size_bytes: int = 262_144) -> Page:
        """Read a thread's events with seq > after, oldest first; see `EventLog.read`."""
        log = self._database.log

        def work(connection: sqlite3.Connection) -> Page:
            bounds = connection.execute(_SQL["thread_bounds"], (thread,)).fetchone()
            if bounds is None:
                raise NotFound("There is no such thread.", field="thread")
            key, head, floor = bounds
            start = max(after, floor)  # what is below the floor may still be in the file, in part
            events: list[StoredEvent] = []
            size, through = 0, head
            # The cursor steps through the index: segments behind the limit are never touched.
            for first, last, run, attempt, packed in connection.execute(_SQL["read_segments"], (key, start)):
                if len(events) >= limit or size >= size_bytes:
                    break
                stored = unpack(packed, first_seq=first, run=run, attempt=attempt)
                events.extend(event for event in stored if event.seq > start)
                size += len(packed)
                through = last
            else:
                through = head
            return Page(log=log, head=head, floor=floor, events=events, through=through)

        return await self._database.read(work)

    async def read_many(
        self, cursors: Mapping[str, int], *, limit: int = 2_000, size_bytes: int = 1_048_576
    ) -> dict[str, Page]:
        """Read several threads at once; see `EventLog.read_many`."""
        log = self._database.log

        def work(connection: sqlite3.Connection) -> dict[str, Page]:
            asked: dict[str, Behind] = {}
            for thread, key, head, floor in connection.execute(_SQL["bounds_of_threads"], (_text(list(cursors)),)):
                start = max(cursors[thread], floor)
                rows = connection.execute(_SQL["read_segments"], (key, start)) if start < head else iter(())
                asked[thread] = Behind(head=head, floor=floor, start=start, rows=rows)
            return read_in_turns(asked, log=log, limit=limit, size_bytes=size_bytes)

        return await self._database.read(work)

    async def read_run(self, run: str) -> list[StoredEvent]:
        """Read every event of a run; see `EventLog.read_run`."""

        def work(connection: sqlite3.Connection) -> list[StoredEvent]:
            bounds = connection.execute(_SQL["run_bounds"], (run,)).fetchone()
            if bounds is None:
                raise NotFound("There is no such run.", field="run")
            return [
                event
                for first, attempt, packed in connection.execute(_SQL["read_run"], bounds)
                for event in unpack(packed, first_seq=first, run=run, attempt=attempt)
            ]

        return await self._database.read(work)

    async def heads(self, known: Mapping[str, int]) -> dict[str, Head]:
        """Return the heads that moved; see `EventLog.heads`."""
        asked = _text(known)

        def work(connection: sqlite3.Connection) -> dict[str, Head]:
            rows = connection.execute(_SQL["moved_heads"], (asked,))
            return {thread: Head(seq=head, is_active=bool(is_active)) for thread, head, is_active in rows}

        return await self._database.read(work)

    async def blob(self, user: str, ref: str) -> bytes:
        """Return a stored value of this user's runs; see `EventLog.blob`."""
        return await self._blob("blob_of_user", user, ref)

    async def run_blob(self, run: str, ref: str) -> bytes:
        """Return a stored value that an event of this run names."""
        return await self._blob("blob_of_run", run, ref)

    async def _blob(self, block: str, whose: str, ref: str) -> bytes:
        found = await self._database.read(lambda connection: connection.execute(_SQL[block], (whose, ref)).fetchone())
        if found is None:
            raise NotFound("There is no such value.", field="ref")
        data: bytes = found[0]
        return data

    def _append(self, connection: sqlite3.Connection, ready: list[Frozen]) -> list[Outcome]:
        """Store all batches; if the data of one breaks the write, each on its own."""
        connection.execute(_SQL["savepoint_batch"])
        try:
            outcomes = self._store(connection, ready)
        except (*_DATA_ERRORS, *_VALUE_ERRORS) as error:
            connection.execute(_SQL["rollback_batch"])
            if len(ready) == 1:
                outcomes = [Unstorable(reason=f"the database refused it ({type(error).__name__}: {error})")]
            else:
                outcomes = [outcome for one in ready for outcome in self._append(connection, [one])]
        connection.execute(_SQL["release_batch"])
        return outcomes

    def _store(self, connection: sqlite3.Connection, ready: list[Frozen]) -> list[Outcome]:
        overtaken = self._overtaken(connection, ready)
        asked = _text(
            [
                (one.batch.run, one.batch.attempt, one.batch.ordinal, one.size)
                for one in ready
                if one.batch.run not in overtaken
            ]
        )
        rows = connection.execute(_SQL["take_ordinals"], (asked, self._database.incarnation)).fetchall()
        keys = {run: (thread_key, run_key) for run, run_key, thread_key in rows}
        taken = [one for one in ready if one.batch.run in keys]
        stretches = [
            Stretch(*keys[batch.run], batch.run, batch.attempt, batch.ordinal, size, flags, packed)
            for batch, size, flags, packed in taken
        ]
        stored: dict[str, Outcome] = {}
        for one, committed in zip(taken, extend(connection, self._database.log, stretches), strict=True):
            _keep_beside(connection, one, keys[committed.run][1], committed)
            stored[committed.run] = Stored(committed=committed)
        return [stored.get(one.batch.run) or overtaken.get(one.batch.run) or _refusal(connection, one) for one in ready]

    def _overtaken(self, connection: sqlite3.Connection, ready: list[Frozen]) -> dict[str, Outcome]:
        """Return the runs whose batch closes a wait that was answered first; few batches close any."""
        outcomes: dict[str, Outcome] = {}
        for batch, *_ in ready:
            if batch.closes:
                held = (batch.run, batch.attempt, batch.ordinal, self._database.incarnation)
                if connection.execute(_SQL["overtaken"], (*held, _text(batch.closes))).fetchone():
                    outcomes[batch.run] = Overtaken()
        return outcomes


def extend(connection: sqlite3.Connection, log: str, stretches: Sequence[Stretch]) -> list[Committed]:
    """Give packed events their seqs and store them, in this order: the one birthplace of a seq."""
    moved: dict[int, int] = {}
    for stretch in stretches:
        moved[stretch.thread_key] = moved.get(stretch.thread_key, 0) + stretch.size
    threads = {
        key: (thread, user, head)
        for key, head, thread, user in connection.execute(_SQL["move_head"], (_text(moved), now_ms())).fetchall()
    }
    rows: list[tuple[object, ...]] = []
    committed: list[Committed] = []
    for thread_key, run_key, run, attempt, ordinal, size, flags, packed in stretches:
        thread, user, head = threads[thread_key]
        last = head - moved[thread_key] + size  # what is still to be placed in this thread ends at its head
        moved[thread_key] -= size
        first = last - size + 1
        rows.append((thread_key, first, last, run_key, attempt, ordinal, flags, packed))
        committed.append(
            Committed(
                log=log,
                user=user,
                thread=thread,
                run=run,
                attempt=attempt,
                first_seq=first,
                last_seq=last,
                packed=packed,
            )
        )
    connection.executemany(_SQL["add_segment"], rows)
    return committed


def _text(value: object) -> str:
    """Return JSON for a statement that takes many rows at once."""
    return msgspec.json.encode(value).decode()


def _keep_beside(connection: sqlite3.Connection, one: Frozen, run_key: int, committed: Committed) -> None:
    """Store what comes with a batch: pinned values, blobs, the run's start and its end."""
    batch = one.batch
    if batch.pinned is not None:
        connection.execute(_SQL["pin"], (run_key, batch.pinned))
    if batch.blobs:
        connection.executemany(_SQL["add_blob"], [(run_key, ref, data) for ref, data in batch.blobs.items()])
    if batch.waits:
        opened = [(run_key, one.wait, one.kind, one.due_at) for one in batch.waits]
        connection.executemany(_SQL["add_wait"], opened)
    if batch.closes:
        connection.execute(_SQL["close_waits"], (run_key, _text(batch.closes)))
    if one.flags & FLAG_STARTED:
        connection.execute(_SQL["mark_started"], (run_key, committed.first_seq))
    if batch.end is not None:
        error = None if batch.end.error is None else _text(batch.end.error)
        values = (run_key, batch.end.status, committed.last_seq, error, now_ms())
        connection.execute(_SQL["end_run"], values)
        connection.execute(_SQL["end_waits"], (run_key,))


def _refusal(connection: sqlite3.Connection, one: Frozen) -> Outcome:
    """Say why a batch was not taken: it is there already, or somebody else owns the run."""
    batch = one.batch
    found = connection.execute(_SQL["stored_batch"], (batch.run, batch.attempt, batch.ordinal, one.size)).fetchone()
    return Fenced() if found is None else AlreadyStored(first_seq=found[0], last_seq=found[1])
