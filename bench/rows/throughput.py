"""How many runs one worker's core carries, beside DBOS and a plain task queue."""

from __future__ import annotations

from contextlib import ExitStack

from bench.engine import DATABASES, ENGINES, Engine, Spent
from bench.figures import Faulty, Goal, Section, Series, Table, ratios
from bench.stand import Missing, Stand

__all__ = ["measure", "rate"]

_USERS = 50
_TEXT = """\
{users} users send {count} messages, each user the next one as soon as the one before is stored; an agent that does
nothing answers each. From the first `send` until the last run has ended, all stored with an fsync per commit. One
process sends and works, on one core; PostgreSQL has the other. DBOS is measured twice: workflows started where they
run, which nobody has to find, and workflows put into a queue, asked every 10 ms (default: 1 s; stopped while others are
measured). procrastinate (PostgreSQL only) runs jobs, 50 at a time, woken by NOTIFY. That all have ended well is read
from the database."""


def measure(stand: Stand) -> Section:
    """Measure all engines on each database they know, in turns."""
    count = 50 if stand.is_quick else 300
    head = ("engine", "database", "runs per second", "engine's CPU ms per run", "PostgreSQL's CPU ms per run")
    table, raw = Table(head), Table(("round", *head))
    goals: list[Goal] = []
    for kind in DATABASES:
        found = _measure(stand, kind, count, raw)
        for name, (rates, mine, its) in found.items():
            table.add(ENGINES[name], kind, rates.shown(0), mine.shown(2), its.shown(2))
        goals.append(_goal(kind, {name: rates for name, (rates, *_) in found.items()}))
    return Section(
        name="throughput",
        title="Runs per second",
        text=_TEXT.format(users=_USERS, count=count),
        tables=[table],
        goals=goals,
        raw=[raw],
    )


def _goal(kind: str, rates: dict[str, Series]) -> Goal:
    others = [rates[name] for name in ("dbos", "dbos queue") if name in rates]
    best = max(others, key=lambda series: series.median, default=None)
    return Goal(
        name=f"Runs per second, {kind}",
        must=2,
        unit="× DBOS (the better way)",
        found=None if best is None else ratios(rates["runwire"], best),
        why_not="DBOS is not here",
    )


def _measure(stand: Stand, kind: str, count: int, raw: Table) -> dict[str, tuple[Series, Series, Series]]:
    found: dict[str, tuple[list[float], list[float], list[float]]] = {}
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name in ENGINES:
            if name == "procrastinate" and kind != "PostgreSQL":
                continue
            try:
                engines[name] = stack.enter_context(stand.engine(name, kind, stand.database(kind, name=name)))
            except Missing as missing:
                stand.say(f"    {missing}")
                continue
            engines[name].order(_order(name), count=_USERS * 2, users=_USERS)  # warm up
            engines[name].pause()
            found[name] = [], [], []
        for number in range(1, stand.rounds + 1):
            for name in sorted(engines, reverse=bool(number % 2)):
                engines[name].resume()
                spent = engines[name].measured(_order(name), count=count, users=_USERS)
                engines[name].pause()
                mine, its = spent.engine_ns / count / 1e6, spent.database_ns / count / 1e6
                for values, value in zip(found[name], (rate(name, spent, count), mine, its), strict=True):
                    values.append(value)
                raw.add(number, name, kind, f"{found[name][0][-1]:.0f}", f"{mine:.3f}", f"{its:.3f}")
                stand.say(f"    {kind} round {number} {name}: {found[name][0][-1]:.0f} runs/s")
    return {
        name: (Series(tuple(rates)), Series(tuple(mine)), Series(tuple(its)))
        for name, (rates, mine, its) in found.items()
    }


def _order(name: str) -> str:
    return "queued" if name == "dbos queue" else "runs"


def rate(name: str, spent: Spent, count: int) -> float:
    """Return runs per second.

    Raises:
        Faulty: another number of runs has ended well.
    """
    recorded = spent.said["recorded"]
    if recorded != count:
        raise Faulty(f"{name}: {recorded} runs of {count} have ended.")
    return float(count / (spent.said["took_ns"] / 1e9))
