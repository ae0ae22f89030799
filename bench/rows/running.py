"""What a thousand runs cost that have nothing to do but wait in a step: memory, and CPU."""

from __future__ import annotations

from bench.engine import DATABASES
from bench.figures import Faulty, Goal, Section, Series, Table
from bench.stand import Stand

__all__ = ["measure"]

_USERS = 50
_WARM = 50
_TEXT = """\
{count:,} runs whose agents are in a step, in `await asyncio.sleep`, as with a model that thinks for long. Memory of the
worker's process (PSS) with them less without; a fresh process each round, warmed up by {warm} runs that came and went.
CPU of a core over {rest:g} s in which nothing else happens, on PostgreSQL twice as long: there each run has a lease of
6 s that is renewed every 2 s. All the runs' agents have said that they sleep before anything is read."""


def measure(stand: Stand) -> Section:
    """Measure each database, a fresh process each round."""
    count, rest_s = (50, 0.5) if stand.is_quick else (1_000, 2.0)
    head = ("database", "added memory MB", "% of a core", "PostgreSQL's % of a core")
    table, raw = Table(head), Table(("round", *head))
    goals: list[Goal] = []
    for kind in DATABASES:
        grown: list[float] = []
        shares: list[float] = []
        database_shares: list[float] = []
        for number in range(1, stand.rounds + 1):
            with stand.engine("runwire", kind, stand.database(kind)) as engine:
                engine.order("runs", count=_WARM, users=_USERS)
                before = engine.memory_bytes()
                said = engine.order("sleepers", count=count, users=_USERS)
                if said["sleeping"] != count:
                    raise Faulty(f"{said['sleeping']} of {count} runs sleep.")
                grown.append((engine.memory_bytes() - before) / 1e6)
                # Two renewals of all leases are in it; without leases there is nothing to wait for.
                spent = engine.rest(rest_s * 2 if kind == "PostgreSQL" else rest_s)
            shares.append(spent.engine_ns / spent.wall_ns * 100)
            database_shares.append(spent.database_ns / spent.wall_ns * 100)
            raw.add(number, kind, f"{grown[-1]:.1f}", f"{shares[-1]:.2f}", f"{database_shares[-1]:.2f}")
            stand.say(f"    {kind} round {number}: {grown[-1]:.1f} MB, {shares[-1]:.1f} %")
        memory, cpu = Series(tuple(grown)), Series(tuple(shares))
        table.add(kind, memory.shown(), cpu.shown(), Series(tuple(database_shares)).shown())
        what = f"{count:,} running idle runs, {kind}"
        goals.append(Goal(name=f"{what}: memory", must=40, is_floor=False, unit="MB", found=memory))
        goals.append(Goal(name=f"{what}: CPU", must=5, is_floor=False, unit="% of a core", found=cpu))
    text = _TEXT.format(count=count, warm=_WARM, rest=rest_s)
    return Section(name="running", title="Running idle runs", text=text, tables=[table], goals=goals, raw=[raw])
