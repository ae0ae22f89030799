"""From a run's mouth to the log: a bounded buffer per run, and one loop that commits for all runs of a worker.

::

    agent loop (a thread)                 control loop
    Buffer.put ──▶ pending ──freeze──▶ Batch ──▶ EventLog.append ──▶ Bus.publish
       ▲ full: `room` waits                └── Unavailable: the same Batch again, byte for byte

There is no future, queue item or awaited commit per event (reference/performance §4c): a delta costs a lock and
an append to a list. What arrived while a commit ran goes with the next one; there is no timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec
import structlog

from runwire.errors import Fenced, Unavailable
from runwire.protocol.events import (
    EmittedEvent,
    EventType,
    decode_data,
    pack,
)
from runwire.protocol.replay import Emit
from runwire.runtime.clock import now_ms
from runwire.runtime.entries import Entry, OpenDelta, entries_of
from runwire.runtime.lease import Lease
from runwire.storage import base
from runwire.storage.base import (
    MAX_BATCH_EVENTS,
    AlreadyStored,
    Batch,
    Bus,
    Busy,
    Claim,
    Committed,
    OpenedWait,
    Outcome,
    Overtaken,
    RunEnd,
    Storage,
    Stored,
)

__all__ = ["MAX_BUFFER_BYTES", "MAX_BUFFER_EVENTS", "Buffer", "Lost", "OnStored", "Outbox"]

MAX_BUFFER_EVENTS: Final = 1000
MAX_BUFFER_BYTES: Final = 8 * 1024 * 1024
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0
_BUSY_PAUSE_S: Final = (0.005, 0.1)  # somebody's statement on these rows is running: the first pause, and the longest

Lost = base.Fenced | base.Unstorable
"""Why a buffer takes no more: the run belongs to another attempt, or the database cannot hold what it said."""

OnStored = Callable[[Sequence[EmittedEvent], int], None]
"""Learns of events that are committed, and of the seq of the first; the others follow without a gap."""

_log = structlog.get_logger(__name__)


class Buffer:
    """What one attempt of a run has said and the log has not yet; at most 1,000 events and 8 MiB.

    At the limit `room` waits, which is how a slow database slows the agent down; `put` itself never waits and
    never refuses while the attempt owns its run, so that a run can always be ended.

    `put`, `room` and `flushed` may be called from any thread, `freeze` and `settle` only by the outbox. Waits that
    begin or end with the events are found in them: nobody has to name them beside.

    Without a valid lease nothing is sent: it waits here until the lease is renewed.
    """

    def __init__(
        self,
        outbox: Outbox,
        claim: Claim,
        *,
        ordinal: int,
        lease: Lease,
        on_lost: Callable[[Lost], None],
        on_overtaken: Callable[[], None],
    ) -> None:
        self.claim = claim
        self.lease = lease
        self.busy = 0  # how often in a row the frozen batch found its rows taken
        # Called on the control loop after each commit, before anybody who waits for it goes on.
        self.on_stored: OnStored | None = None
        self.on_waits: Callable[[Sequence[OpenedWait]], None] | None = None  # likewise, of waits that are open now
        self._outbox = outbox
        self._ordinal = ordinal
        self._on_lost: Callable[[Lost], None] | None = on_lost
        self._on_overtaken = on_overtaken
        self._lock = threading.Lock()
        self._pending: list[Entry] = []
        self._frozen: Batch | None = None
        self._frozen_bytes = 0
        self._bytes = 0  # pending and frozen
        self._put = 0  # entries ever put
        self._committed = 0  # entries ever committed
        self._pinned: bytes | None = None
        self._end: RunEnd | None = None
        self._closes_waits = False
        self._closing = 0  # the last so many entries must share a batch with the terminal event
        self._is_closed = False
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def is_full(self) -> bool:
        """Return whether the next event has to wait for a commit."""
        return self._put - self._committed >= MAX_BUFFER_EVENTS or self._bytes >= MAX_BUFFER_BYTES

    @property
    def is_closed(self) -> bool:
        """Return whether it takes no more."""
        return self._is_closed

    @property
    def is_closing_waits(self) -> bool:
        """Return whether its last words close waits, so that an answer may come before them."""
        return self._end is not None and self._closes_waits

    @property
    def ordinal(self) -> int:
        """Return how many events of the run's workers are known to be stored."""
        return self._ordinal

    def put(
        self,
        emits: Iterable[Emit],
        *,
        blobs: Mapping[str, bytes] | None = None,
        pinned: bytes | None = None,
        end: RunEnd | None = None,
    ) -> None:
        """Take events to be stored, in order. Never waits.

        Args:
            emits: adjacent deltas of one stream are merged.
            blobs: values that these events name by `$ref`.
            pinned: comes with `agent_started`.
            end: the last event is terminal; all of these events and it commit together.

        Raises:
            Fenced: the attempt does not own the run any more.
        """
        entries = entries_of(emits, now_ms(), blobs)
        with self._lock:
            if self._is_closed:
                raise Fenced("this attempt does not own the run any more")
            before = self._put
            for entry in entries:
                self._add(entry)
            if pinned is not None:
                self._pinned = pinned
            if end is not None:
                self._end, self._closing = end, self._put - before
                self._closes_waits = any(isinstance(entry.wait, str) for entry in entries)
        if entries:
            self._outbox.notify(self)

    async def room(self) -> None:
        """Wait until there is room for another event.

        Raises:
            Fenced: the attempt does not own the run any more.
        """
        while self.is_full:
            await self._commit_after(lambda: self.is_full)

    async def flushed(self) -> None:
        """Wait until everything put so far is committed.

        Raises:
            Fenced: the attempt does not own the run any more.
        """
        target = self._put
        while self._committed < target or self._is_closed:
            await self._commit_after(lambda: self._committed < target)

    def close(self) -> None:
        """Drop what is not committed and take no more: the run is another's, or ends another way."""
        with self._lock:
            self._is_closed = True
            self._pending.clear()
            self._frozen = None
            waiters, self._waiters = self._waiters, []
        # Nothing is told from here on. Who would hear it holds this buffer: let go of, it needs no collector.
        self._on_lost = self.on_stored = self.on_waits = None
        _wake(waiters)

    def freeze(self) -> Batch | None:
        """Return the batch to send now; the same one until it is settled."""
        with self._lock:
            if self._frozen is None and self._pending:
                self._frozen = self._next_batch()
            return self._frozen

    def leave_out(self, answered: Collection[str]) -> None:
        """Send what ends the run again, without closing the waits that were answered before it.

        After `on_overtaken`, by which nothing was stored. The ending is the same: the answer came too late for it.
        """
        with self._lock:
            batch = self._frozen
            if batch is None:
                return  # closed meanwhile
            events = tuple(event for event in batch.events if _closed_by(event) not in answered)
            closes = tuple(wait for wait in batch.closes if wait not in answered)
            self._frozen = msgspec.structs.replace(batch, events=events, closes=closes)
            self._committed += len(batch.events) - len(events)
        self._outbox.notify(self)

    def settle(self, batch: Batch, outcome: Stored | AlreadyStored | Lost | Overtaken) -> None:
        """Take the log's answer to the frozen batch."""
        with self._lock:
            if self._frozen is not batch:
                return  # closed meanwhile
            self.busy = 0
            if isinstance(outcome, Stored | AlreadyStored):
                self._frozen = None
                self._ordinal += len(batch.events)
                self._committed += len(batch.events)
                self._bytes -= self._frozen_bytes
                waiters, self._waiters = self._waiters, []
                has_more = bool(self._pending)
        if isinstance(outcome, Overtaken):
            self._on_overtaken()
            return
        if not isinstance(outcome, Stored | AlreadyStored):
            on_lost = self._on_lost
            self.close()
            if on_lost:
                on_lost(outcome)
            return
        if self.on_stored:
            self.on_stored(batch.events, _first_seq(outcome))
        if self.on_waits and batch.waits:
            self.on_waits(batch.waits)
        _wake(waiters)
        if has_more:
            self._outbox.notify(self)

    def _add(self, entry: Entry) -> None:
        self._bytes += entry.size_bytes
        if isinstance(entry.event, OpenDelta) and self._pending:
            last = self._pending[-1]
            if isinstance(last.event, OpenDelta) and last.event.take(entry.event):
                last.size_bytes += entry.size_bytes
                return
        self._pending.append(entry)
        self._put += 1

    def _next_batch(self) -> Batch:
        """Seal the oldest pending events; merging ends here."""
        count = min(len(self._pending), MAX_BATCH_EVENTS)
        rest = len(self._pending) - count
        if 0 < rest < self._closing < len(self._pending):
            count = len(self._pending) - self._closing  # what closes the run is not torn apart
            rest = self._closing
        taken, self._pending = self._pending[:count], self._pending[count:]
        events: list[EmittedEvent] = []
        blobs: dict[str, bytes] = {}
        waits: list[OpenedWait] = []
        closes: list[str] = []
        self._frozen_bytes = 0
        for entry in taken:
            events.append(entry.event.seal() if isinstance(entry.event, OpenDelta) else entry.event)
            self._frozen_bytes += entry.size_bytes
            if entry.blobs:
                blobs.update(entry.blobs)
            if isinstance(entry.wait, OpenedWait):
                waits.append(entry.wait)
            elif entry.wait is not None:
                closes.append(entry.wait)
        pinned, self._pinned = self._pinned, None
        return Batch(
            run=self.claim.run,
            attempt=self.claim.attempt,
            ordinal=self._ordinal,
            events=tuple(events),
            end=None if rest else self._end,
            pinned=pinned,
            blobs=blobs,
            waits=tuple(waits),
            closes=tuple(closes),
        )

    async def _commit_after(self, must_wait: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._is_closed:
                raise Fenced("this attempt does not own the run any more")
            if not must_wait():
                return
            self._waiters.append((loop, future))
        await future


class Outbox:
    """The one loop that appends for all runs of a worker, on the control loop.

    Args:
        storage: its log takes the events.
        bus: told of every commit, after it.
    """

    def __init__(self, storage: Storage, bus: Bus) -> None:
        self._storage = storage
        self._bus = bus
        self._lock = threading.Lock()
        self._dirty: dict[Buffer, None] = {}  # have something to send, oldest first; at most one entry per run
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._is_waking = False

    def open(
        self,
        claim: Claim,
        *,
        ordinal: int,
        lease: Lease,
        on_lost: Callable[[Lost], None],
        on_overtaken: Callable[[], None] = lambda: None,
    ) -> Buffer:
        """Return the buffer of an attempt.

        Args:
            claim: the attempt.
            ordinal: how many events of the run's workers are stored.
            lease: of the attempt; while it is not valid, nothing is sent.
            on_lost: called on the control loop when the log refuses a batch for good.
            on_overtaken: called there when a wait was answered before it could be closed: see `Buffer.leave_out`.
        """
        return Buffer(self, claim, ordinal=ordinal, lease=lease, on_lost=on_lost, on_overtaken=on_overtaken)

    def notify(self, buffer: Buffer) -> None:
        """Learn that a buffer has something to send. Any thread may call."""
        if buffer in self._dirty:  # it will be asked, and only after this: what was put before goes with that
            return
        with self._lock:
            self._dirty[buffer] = None
            if self._is_waking:
                return
            self._is_waking = True
        with contextlib.suppress(RuntimeError):  # the control loop has ended: nobody stores any more
            self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Append until cancelled. What one commit leaves behind goes with the next."""
        pause_s = _FIRST_PAUSE_S
        while True:
            await self._wake.wait()
            self._wake.clear()  # armed before looking: what is put from here on wakes us again
            with self._lock:
                self._is_waking = False
                buffers, self._dirty = list(self._dirty), {}
            # Without a valid lease it stays where it is; whoever renews the lease notifies us.
            batches = [(buffer, batch) for buffer in buffers if buffer.lease.is_valid and (batch := buffer.freeze())]
            if batches:
                pause_s = await self._append(batches, pause_s)

    async def _append(self, batches: list[tuple[Buffer, Batch]], pause_s: float) -> float:
        """Commit a group; return how long to wait should the next one find no database."""
        outcomes: list[Outcome] = []
        try:
            outcomes = await self._storage.events.append([batch for _, batch in batches])
        except Unavailable as error:
            # Stored or not, nobody knows. The frozen batches go again as they are, before anything newer.
            _log.warning("append_unavailable", runs=len(batches), retry_s=round(pause_s, 2), reason=error.message)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
            return min(pause_s * 2, _LONGEST_PAUSE_S)
        finally:
            if not outcomes:
                for buffer, _ in batches:
                    self.notify(buffer)
        for (buffer, batch), outcome in zip(batches, outcomes, strict=True):
            if isinstance(outcome, Busy):
                self._ask_again(buffer)
                continue
            committed = self._committed(buffer.claim, batch, outcome)
            if committed:
                self._bus.publish(committed)  # after the commit: nothing is shown that may not stay
            buffer.settle(batch, outcome)
        return _FIRST_PAUSE_S

    def _ask_again(self, buffer: Buffer) -> None:
        """Have a batch whose rows were taken go again a little later, and hold up nobody else for it."""
        first_s, longest_s = _BUSY_PAUSE_S
        buffer.busy += 1
        pause_s = min(first_s * 2 ** min(buffer.busy, 10), longest_s)
        self._loop.call_later(pause_s * random.uniform(0.5, 1.0), self.notify, buffer)  # noqa: S311 - jitter, no secret

    def _committed(self, claim: Claim, batch: Batch, outcome: Outcome) -> Committed | None:
        if isinstance(outcome, Stored):
            return outcome.committed
        if not isinstance(outcome, AlreadyStored):
            return None
        return Committed(  # by a call whose reply was lost, and with it the chance to tell the bus
            log=self._storage.log,
            user=claim.user,
            thread=claim.thread,
            run=claim.run,
            attempt=claim.attempt,
            first_seq=outcome.first_seq,
            last_seq=outcome.last_seq,
            packed=pack(batch.events),
        )


def _closed_by(event: EmittedEvent) -> str | None:
    """Return the wait that an event closes."""
    if event.type != EventType.AGENT_RESUMED:
        return None
    wait: str = decode_data(event).wait
    return wait


def _first_seq(outcome: Stored | AlreadyStored) -> int:
    return outcome.committed.first_seq if isinstance(outcome, Stored) else outcome.first_seq


def _wake(waiters: Iterable[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]) -> None:
    for loop, future in waiters:
        with contextlib.suppress(RuntimeError):  # that loop was replaced: nobody waits there
            loop.call_soon_threadsafe(_resolve, future)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
