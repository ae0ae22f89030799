"""What workers do: they claim, run code, append, renew, park, give back, and learn what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from msgspec.structs import replace
from tests.model.database import Database
from tests.model.promises import Broken, journal
from tests.model.scenarios import Scenario
from tests.model.state import GONE, LEASE, MARGIN, NOBODY, Attempt, Batch, Call, Event, Segment, State, Worker

__all__ = ["NAMES", "Kind", "Next", "Workers", "holding", "named", "put"]

Kind = Literal["work", "time", "people", "fault", "repair", "late"]
Next = tuple[str, Kind, State]

NAMES: Final = ("A", "B")
_WHY: Final = {"lost": "lost its worker", "woken": "was woken", "queued": "is queued"}


class Workers:
    """Both workers, and the code that they run.

    Args:
        scenario: what they run.
        database: what they ask.
    """

    def __init__(self, scenario: Scenario, database: Database) -> None:
        self.scenario = scenario
        self.database = database
        self.doing = ""  # what is being looked at, should a promise break by it
        self._has = database.has

    def successors(self, state: State, name: int) -> Iterator[Next]:
        """Yield what one of them may do next."""
        worker, who = state.workers[name], NAMES[name]
        if worker.mode in ("stopped", "blind"):
            yield (
                f"{who} {'goes on' if worker.mode == 'stopped' else 'sees the database again'}",
                "repair",
                put(state, name, replace(worker, mode="up")),
            )
        if worker.mode == "dead" and (self.scenario.workers == 2 or all(it.mode == "dead" for it in state.workers)):
            yield f"{who} starts anew", "repair", put(state, name, Worker(connected=0))
        if worker.mode not in ("up", "blind"):
            return
        if worker.mode == "blind" and worker.held:
            yield f"{who} gives up what it cannot hear of", "work", put(state, name, replace(worker, held=()))
        if worker.held:
            yield from self._code(state, name, worker.held[0])
        if worker.mode == "up" and state.is_up:
            yield from self._calls(state, name)

    def _code(self, state: State, name: int, held: Attempt) -> Iterator[Next]:
        """What the code of the run does; it asks nobody."""
        who, program = NAMES[name], self.scenario.programs[held.run]
        if held.leave:
            return
        if held.is_called_off:
            yield f"{who} ends the cancelled run", "work", holding(state, name, self._unwound(held))
            return
        op = program[held.place] if held.place < len(program) else ""
        if op == "say":
            said = replace(held, pending=(*held.pending, Event("said", held.place)), place=held.place + 1)
            yield f"{who} says something", "work", holding(state, name, self._go_on(said))
        elif op == "tool" and held.stage == 1:
            is_stored = not held.pending and not held.frozen
            is_valid = held.lease > 0 or not self._has("the lease is looked at again before the call")
            if (is_stored or not self._has("a tool is announced before it is called")) and is_valid:
                self.doing = f"{who} calls the tool"
                self._check_call(state, name, held)
                called = replace(held, stage=2)
                yield self.doing, "work", holding(state, name, called)
        elif op == "tool" and held.stage == 2:
            done = replace(held, pending=(*held.pending, Event("done", held.place)), place=held.place + 1, stage=0)
            yield f"{who}'s tool returns", "work", holding(state, name, self._go_on(replace(done, call_age=0)))
        elif op == "ask" and not held.pending and not held.frozen:
            yield f"{who} decides to park", "work", holding(state, name, replace(held, leave="park"))
        if self.scenario.drains and held.attempt == 1 and held.stage != 2:
            yield f"{who} is told to drain", "people", holding(state, name, replace(held, leave="drain"))

    def _calls(self, state: State, name: int) -> Iterator[Next]:
        worker = state.workers[name]
        yield from self._second_trips(state, name)
        if worker.call:
            yield from self._receive(state, name, worker.call[0])
            return
        if any(half.worker == name for half in state.half) or any(at == name for at, _ in state.counted):
            return
        for label, call in self.wishes(state, name):
            if not any(half.run == call.run for half in state.half):
                self.doing = label
                yield label, "work", self._sent(state, name, call)
        if worker.held:
            yield from self._signals(state, name, worker.held[0])
        elif worker.heard_age:
            connected = worker.connected if worker.heard_age < LEASE - 1 else 0
            heard = replace(worker, connected=connected, heard_age=0, since=0)
            yield f"{NAMES[name]} asks for runs", "work", put(state, name, heard)

    def _second_trips(self, state: State, name: int) -> Iterator[Next]:
        """What no rule allows: to go on with a write that was begun before."""
        worker, who = state.workers[name], NAMES[name]
        for half in state.half:
            if half.worker == name:
                self.doing = f"{who} makes the second round trip"
                yield self.doing, "work", self._executed(replace(state, half=()), name, half)
        for at, key in state.counted:
            if at == name:
                rest = replace(state, counted=tuple(it for it in state.counted if it != (at, key)))
                self.doing = f"{who} takes {named(key)}"
                taken, call = self.database.take(rest, self.claim(worker, name), key, "queued")
                yield self.doing, "work", put(taken, name, replace(taken.workers[name], call=(call,)))

    def wishes(self, state: State, name: int) -> Iterator[tuple[str, Call]]:
        """What this worker would ask of the database now."""
        worker, who = state.workers[name], NAMES[name]
        if not worker.held:
            call = self.claim(worker, name)
            for key, why in self._found(state, call)[:1]:
                is_counting = why == "queued" and not self._has("a user's row is locked before counting")
                verb = "counts, and has room for" if is_counting else "claims"
                yield f"{who} {verb} {named(key)}, which {_WHY[why]}", call
            return
        held = worker.held[0]
        of = Call(name, "", run=held.run, attempt=held.attempt, heard_age=worker.heard_age, since=worker.since)
        if held.frozen and (self._has("a batch is frozen when it is sent") or not held.pending):
            again = replace(of, verb="append", batch=held.frozen)
            if held.lease > 0:
                yield f"{who} sends the same batch again", again
        elif held.pending and held.lease > 0:
            yield f"{who} appends {_listed(held.pending)}", replace(of, verb="append", batch=(self._batch(held),))
        elif held.leave == "park" and not held.pending:
            place = held.place
            closing = (Event("resumed", place, "ended"),)
            yield f"{who} parks the run", replace(of, verb="park", ordinal=held.ordinal, closing=closing)
        elif held.leave == "drain" and not held.pending:
            yield f"{who} gives the run back", replace(of, verb="release")
        if self.scenario.renews and held.lease < LEASE - MARGIN:
            yield f"{who} renews its lease", replace(of, verb="renew")

    def claim(self, worker: Worker, name: int) -> Call:
        is_connected = worker.connected >= LEASE and worker.heard_age < LEASE - 1
        takes_lost = is_connected or not self._has("only who was connected for a lease takes over")
        return Call(name, "claim", takes_lost=takes_lost, heard_age=worker.heard_age, since=worker.since)

    def _found(self, state: State, call: Call) -> list[tuple[int, str]]:
        """Return what a claim would take; a row that another one is about to take is locked."""
        locked = {key for _, key in state.counted}
        return [(key, why) for key, why in self.database.candidates(state, call) if key not in locked]

    def _batch(self, held: Attempt) -> Batch:
        earlier = held.frozen[0] if held.frozen else Batch(held.ordinal, ())
        return Batch(held.ordinal, (*earlier.events, *held.pending), held.end, (*earlier.closes, *held.closes))

    def _sent(self, state: State, name: int, call: Call) -> State:
        """Execute a call at once; its answer is on the way."""
        if call.verb == "append":
            held = replace(state.workers[name].held[0], frozen=call.batch, pending=(), closes=())
            if call.batch == state.workers[name].held[0].frozen:
                held = state.workers[name].held[0]
            state = holding(state, name, held)
            if not self._has("each write is one statement"):
                return replace(state, half=(call,))
        if call.verb == "claim" and not self._has("a user's row is locked before counting"):
            key, why = self._found(state, call)[0]
            if why == "queued":
                return replace(state, counted=tuple(sorted((*state.counted, (name, key)))))
        return self._executed(state, name, call)

    def _executed(self, state: State, name: int, call: Call) -> State:
        # What it is given by this very call it hears of with the answer: `since` counts from here.
        state, call = self.database.execute(state, call)
        return put(state, name, replace(state.workers[name], call=(replace(call, since=0),)))

    # ── answers of the database ──────────────────────────────────────────────────────────────────────────

    def _receive(self, state: State, name: int, call: Call) -> Iterator[Next]:
        worker, who = state.workers[name], NAMES[name]
        if call.verb == "append" and not self._has("number and event in one write"):
            return
        connected = worker.connected if worker.heard_age < LEASE - 1 else 0
        heard = replace(worker, call=(), connected=connected, heard_age=call.age, since=call.since)
        state = put(state, name, heard)
        self.doing = label = f"{who} learns: {call.outcome}"
        if call.verb == "claim":
            yield label, "work", self._begun(state, name, call)
            return
        held = worker.held[0] if worker.held else None
        if held is None or (held.run, held.attempt) != (call.run, call.attempt):
            yield label, "work", state
            return
        after = getattr(self, f"_after_{call.verb}")(state, call, held)
        if call.verb == "append" and not self._has("terminal event and status in one write"):
            state = self._second_write(state, call)
        yield label, "work", put(state, name, replace(heard, held=after))

    def _second_write(self, state: State, call: Call) -> State:
        run, end = state.runs[call.run], call.batch[0].end
        if call.outcome not in ("stored", "already") or not end or run.attempt != call.attempt:
            return state
        runs = (*state.runs[: call.run], replace(run, status=end, owner=NOBODY, lease=0), *state.runs[call.run + 1 :])
        return replace(state, runs=runs)

    def _begun(self, state: State, name: int, call: Call) -> State:
        """Begin an attempt: read the log, say the first word, go through what is there."""
        if call.outcome != "claimed":
            return state
        run = state.runs[call.run]
        lease = LEASE - MARGIN - call.age if self._has("a lease counts from when it was asked for") else LEASE - MARGIN
        lease = lease if self._has("a lease counts as over a margin early") else lease + MARGIN
        held = Attempt(call.run, call.attempt, call.ordinal, max(lease, 0), told=("",) * len(run.waits))
        past = journal(self.scenario.programs[call.run], self._log(state, call.run), call.run)
        if past.is_ended:
            return state
        pending = () if past.is_started else (Event("started"),)
        if past.is_started and not call.is_resumed:
            pending = (Event("retrying"),)
        if self._has("an attempt goes through the log of the others"):
            held = replace(held, place=past.place, stage=past.stage, told=tuple(past.told))
        held = replace(held, pending=pending)
        if run.is_called_off:
            return holding(state, name, self._unwound(held))
        if past.stage == 1 and self.scenario.programs[call.run][past.place] == "tool":
            held = replace(held, pending=(*pending, Event("cut", past.place)), stage=0)
        return holding(state, name, self._go_on(held))

    def _after_append(self, state: State, call: Call, held: Attempt) -> tuple[Attempt, ...]:
        batch = call.batch[0]
        if call.outcome == "fenced":
            return ()
        if call.outcome == "overtaken":
            waits = state.runs[call.run].waits
            late = {place for place in batch.closes if waits[place] not in ("open", "")}
            events = tuple(it for it in batch.events if it.kind != "resumed" or it.place not in late)
            closes = tuple(place for place in batch.closes if place not in late)
            return (replace(held, frozen=(replace(batch, events=events, closes=closes),)),)
        if not any(
            (it.run, it.attempt, it.ordinal, it.events) == (call.run, call.attempt, batch.ordinal, batch.events)
            for it in self._log(state, call.run)
        ):
            raise Broken("a batch was acknowledged that is not in the log")
        if batch.end:
            return ()
        return (replace(held, frozen=(), ordinal=held.ordinal + len(batch.events)),)

    def _after_renew(self, _state: State, call: Call, held: Attempt) -> tuple[Attempt, ...]:
        if call.outcome == "lost":
            return ()
        age = call.age if self._has("a lease counts from when it was asked for") else 0
        return (replace(held, lease=max(held.lease, LEASE - MARGIN - age)),)

    def _after_park(self, _state: State, _call: Call, _held: Attempt) -> tuple[Attempt, ...]:
        return ()

    _after_release = _after_park

    def _signals(self, state: State, name: int, held: Attempt) -> Iterator[Next]:
        """What a worker learns by asking: `Runs.signals`, and its answer at once."""
        who, run = NAMES[name], state.runs[held.run]
        if run.attempt != held.attempt or run.status != "running" or run.owner != name:
            if not held.leave or self._has("who is leaving learns of its loss too"):
                yield (
                    f"{who} learns that the run is not its own",
                    "work",
                    put(state, name, replace(state.workers[name], held=())),
                )
            return
        if held.leave:
            return
        told = tuple("" if by == "open" else by for by in run.waits)
        if told == held.told and run.is_called_off == held.is_called_off:
            return
        past = journal(self.scenario.programs[held.run], self._log(state, held.run), held.run)
        if any(by and by != past.told[place] for place, by in enumerate(told)):
            self.doing = f"{who} learns the news of its run"
            raise Broken("an attempt is given another answer than the log has")
        heard = replace(held, told=told, is_called_off=run.is_called_off)
        yield f"{who} learns the news of its run", "work", holding(state, name, self._go_on(heard))

    # ── code ─────────────────────────────────────────────────────────────────────────────────────────────

    def _go_on(self, held: Attempt) -> Attempt:
        """Go to where the code says or needs something next."""
        program = self.scenario.programs[held.run]
        while not held.leave and not held.is_called_off:
            op = program[held.place] if held.place < len(program) else ""
            if not op:
                pending = (*held.pending, Event("completed"))
                return replace(held, pending=pending, end="completed", leave="end")
            if op == "ask" and held.stage == 1 and held.told[held.place]:
                held = replace(held, place=held.place + 1, stage=0)
            elif op != "say" and held.stage == 0:
                event = Event("executing" if op == "tool" else "waiting", held.place)
                return replace(held, pending=(*held.pending, event), stage=1)
            else:
                return held
        return held

    def _unwound(self, held: Attempt) -> Attempt:
        """Close what is open, and end as cancelled."""
        program = self.scenario.programs[held.run]
        op = program[held.place] if held.place < len(program) else ""
        events, closes = held.pending, held.closes
        if op == "ask" and held.stage == 1 and not held.told[held.place]:
            events, closes = (*events, Event("resumed", held.place, "ended")), (*closes, held.place)
        elif op == "tool" and held.stage:
            events = (*events, Event("cut", held.place))
        if not held.ordinal and not held.pending and not held.frozen:
            events = (Event("started"), *events)
        events = (*events, Event("cancelled"))
        return replace(held, pending=events, closes=closes, end="cancelled", leave="end", call_age=0)

    def _check_call(self, state: State, name: int, held: Attempt) -> None:
        run = state.runs[held.run]
        past = journal(self.scenario.programs[held.run], self._log(state, held.run), held.run)
        if past.place > held.place:
            raise Broken("a tool is called whose result is in the log")
        if run.attempt != held.attempt and run.owner not in (NOBODY, GONE, name):
            raise Broken("a step is begun while another worker holds the run")
        if past.place != held.place or past.stage != 1:
            raise Broken("a tool is called and the log does not say so")

    def _log(self, state: State, run: int) -> tuple[Segment, ...]:
        return state.logs[self.scenario.threads[run]]


def put(state: State, name: int, worker: Worker) -> State:
    return replace(state, workers=(*state.workers[:name], worker, *state.workers[name + 1 :]))


def holding(state: State, name: int, held: Attempt) -> State:
    return put(state, name, replace(state.workers[name], held=(held,)))


def named(key: int) -> str:
    return f"run {key + 1}"


def _listed(events: tuple[Event, ...]) -> str:
    return " ".join(event.kind for event in events)
