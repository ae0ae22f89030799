"""The log in PostgreSQL: one segment per run and commit, in order of arrival.

Every seq is born in the function `runwire_extend` (`sql/postgres_functions.sql`): append, send, cancel and answer all
come through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from runwire.errors import NotFound
from runwire.protocol.events import StoredEvent, unpack
from runwire.storage.base import (
    AlreadyStored,
    Batch,
    Busy,
    Committed,
    Fenced,
    Head,
    Outcome,
    Overtaken,
    Page,
    Stored,
    Unstorable,
)
from runwire.storage.batches import Frozen, distinct, freeze
from runwire.storage.clock import now_ms
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.postgres.driver import DataFault
from runwire.storage.sql import load

if TYPE_CHECKING:
    from asyncpg import Record

__all__ = ["PostgresEventLog"]

_SQL: Final = load("postgres.sql")
_STATEMENT_BYTES: Final = 8 << 20  # what is longer may take longer than a statement may, and would be sent for ever
_REFUSALS: Final[Mapping[str, Outcome]] = {"busy": Busy(), "overtaken": Overtaken(), "fenced": Fenced()}


class PostgresEventLog:
    """The append-only log of every thread, in one PostgreSQL database."""

    def __init__(self, database: PostgresDatabase) -> None:
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
            stored = await self._store(list(frozen.values()))
            outcomes.update(zip(frozen, stored, strict=True))
        return [outcomes[place] for place in range(len(batches))]

    async def read(self, thread: str, *, after: int, limit: int = 500, size_bytes: int = 262_144) -> Page:
        """Read a thread's events with seq > after, oldest first; see `EventLog.read`."""
        rows = await self._database.fetch(_SQL["read"], thread, after, limit, size_bytes)
        if not rows:
            raise NotFound("There is no such thread.", field="thread")
        bounds, *segments = rows
        head, floor = bounds[5], bounds[6]
        start = max(after, floor)  # what is below the floor may still be in the table, in part
        events: list[StoredEvent] = []
        count = size = 0
        through = head
        for first, last, run, attempt, packed, *_ in segments:
            stored = unpack(packed, first_seq=first, run=run, attempt=attempt)
            events.extend(event for event in stored if event.seq > start)
            count += last - max(first - 1, start)
            size += len(packed)
            through = last if count >= limit or size >= size_bytes else head
        return Page(log=self._database.log, head=head, floor=floor, events=events, through=through)

    async def read_many(
        self, cursors: Mapping[str, int], *, limit: int = 2_000, size_bytes: int = 1_048_576
    ) -> dict[str, Page]:
        """Read several threads at once; see `EventLog.read_many`."""
        sql, seqs = _SQL["read_many"], list(cursors.values())
        rows = await self._database.fetch(sql, list(cursors), seqs, limit, size_bytes)
        log = self._database.log
        pages: dict[str, Page] = {}
        # Of each thread its segments in order; or one row without events, if it has none, or none of them fitted.
        for thread, head, floor, start, is_last, first, last, run, attempt, packed in rows:
            page = pages.get(thread)
            if page is None:
                through = head if first is None else max(start, first - 1)
                page = pages[thread] = Page(log=log, head=head, floor=floor, events=[], through=through)
            if packed is not None:
                stored = unpack(packed, first_seq=first, run=run, attempt=attempt)
                page.events.extend(event for event in stored if event.seq > start)
                pages[thread] = msgspec.structs.replace(page, through=head if is_last else last)
        return pages

    async def read_run(self, run: str) -> list[StoredEvent]:
        """Read every event of a run; see `EventLog.read_run`."""
        rows = await self._database.fetch(_SQL["read_run"], run)
        if not rows:
            raise NotFound("There is no such run.", field="run")
        return [
            event
            for first, attempt, packed in rows
            if packed is not None  # of a run all of whose events are gone
            for event in unpack(packed, first_seq=first, run=run, attempt=attempt)
        ]

    async def heads(self, known: Mapping[str, int]) -> dict[str, Head]:
        """Return the heads that moved; see `EventLog.heads`."""
        await self._database.look()  # who shows events must not stay on a history that is over
        rows = await self._database.fetch(_SQL["moved_heads"], list(known), list(known.values()))
        return {thread: Head(seq=head, is_active=is_active) for thread, head, is_active in rows}

    async def blob(self, user: str, ref: str) -> bytes:
        """Return a stored value of this user's runs; see `EventLog.blob`."""
        return await self._blob("blob_of_user", user, ref)

    async def run_blob(self, run: str, ref: str) -> bytes:
        """Return a stored value that an event of this run names."""
        return await self._blob("blob_of_run", run, ref)

    async def _blob(self, block: str, whose: str, ref: str) -> bytes:
        found = await self._database.fetchrow(_SQL[block], whose, ref)
        if found is None:
            raise NotFound("There is no such value.", field="ref")
        data: bytes = found[0]
        return data

    async def _store(self, ready: list[Frozen]) -> list[Outcome]:
        """Store all batches in one statement; if a value breaks it, halve them until the guilty one is alone."""
        if len(ready) > 1 and sum(map(_size_bytes, ready)) > _STATEMENT_BYTES:
            return await self._halves(ready)
        try:
            rows = await self._database.fetch(_SQL["append"], *_columns(ready), is_urgent=True)
        except DataFault as fault:
            if len(ready) == 1:
                return [Unstorable(reason=f"the database refused it ({fault.kind}, SQLSTATE {fault.sqlstate})")]
            return await self._halves(ready)
        log = self._database.log
        outcomes = {row[0]: _outcome(row, ready[row[0] - 1], log) for row in rows}
        return [outcomes[place] for place in range(1, len(ready) + 1)]

    async def _halves(self, ready: list[Frozen]) -> list[Outcome]:
        middle = len(ready) // 2
        return [*await self._store(ready[:middle]), *await self._store(ready[middle:])]


def _size_bytes(one: Frozen) -> int:
    return len(one.packed) + sum(map(len, one.batch.blobs.values()))


def _columns(ready: list[Frozen]) -> list[Any]:
    """Return the parameters of `append`: one array per column; of what is beside a batch with its place, from 1."""
    batches = [one.batch for one in ready]
    ends = [batch.end for batch in batches]
    blobs = [(place, *pair) for place, batch in enumerate(batches, 1) for pair in batch.blobs.items()]
    waits = [(place, one.wait, one.kind, one.due_at) for place, batch in enumerate(batches, 1) for one in batch.waits]
    closes = [(place, wait) for place, batch in enumerate(batches, 1) for wait in batch.closes]
    pinned = [batch.pinned for batch in batches]
    return [
        [batch.run for batch in batches],
        [batch.attempt for batch in batches],
        [batch.ordinal for batch in batches],
        [one.size for one in ready],
        [one.flags for one in ready],
        [one.packed for one in ready],
        [end and end.status for end in ends],
        [None if end is None or end.error is None else msgspec.json.encode(end.error).decode() for end in ends],
        pinned if any(one is not None for one in pinned) else None,
        *([blob[at] for blob in blobs] for at in range(3)),
        *([wait[at] for wait in waits] for at in range(4)),
        *([close[at] for close in closes] for at in range(2)),
        now_ms(),
    ]


def _outcome(row: Record, one: Frozen, log: str) -> Outcome:
    _, outcome, first_seq, last_seq, thread, user = row
    if outcome == "stored":
        committed = Committed(
            log=log,
            user=user,
            thread=thread,
            run=one.batch.run,
            attempt=one.batch.attempt,
            first_seq=first_seq,
            last_seq=last_seq,
            packed=one.packed,
        )
        return Stored(committed=committed)
    if outcome == "already":
        return AlreadyStored(first_seq=first_seq, last_seq=last_seq)
    return _REFUSALS[outcome]
