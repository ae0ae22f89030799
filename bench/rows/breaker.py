"""What a call through a circuit breaker costs, beside five from PyPI, and which promises each of them keeps."""

from __future__ import annotations

import asyncio
import importlib
import time
from typing import Any

from bench.figures import Goal, Section, Series, Table, ratios
from bench.stand import Missing, Stand
from runwire.resilience.testing import CHECKS, Verdict, examine, subject_of

__all__ = ["measure"]

_TEXT = """\
CPU of one call of an async function that does nothing, through a closed breaker, in the way that is the quickest for
each library; that of the bare call is taken away. Runwire's counts rates over a window, where
the others count failures in a row.

Then each was put through the kit of `runwire.resilience.testing`: with fifty calls at once, calls that come back late,
people who leave, and probes that hang. The libraries live by the real clock and are asked with the row of failures
that they know; where the kit wants a rate or a lease and there is none, it is not kept."""
_MUST = 2.0


def measure(stand: Stand) -> Section:
    """Measure all in turns, then put them through the kit."""
    try:
        breakers: Any = importlib.import_module("bench.breakers")
    except ImportError as missing:
        raise Missing(f"{missing.name} is not here") from missing
    count = 2_000 if stand.is_quick else 50_000
    cost: dict[str, list[float]] = {}
    raw = Table(("library", "round", "µs"))
    for number in range(1, stand.rounds + 1):
        for name, spent_us in asyncio.run(_round(breakers.calls(), count)).items():
            cost.setdefault(name, []).append(spent_us)
            raw.add(name, number, f"{spent_us:.2f}")
    table = Table(("a call through", "µs"))
    for name, values in cost.items():
        table.add(name, Series(tuple(values)).shown(2))
    others = [values for name, values in cost.items() if name != "runwire"]
    cheapest = Series(tuple(map(min, zip(*others, strict=True))))
    goal = Goal(
        name="A call through a breaker, against the cheapest of five",
        must=_MUST,
        is_floor=False,
        found=ratios(Series(tuple(cost["runwire"])), cheapest),
    )
    verdicts = {"runwire": asyncio.run(examine(subject_of))}
    for name in breakers.LIBRARIES:
        stand.say(f"    {name}")
        verdicts[name] = asyncio.run(examine(breakers.subject(name), terms=breakers.KIT_TERMS))
    tables = [table, _kept(verdicts)]
    return Section(name="breaker", title="Circuit breaker", text=_TEXT, tables=tables, goals=[goal], raw=[raw])


async def _round(calls: dict[str, Any], count: int) -> dict[str, float]:
    """Return µs of CPU of each one's call."""

    async def nothing() -> None: ...

    async def bare(work: Any) -> None:
        await work()

    spent: dict[str, float] = {}
    for name, call in {"": bare, **calls}.items():
        await call(nothing)
        began_ns = time.process_time_ns()
        for _ in range(count):
            await call(nothing)
        spent[name] = (time.process_time_ns() - began_ns) / count / 1_000
    alone = spent.pop("")
    return {name: value - alone for name, value in spent.items()}


def _kept(verdicts: dict[str, list[Verdict]]) -> Table:
    table = Table(("it", *verdicts))
    for at, check in enumerate(CHECKS):
        found = [each[at] for each in verdicts.values()]
        table.add(check.__name__.replace("_", " "), *("yes" if one.is_kept else f"no: {one.found}" for one in found))
    table.add("of all", *(f"{sum(one.is_kept for one in each)} of {len(CHECKS)}" for each in verdicts.values()))
    return table
