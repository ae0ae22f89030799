"""What a broken database in memory does wrong; each is a change in a copy of its source (see `histories.mutants`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from tests.histories.mutants import ROOT, Mutant

__all__ = ["MUTANTS", "loaded"]

_FOLDER = "src/runwire/storage/memory"
_FAMILY = ("state", "log", "members", "runs", "storage")  # each imports only those before it
_ALIAS = "runwire_broken_memory"


def _mutant(name: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(name, f"{_FOLDER}/{file}", old, new)


@contextmanager
def loaded(mutant: Mutant) -> Iterator[Any]:
    """Load the copy; what is given is its `MemoryStorage`."""
    made = []
    try:
        for name in _FAMILY:
            path = f"{_FOLDER}/{name}.py"
            text = mutant.source if mutant.file == path else (ROOT / path).read_text(encoding="utf-8")
            for sibling in _FAMILY:
                text = text.replace(f"from runwire.storage.memory.{sibling} import", f"from {_ALIAS}_{sibling} import")
            module = ModuleType(f"{_ALIAS}_{name}")
            made.append(module.__name__)
            sys.modules[module.__name__] = module  # before it runs: dataclasses look themselves up
            exec(compile(text, f"{name}.py, {mutant.name}", "exec"), vars(module))
        yield vars(sys.modules[f"{_ALIAS}_storage"])["MemoryStorage"]
    finally:
        for name in made:
            del sys.modules[name]


_OWNED = '(run.ordinal, run.status, run.owner) != (batch.ordinal, "running", self._state.incarnation)'

MUTANTS = (
    _mutant(
        "lets an attempt append that has been taken over",
        "log.py",
        "if run is None or run.attempt != batch.attempt:",
        "if run is None:",
    ),
    _mutant(
        "stores a batch twice whose reply was lost",
        "log.py",
        _OWNED,
        '(run.status, run.owner) != ("running", self._state.incarnation)',
    ),
    _mutant(
        "lets a dead owner append until somebody takes over",
        "log.py",
        _OWNED,
        '(run.ordinal, run.status) != (batch.ordinal, "running")',
    ),
    _mutant(
        "ends a run over an answer that it has not read",
        "log.py",
        'if any(run.waits[wait].by not in (None, "ended") for wait in batch.closes if wait in run.waits):',
        "if False:",
    ),
    _mutant(
        "gives the parts of a stretch one seq too many",
        "state.py",
        "first, thread.head = thread.head + 1, thread.head + size",
        "first, thread.head = thread.head + 1, thread.head + size + (ordinal is None and size > 1)",
    ),
    _mutant(
        "leaves the waits of an ended run open",
        "state.py",
        'wait.by = wait.by or "ended"',
        "pass",
    ),
    _mutant(
        "does not wake a parked run that is answered",
        "state.py",
        'if self.status == "waiting" and self.woken_at is None:\n            self.woken_at = now',
        "pass",
    ),
    _mutant(
        "ends a run by hand that somebody is about to claim",
        "state.py",
        '(self.status == "waiting" and self.woken_at is None)',
        'self.status == "waiting"',
    ),
    _mutant(
        "cancels a parked run without what closes it",
        "state.py",
        "if run.closing is not None and (size := packed_size(run.closing)):",
        "if run.closing is None and (size := 0):",
    ),
    _mutant(
        "lets the last cancel speak, not the first",
        "state.py",
        "run.cancel = run.cancel or request",
        "run.cancel = request",
    ),
    _mutant(
        "lets the second answer win",
        "runs.py",
        "if found.by is None:\n                return",
        "if found.by != 'ended':\n                return",
    ),
    _mutant(
        "parks a run for good that was answered just before",
        "runs.py",
        "if found.cancel is not None or not waits or not open_waits.issuperset(waits):",
        "if found.cancel is not None or not waits:",
    ),
    _mutant(
        "parks a run for good that was called off just before",
        "runs.py",
        "if found.cancel is not None or not waits or not open_waits.issuperset(waits):",
        "if not waits or not open_waits.issuperset(waits):",
    ),
    _mutant(
        "says that a run is not parked when it is asked again",
        "runs.py",
        'return found is not None and (found.status, found.attempt) == ("waiting", attempt)',
        "return False",
    ),
    _mutant(
        "fires timers again",
        "runs.py",
        "if wait.by is None and wait.due_at is not None and wait.due_at <= now",
        "if wait.by in (None, 'timer') and wait.due_at is not None and wait.due_at <= now",
    ),
    _mutant(
        "counts an answer among the events of the worker",
        "runs.py",
        "wait.by, wait.value = by,",
        "run.ordinal += 1\n        wait.by, wait.value = by,",
    ),
    _mutant(
        "forgets the limit of a user who has runs already",
        "runs.py",
        "if active[run.user] + place[run.user] < user_limit:",
        "if place[run.user] < user_limit:",
    ),
    _mutant(
        "starts a second run in a thread whose first one waits",
        "runs.py",
        "next(one for one in run.thread.runs if one.status in UNFINISHED) is run",
        'next(one for one in run.thread.runs if one.status in ("queued", "running")) is run',
    ),
    _mutant(
        "claims queued runs before those that were answered",
        "runs.py",
        "for waiting in (self._woken, self._queued):",
        "for waiting in (self._queued, self._woken):",
    ),
    _mutant(
        "claims runs of agents that another worker has",
        "runs.py",
        "takeable = [run for run in waiting() if may_take(run)]",
        "takeable = waiting()",
    ),
    _mutant(
        "takes over a lost run whose agent another worker has",
        "runs.py",
        "if is_lost(run) and may_take(run)]",
        "if is_lost(run)]",
    ),
    _mutant(
        "takes what nobody has though it was told not to",
        "runs.py",
        "return take_orphans and not any(",
        "return not any(",
    ),
    _mutant(
        "leaves a lost run that was called off to who has its agent",
        "runs.py",
        'or (run.status == "running" and run.cancel is not None):',
        "or False:",
    ),
    _mutant(
        "takes a hand-over for a loss",
        "runs.py",
        "run.owner not in (None, self._state.incarnation):",
        "run.owner != self._state.incarnation:",
    ),
    _mutant(
        "claims again what was woken once",
        "runs.py",
        "run.woken_at = run.closing = None\n",
        "run.closing = None\n",
    ),
    _mutant(
        "does not tell a holder of its answers",
        "runs.py",
        "closed = [found.waits[wait] for wait in waits if wait in found.waits]",
        "closed: builtins.list[Wait] = []",
    ),
)
