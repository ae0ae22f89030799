"""What each call does to the database: `storage/base_log.py` and `base_runs.py`, condition for condition.

Each is one write, as a whole or not at all. A rule that is left out changes one condition. What no history may ever
contain is checked where it would be written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace
from tests.model.promises import Broken, check_log, journal
from tests.model.scenarios import Scenario
from tests.model.state import ENDED, GONE, LEASE, MARGIN, NOBODY, Call, Event, Run, Segment, State, Worker

__all__ = ["Database"]

_ACTIVE: Final = ("running", "waiting")
_UNFINISHED: Final = ("queued", "running", "waiting")


class Database:
    """Executes calls on states.

    Args:
        scenario: what is being looked at.
        without: the rule that is left out; empty: none.
    """

    def __init__(self, scenario: Scenario, without: str = "") -> None:
        self.scenario = scenario
        self.without = without
        self.asked: set[str] = set()  # for which rules

    def has(self, rule: str) -> bool:
        """Return whether a rule is kept."""
        self.asked.add(rule)
        return rule != self.without

    def execute(self, state: State, call: Call) -> tuple[State, Call]:
        """Return what a worker's call makes of the state, and the call with its outcome."""
        verb = {"append": self.append, "claim": self.claim, "renew": self.renew, "park": self.park}
        return verb.get(call.verb, self.release)(state, call)

    # ── the log ──────────────────────────────────────────────────────────────────────────────────────────

    def extend(self, state: State, segment: Segment) -> State:
        """Put a segment at the end of its thread's log: its place there is its number."""
        thread = self.scenario.threads[segment.run]
        log = state.logs[thread]
        if log and not log[-1].events:
            raise Broken("a number is shown before a smaller one is written")
        log = (*log, segment)
        check_log(self.scenario, log, segment.run)
        return replace(state, logs=(*state.logs[:thread], log, *state.logs[thread + 1 :]))

    def append(self, state: State, call: Call) -> tuple[State, Call]:
        """Append a batch: `EventLog.append`."""
        run, batch = state.runs[call.run], call.batch[0]
        owns = run.attempt == call.attempt and run.owner >= 0 and run.status == "running"
        fits = owns or (not self.has("attempt fence") and run.status == "running")
        fits = fits and (run.ordinal == batch.ordinal or not self.has("expected ordinal"))
        if not fits:
            return state, replace(call, outcome=self._refused(state, call, owns=owns))
        closed = {place for place in batch.closes if run.waits[place] not in ("", "open", "ended")}
        if closed and self.has("overtaken by an answer"):
            return state, replace(call, outcome="overtaken")
        if run.attempt != call.attempt:
            raise Broken("a worker that had lost the run wrote to its log")
        segment = Segment(call.run, call.attempt, batch.ordinal, batch.events)
        if not self.has("number and event in one write"):
            return self.reserve(state, segment), replace(call, outcome="stored")
        state = self.extend(state, segment)
        waits = list(run.waits)
        for event in batch.events:
            if event.kind == "waiting":
                waits[event.place] = "open"
        for place in batch.closes:
            waits[place] = "ended" if waits[place] == "open" else waits[place]
        run = replace(run, ordinal=run.ordinal + len(batch.events), waits=tuple(waits))
        if batch.end and self.has("terminal event and status in one write"):
            run = self._ended(run, batch.end)
        return self._put(state, call.run, run), replace(call, outcome="stored")

    def reserve(self, state: State, segment: Segment) -> State:
        """Take numbers for a segment in a write of their own (without: number and event in one write)."""
        thread = self.scenario.threads[segment.run]
        log = (*state.logs[thread], replace(segment, events=()))
        return replace(state, logs=(*state.logs[:thread], log, *state.logs[thread + 1 :]))

    def _refused(self, state: State, call: Call, *, owns: bool) -> str:
        run, batch = state.runs[call.run], call.batch[0]
        log = state.logs[self.scenario.threads[call.run]]
        is_there = any(
            segment.run == call.run
            and segment.attempt == call.attempt
            and segment.ordinal == batch.ordinal
            and len(segment.events) == len(batch.events)
            for segment in log
        )
        if is_there and run.attempt == call.attempt and self.has("a stored batch is known again"):
            return "already"
        if owns and run.owner == call.worker and call not in state.late:
            raise Broken("the rightful owner is refused")
        return "fenced"

    def _ended(self, run: Run, status: str) -> Run:
        waits = run.waits
        if self.has("a run's end closes its waits"):
            waits = tuple("ended" if by == "open" else by for by in waits)
        return replace(
            run, status=status, owner=NOBODY, lease=0, is_woken=False, closing=(), waits=waits, is_called_off=False
        )

    # ── workers ──────────────────────────────────────────────────────────────────────────────────────────

    def candidates(self, state: State, call: Call) -> list[tuple[int, str]]:
        """Return what a claim would take and as what, the first first."""
        lost, woken, queued = [], [], []
        is_recent = call.heard_age < LEASE - 1 or not self.has("a claim says how long it is good for")
        takes_lost = call.takes_lost and is_recent
        for key, run in enumerate(state.runs):
            if any(half.run == key for half in state.half):  # its row is locked: skipped
                continue
            if run.status == "running" and (
                run.owner == NOBODY
                or (run.owner != call.worker and self._has_lost_worker(state, run, takes_lost=takes_lost))
                or (run.owner == call.worker and key not in call.holding and self._takes_own(call, key))
            ):
                lost.append((key, "lost"))
            elif run.status == "waiting" and run.is_woken and self.has("who was woken is claimed"):
                woken.append((key, "woken"))
            elif run.status == "queued" and self._is_next(state, key):
                queued.append((key, "queued"))
        if not self.has("the oldest of a thread first"):
            queued.reverse()
        has_room = self._active(state) < self.scenario.user_limit
        return lost + (woken + queued if has_room else [])

    def claim(self, state: State, call: Call) -> tuple[State, Call]:
        """Take one run: `Runs.claim`."""
        found = self.candidates(state, call)
        if not found:
            return state, replace(call, outcome="none")
        return self.take(state, call, *found[0])

    def take(self, state: State, call: Call, key: int, why: str) -> tuple[State, Call]:
        """Give a run to the worker that claims."""
        run = state.runs[key]
        self._check_takeover(state, call, key)
        if journal(self.scenario.programs[key], state.logs[self.scenario.threads[key]], key).is_ended:
            raise Broken("a run is claimed whose log has its terminal event")
        taken = replace(
            run, status="running", attempt=run.attempt + 1, owner=call.worker, lease=LEASE, is_woken=False, closing=()
        )
        state = self._given(self._put(state, key, taken), call.worker, key)
        if self._active(state) > self.scenario.user_limit:
            raise Broken("a user has more running runs than the limit")
        claimed = replace(call, run=key, attempt=taken.attempt, ordinal=run.ordinal, is_resumed=why == "woken")
        return state, replace(claimed, outcome="claimed")

    def renew(self, state: State, call: Call) -> tuple[State, Call]:
        """Renew a lease: `Runs.renew`, and `Runs.signals` where the lease may have run out."""
        run = state.runs[call.run]
        is_held = run.status == "running" and run.attempt == call.attempt and run.owner == call.worker
        if not is_held and (self.has("renewal names the attempt") or run.status != "running"):
            return state, replace(call, outcome="lost")
        state = self._given(self._put(state, call.run, replace(run, lease=LEASE)), call.worker, call.run)
        return state, replace(call, outcome="renewed")

    def park(self, state: State, call: Call) -> tuple[State, Call]:
        """Put a run aside: `Runs.park`."""
        run = state.runs[call.run]
        if run.attempt == call.attempt and run.status == "waiting":
            return state, replace(call, outcome="parked")
        if run.attempt != call.attempt or run.ordinal != call.ordinal or run.status != "running" or run.owner < 0:
            return state, replace(call, outcome="fenced")
        is_answered = not any(by == "open" for by in run.waits) and self.has("parking sees answers")
        is_woken = is_answered or (run.is_called_off and self.has("parking sees a cancel"))
        run = replace(run, status="waiting", owner=NOBODY, lease=0, closing=call.closing, is_woken=is_woken)
        return self._put(state, call.run, run), replace(call, outcome="parked")

    def release(self, state: State, call: Call) -> tuple[State, Call]:
        """Give a run back: `Runs.release`."""
        run = state.runs[call.run]
        is_held = run.attempt == call.attempt or not self.has("giving back names the attempt")
        if is_held and run.status == "running" and run.owner != NOBODY:
            state = self._put(state, call.run, replace(run, owner=NOBODY, lease=0))
        return state, replace(call, outcome="released")

    # ── people ───────────────────────────────────────────────────────────────────────────────────────────

    def send(self, state: State, on_active: str) -> State:
        """Store a message and its run: `Runs.send`."""
        key = len(state.runs)
        if on_active == "interrupt":
            older = [k for k, run in enumerate(state.runs) if self._is_beside(k, key) and run.status in _UNFINISHED]
            for other in older:
                run = state.runs[other]
                state = self._put(state, other, replace(run, is_interrupted=run.status == "queued"))
                if run.status != "queued" or self.has("an interrupt cancels what is queued"):
                    state = self.call_off(state, other)
        waits = ("",) * len(self.scenario.programs[key])
        state = replace(state, runs=(*state.runs, Run(waits=waits)))
        return self.extend(state, Segment(key, 0, -1, (Event("user"),)))

    def answer(self, state: State, key: int, place: int, by: str) -> tuple[State, bool]:
        """Close a wait and say so: `Runs.answer`, `Runs.fire_timers`. Return whether it counts."""
        run = state.runs[key]
        if run.waits[place] == by:
            return state, True
        is_first = self.has("a timer looks whether it was answered") if by == "timer" else self.has("first answer wins")
        if run.waits[place] == "open" or (run.waits[place] and not is_first and run.waits[place] != "ended"):
            waits = (*run.waits[:place], by, *run.waits[place + 1 :])
            is_woken = run.is_woken or (run.status == "waiting" and self.has("an answer wakes a parked run"))
            state = self._put(state, key, replace(run, waits=waits, is_woken=is_woken))
            return self.extend(state, Segment(key, run.attempt, -1, (Event("resumed", place, by),))), True
        return state, False

    def cancel(self, state: State, key: int) -> State:
        """Ask a run to end: `Runs.cancel`."""
        return self.call_off(state, key) if state.runs[key].status in _UNFINISHED else state

    def call_off(self, state: State, key: int) -> State:
        """End what nobody holds, flag what somebody holds or is about to claim."""
        run = state.runs[key]
        run = replace(run, is_called_off=True)
        is_free = run.status == "queued" or (
            run.status == "waiting" and not (run.is_woken and self.has("a cancel leaves a woken run to who claims it"))
        )
        if not is_free and self.has("a cancel ends only what nobody holds"):
            return self._put(state, key, run)
        events = (*run.closing, Event("cancelled"))
        state = self._put(state, key, self._ended(run, "cancelled"))
        return self.extend(state, Segment(key, run.attempt, -1, events))

    # ── what may not be ──────────────────────────────────────────────────────────────────────────────────

    def _check_takeover(self, state: State, call: Call, key: int) -> None:
        run = state.runs[key]
        older = [other for k, other in enumerate(state.runs[:key]) if self._is_beside(k, key)]
        if run.status == "queued" and any(other.status not in ENDED for other in older):
            raise Broken("two runs of a thread are active, or out of turn")
        if run.is_interrupted:
            raise Broken("a queued run goes on although it was interrupted")
        if run.status != "running" or run.owner < 0:
            return
        holder = state.workers[run.owner]
        knows = any(held.run == key and held.attempt == run.attempt for held in holder.held)
        if knows and holder.mode != "dead" and not holder.is_excused:
            what = "from itself" if run.owner == call.worker else "from a worker that was well"
            raise Broken(f"a run is taken {what}")
        is_going_on = knows and run.owner != call.worker and holder.mode in ("up", "blind")
        if is_going_on and 0 < holder.held[0].call_age <= MARGIN:
            raise Broken("a run is taken during a short step begun under a lease")

    def _has_lost_worker(self, state: State, run: Run, *, takes_lost: bool) -> bool:
        if not self.scenario.has_leases:  # one process holds the file: who is another one has ended
            return run.owner == GONE
        return takes_lost and (run.lease == 0 or not self.has("only a lease that has run out is taken"))

    def _takes_own(self, call: Call, key: int) -> bool:
        if not self.has("a claim names what is held"):
            return False
        is_older = not call.since >> key & 1 or not self.scenario.has_leases  # without: one writer, one order
        return is_older or not self.has("a lease that was given since is not taken")

    def _is_next(self, state: State, key: int) -> bool:
        for other, run in enumerate(state.runs):
            if other == key or not self._is_beside(other, key):
                continue
            if run.status in _ACTIVE and self.has("one active run per thread"):
                return False
            if run.status == "queued" and other < key and self.has("the oldest of a thread first"):
                return False
        return True

    def _is_beside(self, one: int, other: int) -> bool:
        return self.scenario.threads[one] == self.scenario.threads[other]

    def _active(self, state: State) -> int:
        return sum(run.status == "running" for run in state.runs)

    def _put(self, state: State, key: int, run: Run) -> State:
        return replace(state, runs=(*state.runs[:key], run, *state.runs[key + 1 :]))

    def _given(self, state: State, worker: int, key: int) -> State:
        """Note a lease that is younger than all that its worker has heard, and than its calls on their way."""
        bit = 1 << key

        def noted(calls: Iterable[Call]) -> tuple[Call, ...]:
            return tuple(replace(call, since=call.since | bit) if call.worker == worker else call for call in calls)

        if worker < 0:
            return replace(state, late=noted(state.late))

        def of(it: Worker) -> Worker:
            return replace(it, since=it.since | bit, call=noted(it.call))

        workers = (*state.workers[:worker], of(state.workers[worker]), *state.workers[worker + 1 :])
        return replace(state, workers=workers, late=noted(state.late))
