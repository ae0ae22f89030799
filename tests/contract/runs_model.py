"""What people and workers may expect of runs, as plainly as it can be said: the model of `runs_machine`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from runwire.protocol.events import StoredEvent, decode_data
from runwire.storage.base import Answer, CancelRequest, Claim, RunStatus, Signal, WaitKind

__all__ = ["UNFINISHED", "Model", "Run", "Thread", "Wait", "word"]

UNFINISHED: tuple[RunStatus, ...] = ("queued", "running", "waiting")
Left = Literal["crashed", "given back"]


def word(event: StoredEvent) -> str:
    """Return an event as the model has it."""
    data = decode_data(event)
    match event.type:
        case "agent_thinking":
            return str(data.text)
        case "agent_waiting":
            return f"waiting {data.wait}"
        case "agent_resumed":
            return resumed(data.wait, data.by)
        case other:
            return other


def resumed(wait: str, by: str) -> str:
    return f"resumed {wait} by {by}"


@dataclass(repr=False)
class Wait:
    """What a run waits, or waited, for."""

    id: str
    run: Run
    kind: WaitKind
    due_at: int | None
    by: str | None = None  # None: open
    value: bool | None = None

    def __repr__(self) -> str:
        return f"<{self.id} {self.kind} by {self.by}>"

    @property
    def answer(self) -> Answer:
        assert self.by is not None
        return Answer(wait=self.id, value=self.value, by=self.by)


@dataclass(repr=False)
class Thread:
    """A conversation; each entry of its log is (run, attempt, word)."""

    id: str
    user: str
    log: list[tuple[str, int, str]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    is_deleted: bool = False

    def __repr__(self) -> str:
        return f"<{self.id}>"


@dataclass(eq=False, repr=False)
class Run:
    """A run and who holds it."""

    id: str
    thread: Thread
    place: int  # in order of arrival
    agent: str
    status: RunStatus = "queued"
    attempt: int = 0
    ordinal: int = 0
    worker: str | None = None
    left: Left | None = None  # a running one that is to be claimed, and why
    handed_over: str | None = None
    lost: tuple[int, ...] = ()
    cancel: CancelRequest | None = None
    is_woken: bool = False
    closing: tuple[str, ...] = ()
    waits: dict[str, Wait] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<{self.id} {self.status}>"

    @property
    def user(self) -> str:
        return self.thread.user

    def say(self, *words: str) -> None:
        """Append what a gateway writes."""
        self.thread.log += [(self.id, self.attempt, one) for one in words]

    def end(self, status: RunStatus) -> None:
        """Enter what the terminal event says."""
        self.status, self.worker, self.left, self.is_woken = status, None, None, False
        for wait in self.waits.values():
            wait.by = wait.by or "ended"

    def call_off(self, request: CancelRequest) -> bool:
        """Cancel it; return whether that ended it."""
        self.cancel = self.cancel or request
        if self.status == "queued" or (self.status == "waiting" and not self.is_woken):
            self.say(*(self.closing if self.status == "waiting" else ()), "agent_cancelled")
            self.end("cancelled")
            return True
        return False

    def resume(self, wait: Wait, by: str, value: bool | None) -> None:
        """Close an open wait."""
        wait.by, wait.value = by, value
        self.say(resumed(wait.id, by))
        self.is_woken = self.status == "waiting"


class Model:
    """All threads, runs and waits."""

    def __init__(self) -> None:
        self.threads: dict[str, Thread] = {}
        self.runs: dict[str, Run] = {}
        self.waits: dict[str, Wait] = {}
        self.members: dict[str, tuple[str, ...]] = {}  # their agents, of those whose word is good

    def of(self, *statuses: RunStatus) -> list[Run]:
        return [run for run in self.runs.values() if run.status in statuses]

    def crash(self) -> None:
        """Lose all workers."""
        self.members.clear()
        for run in self.of("running"):
            run.left = run.left or "crashed"

    def due(self, limit: int) -> list[Wait]:
        """Return the waits whose time has come, longest ago first; every small time has."""
        past = [wait for wait in self.waits.values() if wait.by is None and (wait.due_at or 10**9) < 10**9]
        return sorted(past, key=lambda wait: wait.due_at or 0)[:limit]

    # claim ------------------------------------------------------------------------------------------

    def check_claims(
        self,
        claims: Sequence[Claim],
        worker: str,
        *,
        agents: Collection[str],
        limit: int,
        user_limit: int,
        holding: Collection[str] | None,
        takes_orphans: bool,
    ) -> None:
        """See that exactly what may be claimed was, and enter it."""
        elsewhere = {agent for node, theirs in self.members.items() if node != worker for agent in theirs}

        def takeable(candidates: Iterable[Run]) -> list[Run]:
            return [run for run in candidates if run.agent in agents or (takes_orphans and run.agent not in elsewhere)]

        runs = [self.runs[claim.run] for claim in claims]
        assert len({run.id for run in runs}) == len(runs) <= limit
        unknown = [
            run for run in self.of("running") if holding is not None and run.worker == worker and run.id not in holding
        ]
        unheld = [run for run in self.of("running") if run.left is not None or run in unknown]
        lost = {run.id for run in unheld if run.cancel is not None} | {run.id for run in takeable(unheld)}
        count = min(limit, len(lost))
        assert {run.id for run in runs[:count]} <= lost
        rest = runs[count:]
        active = Counter(run.user for run in self.of("running"))
        woken = [run for run in self.of("waiting") if run.is_woken]
        queued = takeable(self._next_of_their_threads())
        for candidates in (takeable(woken), queued):
            room = Counter({user: user_limit - active[user] for user in {run.user for run in candidates}})
            theirs = Counter(run.user for run in candidates)
            count = min(limit - (len(runs) - len(rest)), sum(max(0, min(theirs[user], room[user])) for user in theirs))
            taken, rest = rest[:count], rest[count:]
            assert len(taken) == count
            assert {run.id for run in taken} <= {run.id for run in candidates}
            self._check_turns(taken, queued)
            active.update(run.user for run in taken)
            assert all(active[run.user] <= user_limit for run in taken)
        assert rest == []
        for claim in claims:
            self._enter(claim, worker)

    def _next_of_their_threads(self) -> list[Run]:
        firsts = [[run for run in thread.runs if run.status in UNFINISHED][:1] for thread in self.threads.values()]
        return [run for first in firsts for run in first if run.status == "queued"]

    def _check_turns(self, taken: Sequence[Run], queued: Sequence[Run]) -> None:
        """See that nobody's second run goes before anybody's first, and of queued ones the oldest first."""
        places: Counter[str] = Counter()
        order: list[int] = []
        for run in taken:
            places[run.user] += 1
            order.append(places[run.user])
        assert order == sorted(order)
        for user in places:
            theirs = [run.place for run in taken if run.user == user and run.status == "queued"]
            older = [run.place for run in queued if run.user == user]
            assert theirs == sorted(older)[: len(theirs)]

    def _enter(self, claim: Claim, worker: str) -> None:
        run = self.runs[claim.run]
        is_resumed = run.status == "waiting"
        if run.left == "crashed":
            run.lost += (run.attempt,)
        run.attempt += 1
        expected = (
            run.thread.id,
            run.user,
            run.attempt,
            run.ordinal,
            run.cancel,
            run.handed_over,
            is_resumed,
            run.lost,
        )
        found = (claim.thread, claim.user, claim.attempt, claim.ordinal, claim.cancel, claim.handed_over)
        assert (*found, claim.is_resumed, claim.lost) == expected
        run.status, run.worker, run.left, run.handed_over, run.is_woken = "running", worker, None, None, False

    # signals ----------------------------------------------------------------------------------------

    def signals(self, worker: str, held: Iterable[tuple[str, int]], waits: Collection[str]) -> list[Signal]:
        """Return what a worker must hear."""
        found = []
        for name, attempt in held:
            run = self.runs[name]
            if (run.status, run.attempt, run.worker, run.left) != ("running", attempt, worker, None):
                found.append(Signal(run=name, attempt=run.attempt, is_lost=True))
                continue
            closed = [wait for wait in run.waits.values() if wait.id in waits and wait.by is not None]
            if run.cancel is not None or closed:
                answers = tuple(wait.answer for wait in closed)
                found.append(Signal(run=name, attempt=attempt, cancel=run.cancel, answers=answers))
        return found
