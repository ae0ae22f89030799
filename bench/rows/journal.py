"""How long a run takes to get past what it has recorded."""

from __future__ import annotations

from bench.engine import DATABASES, Spent
from bench.figures import Faulty, Goal, Section, Series, Table
from bench.stand import Stand

__all__ = ["measure", "replayed_ms"]

_TEXT = """\
A run with {steps:,} recorded steps waits for its person, parked. It is answered: from the moment at which the answer
is stored, a worker is told, claims the run, reads its log and runs its code from the start, until the code is past the
last recorded step ({times} times in each round; each answer adds a wait, no step). That no step was called again is
counted."""


def measure(stand: Stand) -> Section:
    """Make one journal per database; replay it in each round."""
    steps, times = (30, 2) if stand.is_quick else (1_000, 5)
    table = Table(("database", "median ms", "worst ms", "engine's CPU ms"))
    raw = Table(("database", "round", "median ms", "engine's CPU ms"))
    goals: list[Goal] = []
    for kind in DATABASES:
        medians: list[float] = []
        cpu: list[float] = []
        worst = 0.0
        with stand.engine("runwire", kind, stand.database(kind)) as engine:
            said = engine.order("journal", steps=steps)
            if said["executed"] != steps:
                raise Faulty(f"{said['executed']} of {steps} steps were executed.")
            for number in range(1, stand.rounds + 1):
                spent = [engine.measured("replay") for _ in range(times)]
                took = [replayed_ms(one, steps) for one in spent]
                worst = max(worst, *took)
                medians.append(Series(tuple(took)).median)
                cpu.append(sum(one.engine_ns for one in spent) / times / 1e6)
                raw.add(kind, number, f"{medians[-1]:.1f}", f"{cpu[-1]:.1f}")
                stand.say(f"    {kind} round {number}: {medians[-1]:.1f} ms")
        found = Series(tuple(medians))
        table.add(kind, found.shown(), f"{worst:.1f}", Series(tuple(cpu)).shown())
        name = f"Replay of a journal of {steps:,} steps, {kind}"
        goals.append(Goal(name=name, must=150, is_floor=False, unit="ms", found=found))
    text = _TEXT.format(steps=steps, times=times)
    return Section(name="journal", title="Replay of a journal", text=text, tables=[table], goals=goals, raw=[raw])


def replayed_ms(spent: Spent, steps: int) -> float:
    """Return how long a replay took.

    Raises:
        Faulty: steps were called again: that is no replay.
    """
    executed = spent.said["executed"]
    if executed != steps:
        raise Faulty(f"{executed - steps} of {steps} recorded steps were called again.")
    return float(spent.said["took_ns"] / 1e6)
