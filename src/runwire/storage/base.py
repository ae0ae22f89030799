"""Where truth lives: the ports and what each promises. Adapters: `memory/`, `sqlite/`, `postgres/`.

Every write is one call and one atomic effect, so that the PostgreSQL adapter makes it one statement
(a process stopped between two round trips would hold its locks). Ids are opaque text; times are ms UTC.
All methods may be called from any event loop; a cancelled caller leaves the write whole: done or not done.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal, Protocol

import msgspec

from runwire.storage.base_audit import Audit, AuditEntry, AuditPage, AuditRow
from runwire.storage.base_auth import (
    AuthEvent,
    AuthKind,
    AuthPage,
    AuthSnapshot,
    AuthStore,
    InviteRow,
    KeyRow,
    SessionRow,
    SigningKeyRow,
    TicketRow,
    UserRow,
    UserStatus,
)
from runwire.storage.base_erasure import Erased, Erasure
from runwire.storage.base_log import (
    MAX_BATCH_EVENTS,
    AlreadyStored,
    Batch,
    Busy,
    Committed,
    EventLog,
    Fenced,
    Head,
    OpenedWait,
    Outcome,
    Overtaken,
    Page,
    RunEnd,
    Stored,
    Unstorable,
    WaitKind,
)
from runwire.storage.base_members import GOOD_S, MAX_AGENTS, RESERVED, Member, MemberRow, Members, Offered
from runwire.storage.base_people import People, PersonRow
from runwire.storage.base_runs import (
    Answer,
    Answered,
    Cancelled,
    CancelledBy,
    CancelRequest,
    Claim,
    IncomingMessage,
    OnActive,
    RunRow,
    Runs,
    RunStatus,
    Sent,
    Signal,
    Waiting,
)
from runwire.storage.base_upkeep import BackedUp, Compacted, Stats, Trimmed, Upkeep

__all__ = [
    "GOOD_S",
    "MAX_AGENTS",
    "MAX_BATCH_EVENTS",
    "RESERVED",
    "AlreadyStored",
    "Answer",
    "Answered",
    "Audit",
    "AuditEntry",
    "AuditPage",
    "AuditRow",
    "AuthEvent",
    "AuthKind",
    "AuthPage",
    "AuthSnapshot",
    "AuthStore",
    "BackedUp",
    "Batch",
    "Bus",
    "BusMessage",
    "Busy",
    "CancelRequest",
    "Cancelled",
    "CancelledBy",
    "Claim",
    "Committed",
    "Compacted",
    "Erased",
    "Erasure",
    "EventLog",
    "Fenced",
    "Head",
    "IncomingMessage",
    "InviteRow",
    "KeyRow",
    "Member",
    "MemberRow",
    "Members",
    "Offered",
    "OnActive",
    "OpenedWait",
    "Outcome",
    "Overtaken",
    "Page",
    "People",
    "PersonRow",
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
    "Unstorable",
    "Upkeep",
    "UserRow",
    "UserStatus",
    "WaitKind",
    "Waiting",
    "Wake",
]


class _Value(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An immutable record of a port; it holds no cycle, which spares the garbage collector (`events.EventData`)."""


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

    async def get_many(self, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], ThreadRow]:
        """Return threads of users, each looked up within its own user: one query for all.

        Args:
            pairs: user and thread; at most 1,000.

        Returns:
            One row per pair that `get` would find; the others are left out.
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


class Wake(_Value, frozen=True):
    """A hint without content: look into the database.

    `moved`: the thread's log goes on, to `seq` at least; without a thread: hints may have been lost, look at all.
    """

    topic: Literal["runs", "signals", "auth", "deleted", "moved", "members", "beacon"]
    thread: str | None = None
    node: str | None = None  # of a beacon: who sent it, to hear whether the bus works
    seq: int | None = None  # of a thread that moved


BusMessage = Committed | Wake


class Bus(Protocol):
    """Best-effort hints between processes. May lose, repeat or reorder; costs latency and nothing else."""

    @property
    def beacon_s(self) -> float:
        """Return how often a node may ask the bus, by a beacon, whether it works."""
        ...

    async def run(self) -> None:
        """Carry messages between processes until cancelled; returns at once if there is only one.

        Until then, and whenever the way to the others is cut, messages reach this process alone.
        """
        ...

    def publish(self, message: BusMessage) -> None:
        """Hand a message over without waiting; it is dropped when the bus is slow. Any thread may call."""
        ...

    def listen(self, hear: Callable[[BusMessage], None]) -> Callable[[], None]:
        """Call `hear` in this event loop for every message from now on; returns the way to stop."""
        ...

    def follow(self, user: str) -> Callable[[], None]:
        """Have commits of this user's threads brought here from other processes; returns the way to stop.

        Counted: who follows twice stops twice. Wake-ups come in any case, and so may commits of users whom nobody
        follows. A bus that cannot choose does nothing here. In the loop of `run`.
        """
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
    def lease_s(self) -> float:
        """How long a claim is good for unless it is renewed; infinite: as long as this process owns the database."""
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
    def people(self) -> People:
        """The backend's own rows of users."""
        ...

    @property
    def members(self) -> Members:
        """The processes that serve this database, and their agents."""
        ...

    @property
    def erasure(self) -> Erasure:
        """The end of a person's data."""
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
