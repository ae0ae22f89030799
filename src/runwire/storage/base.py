"""Where truth lives: the ports and what each promises. Adapters: `memory/`, `sqlite/`.

Every write is one call and one atomic effect, so that a PostgreSQL adapter can make it one statement
(a process stopped between two round trips would hold its locks). Ids are opaque text; times are ms UTC.
All methods may be called from any event loop; a cancelled caller leaves the write whole: done or not done.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec

from runwire.protocol.events import EmittedEvent, StoredEvent
from runwire.storage.base_auth import (
    AuthEvent,
    AuthKind,
    AuthPage,
    AuthSnapshot,
    AuthStore,
    KeyRow,
    SessionRow,
    SigningKeyRow,
    TicketRow,
    UserRow,
    UserStatus,
)
from runwire.storage.base_upkeep import BackedUp, Compacted, Stats, Trimmed, Upkeep

__all__ = [
    "MAX_BATCH_EVENTS",
    "AlreadyStored",
    "AuthEvent",
    "AuthKind",
    "AuthPage",
    "AuthSnapshot",
    "AuthStore",
    "BackedUp",
    "Batch",
    "Bus",
    "BusMessage",
    "Cancelled",
    "Claim",
    "Committed",
    "Compacted",
    "EventLog",
    "Fenced",
    "Head",
    "IncomingMessage",
    "KeyRow",
    "OnActive",
    "Outcome",
    "Page",
    "RunEnd",
    "RunRow",
    "RunStatus",
    "Runs",
    "Sent",
    "SessionRow",
    "Signal",
    "SigningKeyRow",
    "Stats",
    "Storage",
    "Stored",
    "ThreadRow",
    "Threads",
    "TicketRow",
    "Trimmed",
    "Upkeep",
    "UserRow",
    "UserStatus",
    "Wake",
]

MAX_BATCH_EVENTS: Final = 500  # of one run in one append; natural group commit, no timer (reference/performance §3c)

OnActive = Literal["enqueue", "reject", "interrupt"]
RunStatus = Literal["queued", "running", "waiting", "completed", "failed", "cancelled"]
CancelledBy = Literal["user", "operator", "policy", "revoked"]


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


class Batch(_Value, frozen=True):
    """What one run appends at once: 1..500 events, frozen when first sent, resent as it is."""

    run: str
    attempt: int  # the fencing token, from `Runs.claim`
    ordinal: int  # how many events this run's workers have appended before this batch
    events: tuple[EmittedEvent, ...]
    end: RunEnd | None = None  # set iff the last event is terminal
    pinned: bytes | None = None  # set with `agent_started`: what a replay must read again (JSON)
    blobs: Mapping[str, bytes] = {}  # content-addressed values that `$ref` in these events names


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


Outcome = Stored | AlreadyStored | Fenced | Unstorable


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
        returns; sets `run.started_seq` and `terminal_seq` where they are null and moves the run's status.
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


class ThreadRow(_Value, frozen=True):
    """A conversation. `active` is its queued or running run that is oldest, if any."""

    thread: str
    user: str
    title: str | None
    head: int
    floor: int
    created_at: int
    updated_at: int


class Threads(Protocol):
    """The conversations of users. Foreign and unknown are the same `NotFound`."""

    async def create(self, user: str, *, title: str | None = None) -> ThreadRow:
        """Create an empty thread; the user's row is made on first contact."""
        ...

    async def get(self, user: str, thread: str) -> ThreadRow:
        """Return a thread of this user.

        Raises:
            NotFound: unknown, deleted, or somebody else's.
        """
        ...

    async def rename(self, user: str, thread: str, title: str | None) -> ThreadRow:
        """Set the title. Raises NotFound."""
        ...

    async def delete(self, user: str, thread: str) -> list[str]:
        """Leave a tombstone, cancel queued runs, flag the running one; return ids of runs to be stopped."""
        ...

    async def reset_from(self, thread: str) -> int:
        """Return PROTOCOL's `from`: the seq before the `user_message` of the oldest unfinished run, else the last.

        Never below the thread's floor.
        """
        ...

    async def list(self, user: str, *, before: str | None = None, limit: int = 50) -> list[ThreadRow]:
        """List a user's threads, newest first; `before` is the last thread id of the previous page."""
        ...


class IncomingMessage(_Value, frozen=True):
    """A person's message, checked. Its event and its run are one write."""

    user: str
    thread: str | None  # None: a new one is made
    agent: str
    content: Any
    metadata: dict[str, Any] | None = None
    on_active: OnActive = "enqueue"
    key: str | None = None  # idempotency key, unique per user
    fingerprint: str = ""  # hash of the body as it came with `key` (the agent as it was named); another is a conflict


class Sent(_Value, frozen=True):
    """What `send` stored (or had stored, `is_new=False`)."""

    log: str
    thread: str
    run: str
    message: str
    seq: int  # of the user_message
    after: int  # the thread's position just before this write's first event
    is_new: bool
    committed: tuple[Committed, ...]  # for the bus, in seq order
    stop: tuple[str, ...] = ()  # running runs that `interrupt` flagged


class Claim(_Value, frozen=True):
    """A run that this worker now owns."""

    run: str
    thread: str
    user: str
    agent: str
    message: str  # id of the user's message
    attempt: int
    ordinal: int  # events appended by workers so far
    created_at: int
    pinned: bytes | None  # of the first attempt
    cancel: CancelRequest | None  # asked for while nobody held it: end it without replay
    handed_over: str | None = None  # reason an earlier holder gave it back ("drained", "deploy"); None: it was lost


class CancelRequest(_Value, frozen=True):
    """Who wants a run to end."""

    by: CancelledBy
    reason: str | None = None


class Signal(_Value, frozen=True):
    """What a holder must learn of its run."""

    run: str
    attempt: int  # the one in the database; another one than held: the run is lost
    cancel: CancelRequest | None


class Cancelled(_Value, frozen=True):
    """What `cancel` found or did."""

    run: str
    thread: str
    status: RunStatus  # after the call; "running": the holder was asked
    committed: tuple[Committed, ...]


class RunRow(_Value, frozen=True):
    """A run, for people."""

    run: str
    thread: str
    user: str
    agent: str
    status: RunStatus
    attempt: int
    message: str
    seq: int  # of its user_message
    started_seq: int | None
    terminal_seq: int | None
    error: dict[str, Any] | None
    created_at: int
    ended_at: int | None


class Runs(Protocol):
    """Runs and who owns them."""

    async def send(self, message: IncomingMessage) -> Sent:
        """Store a message and its run; idempotent by (user, key).

        Raises:
            NotFound: the thread is unknown or foreign.
            Conflict: `conflict`: the key was used with another body; `run_active`: on_active="reject".
        """
        ...

    async def sent(self, user: str, key: str, fingerprint: str) -> Sent | None:
        """Return what this key stored, as `send` would answer it again; None: it stored nothing.

        For a body that cannot be sent any more, such as one whose agent is gone. It reserves nothing: whether
        a key is new is decided by `send` alone.

        Raises:
            NotFound: its thread was deleted.
            Conflict: `conflict`: the key was used with another body.
        """
        ...

    async def claim(
        self,
        worker: str,
        *,
        agents: Sequence[str],
        limit: int,
        user_limit: int,
        holding: Collection[str] | None = None,
    ) -> list[Claim]:
        """Take runs: those whose owner is lost first, then queued ones, users in turn, oldest first.

        At most one active run per thread and `user_limit` per user. `attempt` moves by one for each claim.
        A queued run whose agent is not in `agents` is claimed too (it must end visibly).

        Args:
            worker: who asks; two workers never have the same name.
            agents: that it has.
            limit: how many runs it takes at most.
            user_limit: how many runs of a user may be active.
            holding: the runs that it knows to be its own. Others that it owns count as lost: their claim was stored
                and never answered. None: it does not say, and all that it owns stay as they are.

        Raises:
            Unavailable: nothing was claimed, or the reply was lost; call again and say what is held.
        """
        ...

    async def release(self, run: str, attempt: int, *, reason: Literal["drained", "deploy", "worker_lost"]) -> None:
        """Give a run back at once, without counting a loss; nothing happens if it is no longer held."""
        ...

    async def signals(self, worker: str) -> list[Signal]:
        """Renew this worker's leases and report its runs that were cancelled, and those it lost."""
        ...

    async def cancel(self, user: str | None, run: str, request: CancelRequest) -> Cancelled:
        """Ask a run to end; a queued one ends in this write. Idempotent. `user=None`: on behalf of policy.

        Raises:
            NotFound: unknown or foreign.
        """
        ...

    async def cancel_user(self, user: str, request: CancelRequest) -> list[Cancelled]:
        """Cancel all unfinished runs of a user (withdrawn access)."""
        ...

    async def get(self, user: str, run: str) -> RunRow:
        """Return a run of this user. Raises NotFound."""
        ...

    async def list(
        self,
        user: str,
        *,
        thread: str | None = None,
        status: RunStatus | None = None,
        agent: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[RunRow]:
        """List a user's runs, newest first; `before` is the last run id of the previous page."""
        ...


class Wake(_Value, frozen=True):
    """A hint without content: look into the database."""

    topic: Literal["runs", "signals", "auth", "deleted", "beacon"]
    thread: str | None = None
    node: str | None = None  # of a beacon: who sent it, to hear whether the bus works


BusMessage = Committed | Wake


class Bus(Protocol):
    """Best-effort hints between processes. May lose, repeat or reorder; costs latency and nothing else."""

    def publish(self, message: BusMessage) -> None:
        """Hand a message over without waiting; it is dropped when the bus is slow. Any thread may call."""
        ...

    def listen(self, hear: Callable[[BusMessage], None]) -> Callable[[], None]:
        """Call `hear` in this event loop for every message from now on; returns the way to stop."""
        ...

    async def close(self) -> None:
        """Stop; later publishes are dropped."""
        ...


class Storage(Protocol):
    """One database: all its ports, opened by `open_storage(url)`."""

    @property
    def log(self) -> str:
        """Identity of the database's history (PROTOCOL `log`)."""
        ...

    @property
    def events(self) -> EventLog:
        """The log."""
        ...

    @property
    def runs(self) -> Runs:
        """Runs and their owners."""
        ...

    @property
    def threads(self) -> Threads:
        """Conversations."""
        ...

    @property
    def auth(self) -> AuthStore:
        """Tables of the auth service and their log of changes."""
        ...

    @property
    def upkeep(self) -> Upkeep:
        """Compaction, retention, figures and backup."""
        ...

    async def ping(self) -> None:
        """Prove that the database answers. Raises Unavailable."""
        ...

    async def close(self) -> None:
        """Finish queued writes, then close. Idempotent."""
        ...
