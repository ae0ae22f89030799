"""The port of the log: what a worker appends, and how anybody reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec

from runwire.protocol.events import EmittedEvent, StoredEvent

__all__ = [
    "MAX_BATCH_EVENTS",
    "AlreadyStored",
    "Batch",
    "Busy",
    "Committed",
    "EventLog",
    "Fenced",
    "Head",
    "OpenedWait",
    "Outcome",
    "Overtaken",
    "Page",
    "RunEnd",
    "Stored",
    "Unstorable",
    "WaitKind",
]

MAX_BATCH_EVENTS: Final = 500  # of one run in one append; natural group commit, no timer (reference/performance §3c)

WaitKind = Literal["approval", "input", "timer"]


class _Value(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An immutable record of a port; it holds no cycle, which spares the garbage collector (`events.EventData`)."""


class Committed(_Value, frozen=True):
    """One segment as it was committed: what the bus carries and a tail takes."""

    log: str
    user: str
    thread: str
    run: str
    attempt: int
    first_seq: int
    last_seq: int
    packed: bytes  # events.pack


class RunEnd(_Value, frozen=True):
    """The final status that commits together with a run's terminal event, the last of its batch."""

    status: Literal["completed", "failed", "cancelled"]
    error: dict[str, Any] | None = None  # {"code", "message"} of a failed run


class OpenedWait(_Value, frozen=True):
    """A wait that an `agent_waiting` of the batch begins: what an answer or a timer must find."""

    wait: str  # its id, unique in the database
    kind: WaitKind
    due_at: int | None = None  # ms UTC; reached: it is resumed with null, by the timer


class Batch(_Value, frozen=True):
    """What one run appends at once: 1..500 events, frozen when first sent, resent as it is."""

    run: str
    attempt: int  # the fencing token, from `Runs.claim`
    ordinal: int  # how many events this run's workers have appended before this batch
    events: tuple[EmittedEvent, ...]
    end: RunEnd | None = None  # set iff the last event is terminal
    pinned: bytes | None = None  # set with `agent_started`: what a replay must read again (JSON)
    blobs: Mapping[str, bytes] = {}  # content-addressed values that `$ref` in these events names
    waits: tuple[OpenedWait, ...] = ()  # one for each `agent_waiting` among the events
    closes: tuple[str, ...] = ()  # waits that an `agent_resumed` by "ended" among the events closes


class Stored(_Value, frozen=True):
    """The batch was committed by this call."""

    committed: Committed


class AlreadyStored(_Value, frozen=True):
    """An earlier call committed this very batch; its reply was lost."""

    first_seq: int
    last_seq: int


class Fenced(_Value, frozen=True):
    """The attempt does not own the run any more, or the run has ended. Nothing was written."""


class Unstorable(_Value, frozen=True):
    """The database cannot hold this batch, however often it is sent. Nothing of it was written; end the run."""

    reason: str  # for the server's log, not for people


class Overtaken(_Value, frozen=True):
    """A wait that the batch closes was answered first. Nothing was written: read the log, and end the run anew."""


class Busy(_Value, frozen=True):
    """Somebody else holds the thread or run at this moment. Nothing was written: send the batch again, as it is."""


Outcome = Stored | AlreadyStored | Fenced | Unstorable | Overtaken | Busy


class Page(_Value, frozen=True):
    """A stretch of a thread's log."""

    log: str
    head: int  # of the thread, when the page was read
    floor: int  # events up to this seq are gone; 0: none
    events: list[StoredEvent]  # seq ascending, all types, first one > after
    through: int  # everything up to this seq has been looked at; == head: nothing more


class Head(_Value, frozen=True):
    """Where a thread's log ends, and whether more is to be expected; both at one moment."""

    seq: int  # of the last event; 0: none
    is_active: bool  # a run of the thread is queued, running or waiting


class EventLog(Protocol):
    """The append-only log of every thread."""

    async def append(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Append events of runs to their threads.

        Args:
            batches: at most one per run, stored in this order; each names its attempt and expected ordinal.

        Returns:
            One outcome per batch, in order. A refused or unstorable batch never fails the others.

        Raises:
            Unavailable: nothing was written, or the reply was lost; append again, byte for byte.

        Promises: atomic per batch; visible to `read` in seq order, dense per thread; durable when it
        returns; sets `run.started_seq` and `terminal_seq` where they are null and moves the run's status. Never
        waits for a lock of a row: what is locked is answered `Busy`.
        """
        ...

    async def read(self, thread: str, *, after: int, limit: int = 500, size_bytes: int = 262_144) -> Page:
        """Read a thread's events with seq > after, oldest first.

        The caller has checked that the thread is the user's (`Threads.get`). Whole segments are read until
        one of the limits is passed; then events before `after` are dropped. Seqs that compaction left out are
        passed over; what is below the floor is not there.

        Raises:
            NotFound: no such thread, or it was deleted.
        """
        ...

    async def read_many(
        self, cursors: Mapping[str, int], *, limit: int = 2_000, size_bytes: int = 1_048_576
    ) -> dict[str, Page]:
        """Read several threads at once, each from beyond its own seq: one query for all.

        Args:
            cursors: thread to the seq after which it is read; at most 1,000 threads.
            limit: of events in all; what does not fit is read by the next call, as `Page.through` says.
            size_bytes: of packed events in all, likewise.

        Returns:
            One page per thread, as `read` would give it, perhaps shorter or without any event (`through` == the seq
            asked for). Unknown and deleted threads are left out. At least one page goes on, if any can.
        """
        ...

    async def read_run(self, run: str) -> list[StoredEvent]:
        """Read every event of a run, its `user_message` first: the journal of a replay."""
        ...

    async def heads(self, known: Mapping[str, int]) -> dict[str, Head]:
        """Return the heads of those threads whose head is beyond the known one.

        Args:
            known: thread to the seq that the caller has; -1: answer in any case.

        Returns:
            One head per thread that moved. Unknown and deleted threads are left out.

        Promises: one query for all.
        """
        ...

    async def blob(self, user: str, ref: str) -> bytes:
        """Return a stored value of this user's runs, encoded JSON.

        Raises:
            NotFound: unknown or another user's.
        """
        ...

    async def run_blob(self, run: str, ref: str) -> bytes:
        """Return a stored value that an event of this run names: for its replay."""
        ...
