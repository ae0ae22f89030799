"""The log in memory."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence

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
from runwire.storage.memory.state import UNFINISHED, Run, Segment, State, Wait
from runwire.storage.turns import Behind, read_in_turns

__all__ = ["MemoryEventLog"]


class MemoryEventLog:
    """The append-only log of every thread, in memory."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def append(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Append events of runs to their threads; see `EventLog.append`."""
        frozen = [freeze(batch) for batch in distinct(batches)]
        with self._state.lock:
            return [one if isinstance(one, Unstorable) else self._store(one) for one in frozen]

    async def read(self, thread: str, *, after: int, limit: int = 500, size_bytes: int = 262_144) -> Page:
        """Read a thread's events with seq > after, oldest first; see `EventLog.read`."""
        with self._state.lock:
            found = self._state.threads.get(thread)
            if found is None or found.is_deleted:
                raise NotFound("There is no such thread.", field="thread")
            segments, head, floor = found.segments[:], found.head, found.floor
        events: list[StoredEvent] = []
        start = max(after, floor)
        size, through = 0, head
        for segment in segments[_index_after(segments, start) :]:
            if len(events) >= limit or size >= size_bytes:
                break
            events.extend(event for event in _unpack(segment) if event.seq > start)
            size += len(segment.packed)
            through = segment.last_seq
        else:
            through = head
        return Page(log=self._state.log, head=head, floor=floor, events=events, through=through)

    async def read_many(
        self, cursors: Mapping[str, int], *, limit: int = 2_000, size_bytes: int = 1_048_576
    ) -> dict[str, Page]:
        """Read several threads at once; see `EventLog.read_many`."""
        asked: dict[str, Behind] = {}
        with self._state.lock:
            for thread, after in cursors.items():
                found = self._state.threads.get(thread)
                if found is not None and not found.is_deleted:
                    start = max(after, found.floor)
                    rows = [
                        (one.first_seq, one.last_seq, one.run, one.attempt, one.packed)
                        for one in found.segments[_index_after(found.segments, start) :]
                    ]
                    asked[thread] = Behind(head=found.head, floor=found.floor, start=start, rows=iter(rows))
        return read_in_turns(asked, log=self._state.log, limit=limit, size_bytes=size_bytes)

    async def read_run(self, run: str) -> list[StoredEvent]:
        """Read every event of a run; see `EventLog.read_run`."""
        with self._state.lock:
            segments = [one for one in self._run(run).thread.segments if one.run == run]
        return [event for segment in segments for event in _unpack(segment)]

    async def heads(self, known: Mapping[str, int]) -> dict[str, Head]:
        """Return the heads that moved; see `EventLog.heads`."""
        with self._state.lock:
            found = [self._state.threads[thread] for thread in known if thread in self._state.threads]
            return {
                one.id: Head(seq=one.head, is_active=any(run.status in UNFINISHED for run in one.runs))
                for one in found
                if one.head > known[one.id] and not one.is_deleted
            }

    async def blob(self, user: str, ref: str) -> bytes:
        """Return a stored value of this user's runs; see `EventLog.blob`."""
        with self._state.lock:
            for run in self._state.runs.values():
                if run.user == user and not run.thread.is_deleted and ref in run.blobs:
                    return run.blobs[ref]
        raise NotFound("There is no such value.", field="ref")

    async def run_blob(self, run: str, ref: str) -> bytes:
        """Return a stored value that an event of this run names."""
        with self._state.lock:
            found = self._state.runs.get(run)
            if found is None or ref not in found.blobs:
                raise NotFound("There is no such value.", field="ref")
            return found.blobs[ref]

    def _run(self, run: str) -> Run:
        found = self._state.runs.get(run)
        if found is None:
            raise NotFound("There is no such run.", field="run")
        return found

    def _store(self, one: Frozen) -> Outcome:
        batch = one.batch
        run = self._state.runs.get(batch.run)
        if run is None or run.attempt != batch.attempt:
            return Fenced()
        if (run.ordinal, run.status, run.owner) != (batch.ordinal, "running", self._state.incarnation):
            return _refusal(run, one)
        if one.flags & FLAG_STARTED and run.started_seq is not None:
            return Unstorable(reason="the run has started already")
        if any(opened.wait in self._state.waits for opened in batch.waits):
            return Unstorable(reason="there is such a wait already")
        if any(run.waits[wait].by not in (None, "ended") for wait in batch.closes if wait in run.waits):
            return Overtaken()
        run.ordinal += one.size
        committed = self._state.extend(run, one.packed, one.size, ordinal=batch.ordinal)
        self._keep_beside(run, one, committed)
        return Stored(committed=committed)

    def _keep_beside(self, run: Run, one: Frozen, committed: Committed) -> None:
        """Store what comes with a batch: pinned values, blobs, waits, the run's start and its end."""
        batch = one.batch
        run.pinned = run.pinned if run.pinned is not None else batch.pinned
        run.blobs = {**batch.blobs, **run.blobs}
        for opened in batch.waits:
            wait = Wait(id=opened.wait, run=run, kind=opened.kind, due_at=opened.due_at)
            run.waits[wait.id] = self._state.waits[wait.id] = wait
        for closed in batch.closes:
            if closed in run.waits:
                run.waits[closed].by = "ended"
        if one.flags & FLAG_STARTED:
            run.started_seq = committed.first_seq
        if batch.end is not None:
            run.end(batch.end.status, seq=committed.last_seq, now=now_ms(), error=batch.end.error)


def _refusal(run: Run, one: Frozen) -> Outcome:
    """Say why a batch was not taken: it is there already, or somebody else owns the run."""
    for segment in run.thread.segments:
        is_same = (segment.run, segment.attempt, segment.ordinal) == (run.id, one.batch.attempt, one.batch.ordinal)
        if is_same and segment.last_seq - segment.first_seq + 1 == one.size:
            return AlreadyStored(first_seq=segment.first_seq, last_seq=segment.last_seq)
    return Fenced()


def _index_after(segments: list[Segment], seq: int) -> int:
    """Return the place of the first segment with anything after this seq."""
    return bisect.bisect_left(segments, seq + 1, key=lambda one: one.last_seq)


def _unpack(segment: Segment) -> list[StoredEvent]:
    return list(
        unpack(segment.packed, first_seq=segment.first_seq, run=segment.run, attempt=segment.attempt),
    )
