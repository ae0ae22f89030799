"""Everything that can happen next: what workers do, people want, machines suffer, and time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace
from tests.model.database import Database
from tests.model.promises import Broken, journal
from tests.model.scenarios import FAULTS, Person, Scenario
from tests.model.state import ENDED, GONE, LEASE, MARGIN, Call, State, Worker
from tests.model.worker import NAMES, Next, Workers, holding, named, put

__all__ = ["World"]

_HINDRANCES: Final = (("stop", "stopped", "stops"), ("blind", "blind", "is cut off from the database"))


class World:
    """The model of everything around and in the database.

    Args:
        scenario: who there is, and what may go wrong.
        without: the rule that is left out; empty: none.
    """

    def __init__(self, scenario: Scenario, without: str = "") -> None:
        self.scenario = scenario
        self.database = Database(scenario, without)
        self.workers = Workers(scenario, self.database)
        self.doing = ""  # what is being looked at, should a promise break by it
        self._has = self.database.has

    def successors(self, state: State) -> Iterator[Next]:
        """Yield every state that may be next, and how it comes about.

        Raises:
            Broken: by what `doing` names.
        """
        is_over = all(run.status in ENDED for run in state.runs) and len(state.runs) == len(self.scenario.programs)
        if is_over and not state.late and not any(worker.held or worker.call for worker in state.workers):
            return
        for name in range(len(state.workers)):
            self.workers.doing = ""
            try:
                yield from self.workers.successors(state, name)
            except Broken:
                self.doing = self.workers.doing
                raise
        yield from self._people(state)
        yield from self._faults(state)
        yield from self._late(state)
        yield from self._time(state)

    def _people(self, state: State) -> Iterator[Next]:
        if not state.is_up:
            return
        for at in state.people:
            person = self.scenario.people[at]
            if any(self.scenario.threads[half.run] == self.scenario.threads[person.run] for half in state.half):
                continue
            rest = replace(state, people=tuple(it for it in state.people if it != at))
            yield from self._person(state, rest, person)

    def _person(self, state: State, rest: State, person: Person) -> Iterator[Next]:
        if person.verb == "send":
            if person.run == len(state.runs):
                self.doing = f"somebody sends a message ({person.by})"
                yield self.doing, "people", self.database.send(rest, person.by)
            return
        if person.run >= len(state.runs):
            return
        if person.verb == "cancel":
            self.doing = f"somebody cancels {named(person.run)}"
            yield self.doing, "people", self.database.cancel(rest, person.run)
            return
        if not state.runs[person.run].waits[person.place]:
            return
        self.doing = "the timer rings" if person.verb == "timer" else f"{person.by} answers"
        after, is_taken = self.database.answer(rest, person.run, person.place, person.by)
        if is_taken:
            stored = journal(
                self.scenario.programs[person.run], after.logs[self.scenario.threads[person.run]], person.run
            )
            if stored.told[person.place] != person.by:
                raise Broken("an answer was acknowledged that is not in the log")
        yield self.doing if is_taken else f"{self.doing} too late", "people", after

    def _faults(self, state: State) -> Iterator[Next]:
        if not state.is_up:
            yield "the database is back", "repair", replace(state, is_up=True)
        if not state.faults[-1]:
            return
        left = dict(zip(FAULTS, state.faults, strict=False))
        for name in range(len(state.workers)):
            yield from self._faults_of(state, name, left)
        if left["outage"] and state.is_up:
            workers = tuple(replace(worker, call=()) for worker in state.workers)
            down = replace(_less(state, "outage"), is_up=False, workers=workers, half=(), counted=())
            yield "the database goes away", "fault", down

    def _faults_of(self, state: State, name: int, left: dict[str, int]) -> Iterator[Next]:
        worker, who = state.workers[name], NAMES[name]
        # What befalls a worker without a run is the same as if there were none, apart from calls that get stuck.
        is_busy = bool(worker.held or worker.call) or any(half.worker == name for half in state.half)
        if left["kill"] and worker.mode != "dead" and is_busy:
            yield f"{who} is killed", "fault", self._killed(_less(state, "kill"), name)
        for kind, mode, text in _HINDRANCES:
            if left[kind] and worker.mode == "up" and is_busy:
                call = () if mode == "blind" else worker.call
                yield f"{who} {text}", "fault", put(_less(state, kind), name, replace(worker, mode=mode, call=call))
        if left["lose"] and worker.call:
            yield f"{who}'s answer is lost", "fault", put(_less(state, "lose"), name, replace(worker, call=()))
        if left["delay"] and worker.mode == "up" and state.is_up and not worker.call and not state.late:
            yield from self._delayed(state, name)

    def _delayed(self, state: State, name: int) -> Iterator[Next]:
        """A call that its worker gives up, and that is executed when nobody reckons with it."""
        worker, who = state.workers[name], NAMES[name]
        wishes = [call for _, call in self.workers.wishes(state, name)]
        if not worker.held:
            wishes = wishes or [self.workers.claim(worker, name)]
        for call in wishes:
            after = _less(state, "delay")
            if call.verb == "append":
                held = worker.held[0]
                frozen = held if call.batch == held.frozen else replace(held, frozen=call.batch, pending=(), closes=())
                after = holding(after, name, frozen)
            yield f"{who}'s {call.verb} is stuck on its way", "fault", replace(after, late=(call,))

    def _late(self, state: State) -> Iterator[Next]:
        if state.is_up and state.late and not any(half.run == state.late[0].run for half in state.half):
            self.doing = f"the {state.late[0].verb} that was stuck is executed"
            after, _ = self.database.execute(state, state.late[0])
            yield self.doing, "late", replace(after, late=())

    def _killed(self, state: State, name: int) -> State:
        runs = tuple(replace(run, owner=GONE) if run.owner == name else run for run in state.runs)
        late = tuple(replace(call, worker=GONE) if call.worker == name else call for call in state.late)
        half = tuple(call for call in state.half if call.worker != name)
        counted = tuple(it for it in state.counted if it[0] != name)
        state = replace(state, runs=runs, late=late, half=half, counted=counted)
        return put(state, name, Worker(mode="dead", connected=0))

    def _time(self, state: State) -> Iterator[Next]:
        if not self.scenario.has_leases:
            return
        if state.is_up and any(
            worker.mode == "up" and (worker.call or any(half.worker == name for half in state.half))
            for name, worker in enumerate(state.workers)
        ):
            return  # an answer that has come is taken before much time passes; only a stop makes it late
        runs = tuple(replace(run, lease=max(run.lease - 1, 0)) for run in state.runs)
        after = replace(
            state,
            runs=runs,
            workers=tuple(map(_older, state.workers)),
            late=tuple(replace(call, heard_age=min(call.heard_age + 1, LEASE)) for call in state.late),
        )
        if state.is_up:
            for name, worker in enumerate(after.workers):
                if worker.mode == "up":
                    after = self._renewed(after, name)
        if after != state:
            yield "a third of a lease passes", "time", after

    def _renewed(self, state: State, name: int) -> State:
        """What a worker that is well does all the time: it renews its lease."""
        worker = state.workers[name]
        connected = worker.connected if worker.heard_age < LEASE - 1 else 0
        worker = replace(worker, connected=connected, heard_age=0, since=0, is_excused=not worker.held)
        if not worker.held or any(half.run == worker.held[0].run for half in state.half):
            return put(state, name, worker)
        held = worker.held[0]
        state, call = self.database.renew(state, Call(name, "renew", run=held.run, attempt=held.attempt))
        if call.outcome == "renewed":
            lease = LEASE - MARGIN if self._has("a lease counts as over a margin early") else LEASE
            worker = replace(worker, held=(replace(held, lease=lease),))
        return put(state, name, worker)


def _older(worker: Worker) -> Worker:
    held = worker.held
    if held:
        it = held[0]
        age = min(it.call_age + 1, 2) if it.stage == 2 else 0
        held = (replace(it, lease=max(it.lease - 1, 0), call_age=age),)
    return replace(
        worker,
        held=held,
        call=tuple(replace(call, age=min(call.age + 1, LEASE)) for call in worker.call),
        connected=min(worker.connected + 1, LEASE),
        heard_age=min(worker.heard_age + 1, LEASE),
        is_excused=worker.is_excused or worker.mode != "up",
    )


def _less(state: State, kind: str) -> State:
    left = list(state.faults)
    left[FAULTS.index(kind)] -= 1
    left[-1] -= 1
    return replace(state, faults=tuple(left))
