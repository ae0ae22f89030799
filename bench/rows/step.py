"""What a journalled step costs, beside one of DBOS on the same database."""

from __future__ import annotations

from contextlib import ExitStack

from bench.engine import DATABASES, ENGINES, Engine, Spent
from bench.figures import Faulty, Goal, Section, Series, Table, ratios
from bench.stand import Missing, Stand

__all__ = ["measure", "per_step"]

_TEXT = """\
One run calls a function that does nothing, {count} times, one after the other: Runwire's `ctx.step` in its worker with
its outbox, DBOS's `@DBOS.step` in a workflow (both async). Both on one core, PostgreSQL on the other; both commit with
an fsync (`synchronous_commit = on`; SQLite in WAL with `synchronous = FULL`, which DBOS is given: its own default there
is slower). Wall time is taken inside the run, from the first step's beginning to the last one's return; CPU is the
engine's process and, beside it, all processes of PostgreSQL. That so many steps are recorded is read from the database
afterwards. Runwire commits the beginning of each step before its function is called, together with the end of the one
before, so it has one commit per step as DBOS has; where the disk is slow or busy, the fsync is most of both wall
times."""
_MUST = {"PostgreSQL": 0.35, "SQLite": 0.5}


def measure(stand: Stand) -> Section:
    """Measure both on both databases, in turns."""
    count = 20 if stand.is_quick else 300
    table = Table(("step", "wall ms", "engine's CPU µs", "PostgreSQL's CPU µs"))
    raw = Table(("database", "engine", "round", "wall ms", "engine's CPU µs", "PostgreSQL's CPU µs"))
    goals: list[Goal] = []
    for kind in DATABASES:
        wall, cpu = _measure(stand, kind, count, raw)
        for name, series in wall.items():
            table.add(f"{ENGINES[name]}; {kind}", series.shown(2), cpu[name][0].shown(0), cpu[name][1].shown(0))
        goals += _goals(kind, wall, {name: _sum(*both) for name, both in cpu.items()})
    return Section(
        name="step", title="Journalled step", text=_TEXT.format(count=count), tables=[table], goals=goals, raw=[raw]
    )


def _goals(kind: str, wall: dict[str, Series], cpu: dict[str, Series]) -> list[Goal]:
    goals = []
    for what, found in (("wall", wall), ("CPU", cpu)):
        missing = "" if "dbos" in found else "DBOS is not here"
        goals.append(
            Goal(
                name=f"Journalled step, {kind}, {what}",
                must=_MUST[kind],
                is_floor=False,
                unit="× DBOS",
                found=None if missing else ratios(found["runwire"], found["dbos"]),
                why_not=missing,
            )
        )
    return goals


def _measure(
    stand: Stand, kind: str, count: int, raw: Table
) -> tuple[dict[str, Series], dict[str, tuple[Series, Series]]]:
    wall: dict[str, list[float]] = {}
    cpu: dict[str, tuple[list[float], list[float]]] = {}
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name in ("runwire", "dbos"):
            try:
                engines[name] = stack.enter_context(stand.engine(name, kind, stand.database(kind, name=name)))
            except Missing as missing:
                stand.say(f"    {missing}")
                continue
            engines[name].order("steps", count=20)  # warm up
            wall[name], cpu[name] = [], ([], [])
        for number in range(1, stand.rounds + 1):
            for name in sorted(engines, reverse=bool(number % 2)):
                spent = engines[name].measured("steps", count=count)
                ms, engine_us, database_us = per_step(name, spent, count)
                wall[name].append(ms)
                cpu[name][0].append(engine_us)
                cpu[name][1].append(database_us)
                raw.add(kind, name, number, f"{ms:.3f}", f"{engine_us:.0f}", f"{database_us:.0f}")
                stand.say(f"    {kind} round {number} {name}: {ms:.2f} ms per step")
    return (
        {name: Series(tuple(values)) for name, values in wall.items()},
        {name: (Series(tuple(mine)), Series(tuple(its))) for name, (mine, its) in cpu.items()},
    )


def per_step(name: str, spent: Spent, count: int) -> tuple[float, float, float]:
    """Return ms of wall, and µs of CPU of the engine and of the database, per step.

    Raises:
        Faulty: another number of steps is recorded than was taken.
    """
    recorded = spent.said["recorded"]
    if recorded != count:
        raise Faulty(f"{name} recorded {recorded} steps of {count}.")
    return spent.said["took_ns"] / count / 1e6, spent.engine_ns / count / 1e3, spent.database_ns / count / 1e3


def _sum(engine: Series, database: Series) -> Series:
    return Series(tuple(a + b for a, b in zip(engine.values, database.values, strict=True)))
