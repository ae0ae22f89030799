"""Runs in memory."""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from runwire.errors import Conflict, NotFound
from runwire.protocol.events import EmittedEvent, UserMessage, emitted, pack
from runwire.protocol.ids import new_id
from runwire.storage.answers import check_answer, check_repeated, encoded, no_wait, resumed
from runwire.storage.base import (
    Answer,
    Answered,
    Cancelled,
    CancelRequest,
    Claim,
    Committed,
    IncomingMessage,
    RunRow,
    RunStatus,
    Sent,
    Signal,
    Waiting,
)
from runwire.storage.clock import now_ms
from runwire.storage.memory.state import UNFINISHED, Run, State, Thread, Wait

__all__ = ["MemoryRuns"]

_INTERRUPTED: Final = CancelRequest(by="policy", reason="interrupt")
_LOST_KEPT: Final = 64  # attempts that a claim tells of


class MemoryRuns:
    """Runs and who owns them, in memory."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def send(self, message: IncomingMessage) -> Sent:
        """Store a message and its run in one write; see `Runs.send`."""
        id_, now = new_id("msg"), now_ms()
        data = UserMessage(message=id_, content=message.content, metadata=message.metadata, retry_of=message.retry_of)
        packed = pack([emitted(data, ts=now)])
        state = self._state
        with state.lock:
            earlier = self._sent_earlier(message.user, message.key, message.fingerprint)
            if earlier is not None:
                return earlier
            if message.thread is None:
                thread = state.add_thread(message.user, thread=new_id("th"), title=None, now=now)
            else:
                thread = state.thread_of(message.user, message.thread)
            unfinished = [run for run in thread.runs if run.status in UNFINISHED]
            if message.on_active == "reject" and unfinished:
                raise Conflict("A run of this thread has not ended; wait for it, or interrupt it.", code="run_active")
            way = unfinished if message.on_active == "interrupt" else []
            stop = tuple(run.id for run in way if run.status == "running")
            after = thread.head
            committed = state.call_off(way, _INTERRUPTED)
            run = self._add(message, thread, id_=id_, after=after, now=now)
            said = state.extend(run, packed, 1, ordinal=None)
            run.seq = said.first_seq
            return _sent(state.log, run, committed=(*committed, said), stop=stop, is_new=True)

    async def sent(self, user: str, key: str, fingerprint: str) -> Sent | None:
        """Return what a key stored; see `Runs.sent`."""
        with self._state.lock:
            return self._sent_earlier(user, key, fingerprint)

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
    ) -> builtins.list[Claim]:
        """Take runs: lost ones, woken ones, queued ones; see `Runs.claim`. Without leases none can run out."""
        state = self._state

        def may_take(run: Run) -> bool:
            if run.agent in agents or (run.status == "running" and run.cancel is not None):
                return True
            now, others = now_ms(), [one for one in state.members.values() if one.member.node != worker]
            return take_orphans and not any(one.is_good(now) and run.agent in one.member.agents for one in others)

        def is_lost(run: Run) -> bool:
            if run.owner != state.incarnation:
                return True
            return holding is not None and run.worker == worker and run.id not in holding

        with state.lock:
            running = [run for run in state.runs.values() if run.status == "running"]
            lost = [run for run in running if is_lost(run) and may_take(run)]
            claims = [self._claim(run, worker) for run in lost[:limit]]
            # Each after those before it were taken: they count against their users' limits.
            for waiting in (self._woken, self._queued):
                takeable = [run for run in waiting() if may_take(run)]
                for run in self._in_turn(takeable, user_limit)[: limit - len(claims)]:
                    state.turn += 1
                    state.user(run.user).turn = state.turn
                    claims.append(self._claim(run, worker))
            return claims

    async def waiting(self, *, limit: int, user_limit: int) -> Waiting:
        """Count the runs that wait for a worker; see `Runs.waiting`."""
        with self._state.lock:
            now, runs = now_ms(), self._in_turn(self._queued(), user_limit)[:limit]
            oldest: dict[str, float] = {}
            for run in runs:
                waited_s = max(0, now - self._free_since(run, user_limit)) / 1000
                oldest[run.agent] = max(waited_s, oldest.get(run.agent, 0.0))
            return Waiting(runs=len(runs), oldest_s=oldest)

    def _free_since(self, run: Run, user_limit: int) -> int:
        """Return since when nothing was in the way of a run, as far as those before it tell."""
        before = [one for one in self._state.runs.values() if one.user == run.user and one.place < run.place]
        of_thread = [one for one in before if one.thread is run.thread]
        ends = [one.ended_at or 0 for one in (*of_thread[-1:], *before[-user_limit:])]
        return max(run.created_at, *ends, 0)

    async def renew(self, worker: str, held: Mapping[str, int]) -> None:
        """Do nothing: there are no leases."""

    async def release(self, run: str, attempt: int, *, reason: Literal["drained", "deploy", "worker_lost"]) -> None:
        """Give a run back at once; see `Runs.release`."""
        with self._state.lock:
            found = self._state.runs.get(run)
            if found is None or not self._is_held(found, attempt):
                return
            found.owner = found.worker = None
            if reason == "worker_lost":
                found.lost = (*found.lost, attempt)
            else:
                found.handed_over = reason

    async def park(
        self, run: str, attempt: int, *, ordinal: int, waits: Collection[str], closing: Sequence[EmittedEvent]
    ) -> bool:
        """Put a run aside that waits for people or times; see `Runs.park`."""
        packed = pack(closing)
        with self._state.lock:
            found = self._state.runs.get(run)
            if found is None or not self._is_held(found, attempt) or found.ordinal != ordinal:
                return found is not None and (found.status, found.attempt) == ("waiting", attempt)
            found.status, found.closing = "waiting", packed
            found.owner = found.worker = None
            open_waits = {wait.id for wait in found.waits.values() if wait.by is None}
            # Also without waits, or with one that nobody can answer: it would lie there for good.
            if found.cancel is not None or not waits or not open_waits.issuperset(waits):
                found.wake(now_ms())
            return True

    async def signals(self, worker: str, held: Mapping[str, int], waits: Collection[str] = ()) -> builtins.list[Signal]:
        """Report what this worker must learn of its runs; see `Runs.signals`."""
        with self._state.lock:
            signals = [self._signal(worker, run, attempt, waits) for run, attempt in held.items()]
        return [one for one in signals if one.is_lost or one.cancel is not None or one.answers]

    async def answer(self, user: str, run: str, wait: str, value: Any) -> Answered:
        """Answer a wait of this user's run; see `Runs.answer`."""
        with self._state.lock:
            found = self._state.run_of(user, run).waits.get(wait)
            if found is None:
                raise no_wait()
            check_answer(found.kind, value)
            if found.by is None:
                return self._resume(found, value, by=user)
            check_repeated(user, value, by=found.by, stored=found.value)
            return _answered(found, None)

    async def fire_timers(self, *, limit: int = 100) -> builtins.list[Answered]:
        """Resume waits whose time has come; see `Runs.fire_timers`."""
        with self._state.lock:
            now = now_ms()
            due = [
                (wait.due_at, wait)
                for wait in self._state.waits.values()
                if wait.by is None and wait.due_at is not None and wait.due_at <= now
            ]
            return [self._resume(wait, None, by="timer") for _, wait in sorted(due, key=lambda one: one[0])[:limit]]

    async def cancel(self, user: str | None, run: str, request: CancelRequest) -> Cancelled:
        """Ask a run to end; see `Runs.cancel`."""
        with self._state.lock:
            if user is not None:
                return self._cancel(self._state.run_of(user, run), request)
            if run not in self._state.runs:
                raise NotFound("There is no such run.", field="run")
            return self._cancel(self._state.runs[run], request)

    async def cancel_user(self, user: str, request: CancelRequest) -> builtins.list[Cancelled]:
        """Cancel all unfinished runs of a user."""
        with self._state.lock:
            theirs = [run for run in self._state.runs.values() if run.user == user and run.status in UNFINISHED]
            return [self._cancel(run, request) for run in theirs]

    async def get(self, user: str, run: str) -> RunRow:
        """Return a run of this user. Raises NotFound."""
        with self._state.lock:
            return _run_row(self._state.run_of(user, run))

    async def list(
        self,
        user: str,
        *,
        thread: str | None = None,
        status: RunStatus | None = None,
        agent: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> builtins.list[RunRow]:
        """List a user's runs, newest first."""
        with self._state.lock:
            theirs = [run for run in reversed(self._state.runs.values()) if run.user == user]
            if before is not None:
                ids = [run.id for run in theirs]
                theirs = theirs[ids.index(before) + 1 :] if before in ids else []
            return [
                _run_row(run)
                for run in theirs
                if not run.thread.is_deleted
                and thread in (None, run.thread.id)
                and status in (None, run.status)
                and agent in (None, run.agent)
            ][:limit]

    def _sent_earlier(self, user: str, key: str | None, fingerprint: str) -> Sent | None:
        known = self._state.users.get(user)
        run = known.keys.get(key) if known and key is not None else None
        if run is None:
            return None
        if run.fingerprint != fingerprint:
            raise Conflict("This key was used with another message; take a new one.", field="key")
        if run.thread.is_deleted:
            raise NotFound("There is no such thread.", field="thread")
        return _sent(self._state.log, run)

    def _add(self, message: IncomingMessage, thread: Thread, *, id_: str, after: int, now: int) -> Run:
        self._state.placed += 1
        run = Run(
            id=new_id("run"),
            place=self._state.placed,
            thread=thread,
            user=message.user,
            agent=message.agent,
            message=id_,
            after=after,
            key=message.key,
            fingerprint=message.fingerprint,
            created_at=now,
        )
        self._state.runs[run.id] = run
        thread.runs.append(run)
        if message.key is not None:
            self._state.user(message.user).keys[message.key] = run
        return run

    def _is_held(self, run: Run, attempt: int) -> bool:
        return (run.attempt, run.status, run.owner) == (attempt, "running", self._state.incarnation)

    def _signal(self, worker: str, run: str, attempt: int, waits: Collection[str]) -> Signal:
        found = self._state.runs.get(run)
        if found is None:
            return Signal(run=run, attempt=attempt, is_lost=True)
        if not self._is_held(found, attempt) or found.worker != worker:
            return Signal(run=run, attempt=found.attempt, is_lost=True)
        closed = [found.waits[wait] for wait in waits if wait in found.waits]
        answers = tuple(
            Answer(wait=wait.id, value=None if wait.value is None else msgspec.json.decode(wait.value), by=wait.by)
            for wait in closed
            if wait.by is not None
        )
        return Signal(run=run, attempt=attempt, cancel=found.cancel, answers=answers)

    def _resume(self, wait: Wait, value: Any, *, by: str) -> Answered:
        """Close an open wait and say so in the log."""
        now, run = now_ms(), wait.run
        packed = resumed(wait.id, value, by=by, now=now)
        wait.by, wait.value = by, None if by == "timer" else encoded(value)
        run.wake(now)
        return _answered(wait, self._state.extend(run, packed, 1, ordinal=None))

    def _woken(self) -> builtins.list[Run]:
        """Return the parked runs that were answered, those that were first answered first."""
        woken = [(run.woken_at, run.place, run) for run in self._state.runs.values() if run.woken_at is not None]
        return [run for *_, run in sorted(woken, key=lambda one: one[:2])]

    def _queued(self) -> builtins.list[Run]:
        """Return the queued runs that are next in their threads, oldest first."""
        runs = self._state.runs.values()
        return [
            run
            for run in runs
            if run.status == "queued" and next(one for one in run.thread.runs if one.status in UNFINISHED) is run
        ]

    def _in_turn(self, waiting: Sequence[Run], user_limit: int) -> builtins.list[Run]:
        """Return those that may start, users in turn, who was served longest ago first."""
        active = Counter(run.user for run in self._state.runs.values() if run.status == "running")
        place: Counter[str] = Counter()
        candidates: builtins.list[tuple[int, int, int, Run]] = []
        for rank, run in enumerate(waiting):
            if active[run.user] + place[run.user] < user_limit:
                place[run.user] += 1
                candidates.append((place[run.user], self._state.user(run.user).turn, rank, run))
        return [run for *_, run in sorted(candidates, key=lambda one: one[:3])]

    def _claim(self, run: Run, worker: str) -> Claim:
        if run.status == "running" and run.owner not in (None, self._state.incarnation):
            run.lost = (*run.lost, run.attempt)[-_LOST_KEPT:]
        is_resumed = run.status == "waiting"
        run.status, run.owner, run.worker = "running", self._state.incarnation, worker
        run.woken_at = run.closing = None
        run.attempt += 1
        handed_over, run.handed_over = run.handed_over, None
        return Claim(
            run=run.id,
            thread=run.thread.id,
            user=run.user,
            agent=run.agent,
            message=run.message,
            attempt=run.attempt,
            ordinal=run.ordinal,
            created_at=run.created_at,
            pinned=run.pinned,
            cancel=run.cancel,
            handed_over=handed_over,
            is_resumed=is_resumed,
            lost=run.lost,
        )

    def _cancel(self, run: Run, request: CancelRequest) -> Cancelled:
        committed = self._state.call_off([run], request) if run.status in UNFINISHED else []
        return Cancelled(run=run.id, thread=run.thread.id, status=run.status, committed=tuple(committed))


def _sent(
    log: str, run: Run, *, committed: tuple[Committed, ...] = (), stop: tuple[str, ...] = (), is_new: bool = False
) -> Sent:
    return Sent(
        log=log,
        thread=run.thread.id,
        run=run.id,
        message=run.message,
        seq=run.seq,
        after=run.after,
        is_new=is_new,
        committed=committed,
        stop=stop,
    )


def _answered(wait: Wait, committed: Committed | None) -> Answered:
    run = wait.run
    return Answered(
        run=run.id, thread=run.thread.id, wait=wait.id, committed=committed, is_parked=run.status == "waiting"
    )


def _run_row(run: Run) -> RunRow:
    return RunRow(
        run=run.id,
        thread=run.thread.id,
        user=run.user,
        agent=run.agent,
        status=run.status,
        attempt=run.attempt,
        message=run.message,
        seq=run.seq,
        started_seq=run.started_seq,
        terminal_seq=run.terminal_seq,
        error=run.error,
        created_at=run.created_at,
        ended_at=run.ended_at,
    )
