"""The port of runs: a message becomes one, a worker owns it, a person answers it or calls it off."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from runwire.protocol.events import EmittedEvent
from runwire.storage.base_log import Committed

__all__ = [
    "Answer",
    "Answered",
    "CancelRequest",
    "Cancelled",
    "CancelledBy",
    "Claim",
    "IncomingMessage",
    "OnActive",
    "RunRow",
    "RunStatus",
    "Runs",
    "Sent",
    "Signal",
    "Waiting",
]

OnActive = Literal["enqueue", "reject", "interrupt"]
RunStatus = Literal["queued", "running", "waiting", "completed", "failed", "cancelled"]
CancelledBy = Literal["user", "operator", "policy", "revoked"]


class _Value(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An immutable record of a port; it holds no cycle, which spares the garbage collector (`events.EventData`)."""


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
    retry_of: str | None = None  # an ended run of the same thread whose message this is again


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
    is_resumed: bool = False  # it was parked, and answered or called off: nothing is said of the change of worker
    lost: tuple[int, ...] = ()  # the attempts before this one whose worker was lost, oldest first; at least the last 64


class CancelRequest(_Value, frozen=True):
    """Who wants a run to end."""

    by: CancelledBy
    reason: str | None = None


class Answer(_Value, frozen=True):
    """How a wait ended."""

    wait: str
    value: Any  # plain JSON; None of a timer
    by: str  # a user's id, or "timer"


class Signal(_Value, frozen=True):
    """What a holder must learn of its run."""

    run: str
    attempt: int  # the one in the database
    is_lost: bool = False  # it is not held any more: taken over, ended, or gone
    cancel: CancelRequest | None = None
    answers: tuple[Answer, ...] = ()  # of the waits that were asked for


class Answered(_Value, frozen=True):
    """What `answer` stored, or had stored (`committed` is None)."""

    run: str
    thread: str
    wait: str
    committed: Committed | None  # for the bus
    is_parked: bool  # some worker must claim the run; else its holder must hear of it


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


class Waiting(_Value, frozen=True):
    """Runs that wait for a worker, and for nothing else."""

    runs: int  # at most as many as were asked for
    oldest_s: dict[str, float]  # agent to how long its oldest one has waited, at least; agents without any are left out


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
        take_lost: bool = True,
        take_orphans: bool = True,
    ) -> list[Claim]:
        """Take runs: those whose owner is lost first, then parked ones that were answered, then queued ones.

        Users in turn, and of each the oldest first. At most one active run per thread and `user_limit` running ones
        per user, exact also if many claim at once; a parked run is active in its thread and not in this limit.
        `attempt` moves by one for each claim.

        Lost, woken and queued runs alike are taken only if their agent is in `agents`, or is an orphan: no other member
        whose word is good has it (`Members`), so that the run must end visibly. Only a lost run that was called off
        needs no agent. A run that is passed over holds back those behind it in its thread, and nothing else.

        Args:
            worker: who asks; two workers never have the same name.
            agents: that it has.
            limit: how many runs it takes at most.
            user_limit: how many runs of a user may be active.
            holding: the runs that it knows to be its own. Others that it owns count as lost: their claim was stored
                and never answered. None: it does not say, and all that it owns stay as they are.
            take_lost: whether to take runs whose lease has run out. A worker that was itself cut off from the database
                must not, until it has been connected for a whole lease: all others were cut off with it. Runs that
                were given back, and runs of another incarnation, are taken in any case.
            take_orphans: whether to take runs whose agent nobody has. Where owners have leases the database allows it
                only to a member that has announced itself without a gap for as long as its word is good: after an
                outage, or a step of the database's clock, all others look as if they were gone.

        Raises:
            Unavailable: nothing was claimed, or the reply was lost; call again and say what is held.
        """
        ...

    async def waiting(self, *, limit: int, user_limit: int) -> Waiting:
        """Count the runs that a worker with room would take at once, of whatever agent, up to a limit.

        Not counted: what waits behind another run of its thread, is parked or woken, is over its user's limit, or is
        held. A run waits since nothing else was in its way, as far as its thread and its user's `user_limit` runs
        before it tell: rather too short a time than too long. Of a user's queued runs no more than the first
        `2 * user_limit` need be looked at.

        Args:
            limit: how many runs, and on SQLite users, are looked at, at most.
            user_limit: how many runs of a user may be active.
        """
        ...

    async def renew(self, worker: str, held: Mapping[str, int]) -> None:
        """Renew this worker's leases, one statement for all; the database's clock decides (`Storage.lease_s`).

        A lease that has run out is renewed too if nobody took the run. What is not this worker's any more is passed
        over: `signals` tells. Without leases (`lease_s` infinite) it does nothing.

        Args:
            worker: who holds them.
            held: run to attempt.

        Raises:
            Unavailable: renewed or not, nobody knows; the old end of the leases is what counts.
        """
        ...

    async def release(self, run: str, attempt: int, *, reason: Literal["drained", "deploy", "worker_lost"]) -> None:
        """Give a run back at once; nothing happens if it is no longer held.

        Only `worker_lost` counts as a loss. The next claim takes it without waiting for a lease.
        """
        ...

    async def park(
        self, run: str, attempt: int, *, ordinal: int, waits: Collection[str], closing: Sequence[EmittedEvent]
    ) -> bool:
        """Put a run aside that waits for people or times: status `waiting`, held by nobody, one row and no lease.

        If one of these waits was answered meanwhile, or the run was called off, it is parked and at once to be
        claimed again: so no answer is lost, whichever of the two writes comes first.

        Args:
            run: whose code has been unwound and whose events are all stored.
            attempt: that holds it.
            ordinal: events of the run's workers that are stored; another number refuses.
            waits: what it waits for, at least one.
            closing: what ends its open waits, spans, steps and texts, in order, should it be cancelled while it is
                parked; without the terminal event.

        Returns:
            Whether the run is parked; False: the attempt does not own it any more.

        Raises:
            Unavailable: parked or not, nobody knows; call again: True if it is parked by this attempt.
        """
        ...

    async def signals(self, worker: str, held: Mapping[str, int], waits: Collection[str] = ()) -> list[Signal]:
        """Report what a worker must learn of the runs it holds; runs without news are left out.

        Args:
            worker: who holds them.
            held: run to attempt.
            waits: ids of open waits of these runs; their answers are reported as long as they are asked for.
        """
        ...

    async def answer(self, user: str, run: str, wait: str, value: Any) -> Answered:
        """Answer a wait of this user's run: append `agent_resumed`, first wins. Idempotent by user and value.

        A parked run is to be claimed from then on, before queued ones; its status stays `waiting` until then.

        Raises:
            NotFound: unknown or foreign run; no such wait in it.
            Conflict: `conflict`: somebody answered otherwise (says who), its time was over, or the run has ended.
            ProtocolError: an approval takes true or false (field `value`); a timer takes no answer (field `wait`).
        """
        ...

    async def fire_timers(self, *, limit: int = 100) -> list[Answered]:
        """Resume waits whose time has come, with null, by "timer": of runs that are held and of parked ones.

        Any worker may call at any time, first wins; the clock of the database decides, and without one the machine's.
        """
        ...

    async def cancel(self, user: str | None, run: str, request: CancelRequest) -> Cancelled:
        """Ask a run to end; a queued one ends in this write. Idempotent. `user=None`: on behalf of policy.

        A parked one ends in this write too, with the closing events that were stored when it was parked, unless it was
        answered since: then whoever claims it ends it.

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
