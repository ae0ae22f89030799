"""The state that the model searches through: what is in the database, and what each worker knows of it.

Everything is a value, small and comparable. Ids are indices: a run is its place in `State.runs`, a worker its place in
`State.workers`, a wait its place in the run's program. Time is counted in ticks, of which a lease has three.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = [
    "ENDED",
    "GONE",
    "LEASE",
    "MARGIN",
    "NOBODY",
    "Attempt",
    "Batch",
    "Call",
    "Event",
    "Run",
    "Segment",
    "State",
    "Worker",
    "swapped",
]

LEASE: Final = 3  # ticks
MARGIN: Final = 1  # how much earlier a worker counts its lease as over
NOBODY: Final = -1  # holds the run: it was given back, is parked, is queued or has ended
GONE: Final = -2  # held the run: a worker that was killed
ENDED: Final = frozenset({"completed", "cancelled"})


class _Value(msgspec.Struct, frozen=True, order=True, gc=False):
    """A value. No field is ever None, so that two of a kind can be compared: what may be absent is a tuple."""


class Event(_Value, frozen=True, order=True, gc=False):
    """What a log holds: `user started retrying said executing cut done waiting resumed completed cancelled`."""

    kind: str
    place: int = 0  # in the program
    by: str = ""  # of a `resumed`: a person, "timer" or "ended"


class Segment(_Value, frozen=True, order=True, gc=False):
    """What one write put into a log."""

    run: int
    attempt: int
    ordinal: int  # of a worker's batch; -1: written by a gateway
    events: tuple[Event, ...]  # none: a stretch of numbers that was taken and not yet written, which no rule allows


class Run(_Value, frozen=True, order=True, gc=False):
    """A row of the table of runs, with its waits."""

    status: str = "queued"
    attempt: int = 0
    ordinal: int = 0
    owner: int = NOBODY
    lease: int = 0  # ticks left, by the database's clock
    is_woken: bool = False
    is_called_off: bool = False
    closing: tuple[Event, ...] = ()
    waits: tuple[str, ...] = ()  # per place of the program: "" never opened, "open", or who closed it
    is_interrupted: bool = False  # of the model: it was queued when somebody interrupted


class Batch(_Value, frozen=True, order=True, gc=False):
    """What one attempt appends at once."""

    ordinal: int
    events: tuple[Event, ...]
    end: str = ""
    closes: tuple[int, ...] = ()


class Attempt(_Value, frozen=True, order=True, gc=False):
    """What a worker knows of the run that it holds, or believes to hold."""

    run: int
    attempt: int
    ordinal: int  # events that are known to be stored
    lease: int  # ticks left by its own count
    place: int = 0  # in the program
    stage: int = 0  # of the tool or wait there: 0 not begun, 1 begun, 2 the tool is being called
    call_age: int = 0  # ticks since the tool was called
    told: tuple[str, ...] = ()  # per place: how that wait ended, as far as is known
    pending: tuple[Event, ...] = ()
    frozen: tuple[Batch, ...] = ()
    closes: tuple[int, ...] = ()  # waits that pending events close
    end: str = ""  # status with which pending events end the run
    is_called_off: bool = False
    leave: str = ""  # "park", "drain": what it does as soon as everything is stored; "end": its last words are said


class Call(_Value, frozen=True, order=True, gc=False):
    """A call of a worker: on its way, or executed and not yet answered."""

    worker: int
    verb: str  # "append", "claim", "renew", "park", "release"
    run: int = NOBODY
    attempt: int = 0
    batch: tuple[Batch, ...] = ()
    ordinal: int = 0
    closing: tuple[Event, ...] = ()
    holding: tuple[int, ...] = ()
    takes_lost: bool = False
    heard_age: int = 0  # ticks since what the worker had last heard of the database, when it sent this
    since: int = 0  # a bit per run: leases that this worker was given or renewed later than that
    outcome: str = ""  # once executed
    is_resumed: bool = False  # a claim: the run was parked
    age: int = 0  # ticks since it was sent


class Worker(_Value, frozen=True, order=True, gc=False):
    """A worker: up, stopped (SIGSTOP), blind (cut off from the database), or dead."""

    mode: str = "up"
    held: tuple[Attempt, ...] = ()  # at most one
    call: tuple[Call, ...] = ()  # executed, its answer on the way; at most one
    connected: int = LEASE  # ticks without a gap
    heard_age: int = 0
    since: int = 0
    is_excused: bool = False  # of the model: since its last renewal it was stopped or cut off


class State(_Value, frozen=True, order=True, gc=False):
    """Everything."""

    runs: tuple[Run, ...]
    logs: tuple[tuple[Segment, ...], ...]  # one per thread
    workers: tuple[Worker, ...]
    people: tuple[int, ...]  # who has yet to act: indices of the scenario's list
    faults: tuple[int, ...]  # how many of each kind are left; the last: how many in all
    is_up: bool = True  # the database
    late: tuple[Call, ...] = ()  # given up by its worker, yet to be executed; at most one
    half: tuple[Call, ...] = ()  # between two round trips, holding locks: which no rule allows
    counted: tuple[tuple[int, int], ...] = ()  # likewise: (worker, run) that counted before they take


def swapped(state: State) -> State:
    """Return the state with its two workers' names exchanged."""
    first, second = state.workers

    def of(call: Call) -> Call:
        return msgspec.structs.replace(call, worker=1 - call.worker) if call.worker >= 0 else call

    def renamed(worker: Worker) -> Worker:
        return msgspec.structs.replace(worker, call=(of(worker.call[0]),)) if worker.call else worker

    return msgspec.structs.replace(
        state,
        runs=tuple(msgspec.structs.replace(run, owner=1 - run.owner) if run.owner >= 0 else run for run in state.runs),
        workers=(renamed(second), renamed(first)),
        late=tuple(map(of, state.late)),
        half=tuple(map(of, state.half)),
        counted=tuple(sorted((1 - worker, run) for worker, run in state.counted)),
    )
