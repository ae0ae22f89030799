"""What a database in memory holds. All access is under `lock`: ports may be called from any event loop."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runwire.errors import NotFound
from runwire.protocol.events import AgentCancelled, emitted, pack
from runwire.storage.base import CancelRequest, Committed, Member, RunStatus, WaitKind
from runwire.storage.batches import packed_size
from runwire.storage.clock import now_ms
from runwire.storage.memory.auth import MemoryAuthStore
from runwire.storage.offering import CLOCK_SLACK_MS

__all__ = ["UNFINISHED", "Present", "Run", "Segment", "State", "Thread", "User", "Wait"]

UNFINISHED: frozenset[RunStatus] = frozenset({"queued", "running", "waiting"})


class Segment(NamedTuple):
    """What one append stored for one run, or what compaction made of several."""

    first_seq: int
    last_seq: int
    run: str
    attempt: int
    ordinal: int | None  # of the first event among those of the run's workers; None: by a gateway
    packed: bytes


@dataclass(slots=True, kw_only=True)
class User:
    """A person, made on first contact."""

    id: str
    turn: int = 0  # when a queued run of theirs was last claimed
    keys: dict[str, Run] = field(default_factory=dict)  # by idempotency key
    issuer: str = "builtin"  # "": who it was, was forgotten
    subject: str = ""
    met_at: int = field(default_factory=now_ms)
    quarantined_at: int | None = None


@dataclass(slots=True, kw_only=True)
class Thread:
    """A conversation and its log."""

    id: str
    user: str
    title: str | None
    created_at: int
    updated_at: int
    head: int = 0
    floor: int = 0
    deleted_at: int | None = None
    segments: list[Segment] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    @property
    def is_deleted(self) -> bool:
        """Return whether it is a tombstone."""
        return self.deleted_at is not None


@dataclass(slots=True, kw_only=True)
class Run:
    """A run; `place` is its rank in order of arrival."""

    id: str
    place: int
    thread: Thread
    user: str
    agent: str
    message: str
    after: int
    key: str | None  # idempotency key
    fingerprint: str
    created_at: int
    seq: int = 0
    status: RunStatus = "queued"
    attempt: int = 0
    ordinal: int = 0
    owner: int | None = None
    worker: str | None = None
    handed_over: str | None = None
    cancel: CancelRequest | None = None
    error: dict[str, Any] | None = None
    started_seq: int | None = None
    terminal_seq: int | None = None
    ended_at: int | None = None
    is_compacted: bool = False
    pinned: bytes | None = None
    blobs: dict[str, bytes] = field(default_factory=dict)
    lost: tuple[int, ...] = ()  # attempts whose worker was lost
    waits: dict[str, Wait] = field(default_factory=dict)
    woken_at: int | None = None  # since when it is to be claimed, parked as it is
    closing: bytes | None = None  # of a parked run: what ends it, should it be cancelled

    @property
    def is_idle(self) -> bool:
        """Return whether nobody holds it or is about to: whoever calls it off ends it."""
        return self.status == "queued" or (self.status == "waiting" and self.woken_at is None)

    def wake(self, now: int) -> None:
        """Have a parked run claimed."""
        if self.status == "waiting" and self.woken_at is None:
            self.woken_at = now

    def end(self, status: RunStatus, *, seq: int, now: int, error: dict[str, Any] | None = None) -> None:
        """Enter what its terminal event says, in the same write."""
        self.status, self.error = status, error
        self.terminal_seq, self.ended_at = seq, now
        self.owner = self.worker = self.woken_at = self.closing = None
        for wait in self.waits.values():
            wait.by = wait.by or "ended"


@dataclass(slots=True, kw_only=True)
class Wait:
    """What a run waits, or waited, for."""

    id: str
    run: Run
    kind: WaitKind
    due_at: int | None
    by: str | None = None  # a user's id, "timer", or "ended" with its run; None: it is open
    value: bytes | None = None  # of an answer, JSON


@dataclass(slots=True, kw_only=True)
class Present:
    """A member, and for how long its word is good."""

    member: Member
    since: int
    seen_at: int
    good_until: int
    left_at: int | None = None

    def is_good(self, now: int) -> bool:
        """Return whether what it said counts."""
        return self.seen_at <= now + CLOCK_SLACK_MS and self.good_until > now

    def has_gap(self, now: int) -> bool:
        """Return whether it was away, should it be there now."""
        return not -CLOCK_SLACK_MS <= now - self.seen_at <= (self.good_until - self.seen_at) // 2


class State:
    """All tables of one database."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.log = secrets.token_hex(6)
        self.incarnation = 0
        self.turn = 0
        self.placed = 0  # runs that there ever were
        self.users: dict[str, User] = {}
        self.threads: dict[str, Thread] = {}
        self.runs: dict[str, Run] = {}
        self.waits: dict[str, Wait] = {}
        self.members: dict[str, Present] = {}
        self.auth = MemoryAuthStore()  # has its own lock

    def user(self, user: str) -> User:
        """Return a user's row, made on first contact."""
        return self.users.setdefault(user, User(id=user, subject=user))

    def thread_of(self, user: str, thread: str) -> Thread:
        """Return a thread of this user. Raises NotFound."""
        found = self.threads.get(thread)
        if found is None or found.is_deleted or found.user != user:
            raise NotFound("There is no such thread.", field="thread")
        return found

    def run_of(self, user: str, run: str) -> Run:
        """Return a run of this user. Raises NotFound."""
        found = self.runs.get(run)
        if found is None or found.thread.is_deleted or found.user != user:
            raise NotFound("There is no such run.", field="run")
        return found

    def add_thread(self, user: str, *, thread: str, title: str | None, now: int) -> Thread:
        """Insert an empty thread."""
        self.user(user)
        added = Thread(id=thread, user=user, title=title, created_at=now, updated_at=now)
        self.threads[thread] = added
        return added

    def extend(self, run: Run, packed: bytes, size: int, *, ordinal: int | None) -> Committed:
        """Give packed events of a run their seqs and store them."""
        thread = run.thread
        first, thread.head = thread.head + 1, thread.head + size
        thread.updated_at = now_ms()
        attempt = run.attempt
        thread.segments.append(Segment(first, thread.head, run.id, attempt, ordinal, packed))
        return Committed(
            log=self.log,
            user=run.user,
            thread=thread.id,
            run=run.id,
            attempt=attempt,
            first_seq=first,
            last_seq=thread.head,
            packed=packed,
        )

    def call_off(self, runs: Iterable[Run], request: CancelRequest) -> list[Committed]:
        """End runs that are queued or parked, in order, and flag those that somebody holds or is about to claim."""
        now = now_ms()
        packed = pack([emitted(AgentCancelled(by=request.by, reason=request.reason), ts=now)])
        all_committed: list[Committed] = []
        for run in runs:
            run.cancel = run.cancel or request
            if not run.is_idle:
                continue
            if run.closing is not None and (size := packed_size(run.closing)):
                all_committed.append(self.extend(run, run.closing, size, ordinal=None))
            committed = self.extend(run, packed, 1, ordinal=None)
            run.end("cancelled", seq=committed.last_seq, now=now)
            all_committed.append(committed)
        return all_committed
