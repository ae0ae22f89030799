"""What ten thousand parked runs cost a server: nothing, is the promise."""

from __future__ import annotations

from bench.engine import DATABASES, Engine, Spent
from bench.figures import Faulty, Goal, Section, Series, Table
from bench.stand import Stand

__all__ = ["measure"]

_USERS = 50
_WARM = 200
_TEXT = """\
{count:,} runs ask their person something and are parked (after 20 ms here, in production after 10 s). Then, in each
round, two fresh workers, one on that database and one on a database without them, each warmed up by {warm} runs that
come and go: the difference of their memory (PSS), and the CPU of each over {rest:g} s in which nothing happens. *Left
behind* are Python objects that parking left in the process that did it, per run (a run at work has about 60; what the
last ones held on to is still among them). On SQLite the other database has as many runs that have ended: the cache of
pages grows with the file, up to 16 MiB for each connection, whatever is in it."""


def measure(stand: Stand) -> Section:
    """Park once per database, and look at fresh processes each round."""
    count, rest_s = (60, 0.3) if stand.is_quick else (10_000, 1.0)
    head = ("database", "added memory MB", "CPU without, % of a core", "CPU with", "left behind, objects per run")
    table, raw = Table(head), Table(("round", *head[:-1]))
    goals: list[Goal] = []
    for kind in DATABASES:
        empty, full = stand.database(kind), stand.database(kind)
        if kind == "SQLite":  # a larger file fills more of its cache, whatever is in it
            with stand.engine("runwire", kind, empty) as engine:
                engine.order("runs", count=count, users=_USERS)
        left = _park(stand, kind, full, count)
        grown: list[float] = []
        shares: tuple[list[float], list[float]] = ([], [])
        for number in range(1, stand.rounds + 1):
            memory = []
            for url, of_it in zip((empty, full), shares, strict=True):
                with stand.engine("runwire", kind, url) as engine:
                    engine.order("runs", count=_WARM, users=_USERS)
                    engine.order("collect")
                    memory.append(engine.memory_bytes())
                    of_it.append(_share(engine.rest(rest_s)))
            grown.append((memory[1] - memory[0]) / 1e6)
            raw.add(number, kind, f"{grown[-1]:.2f}", f"{shares[0][-1]:.2f}", f"{shares[1][-1]:.2f}")
            stand.say(f"    {kind} round {number}: {grown[-1]:.2f} MB")
        memory_mb, without, with_them = Series(tuple(grown)), Series(tuple(shares[0])), Series(tuple(shares[1]))
        added = Series(tuple(b - a for a, b in zip(*shares, strict=True)))
        table.add(kind, memory_mb.shown(2), without.shown(2), with_them.shown(2), f"{left:.2f}")
        what = f"{count:,} parked runs, {kind}"
        goals.append(Goal(name=f"{what}: memory", must=1, is_floor=False, unit="MB", found=memory_mb))
        goals.append(Goal(name=f"{what}: added CPU", must=0.5, is_floor=False, unit="% of a core", found=added))
        goals.append(Goal(name=f"{what}: objects left", must=1, is_floor=False, unit="per run", found=Series((left,))))
    text = _TEXT.format(count=count, warm=_WARM, rest=rest_s)
    return Section(name="parked", title="Parked runs", text=text, tables=[table], goals=goals, raw=[raw])


def _park(stand: Stand, kind: str, url: str, count: int) -> float:
    """Park so many runs; return how many objects that left behind, per run."""
    with stand.engine("runwire", kind, url) as engine:
        engine.order("runs", count=_WARM, users=_USERS)
        before = _objects(engine)
        said = engine.order("park", count=count, users=_USERS)
        if said["parked"] != count:
            raise Faulty(f"{said['parked']} of {count} runs are parked.")
        engine.order("runs", count=_WARM, users=_USERS)  # what the last group held on to is let go
        return max(0.0, (_objects(engine) - before) / count)


def _objects(engine: Engine) -> int:
    return int(engine.order("collect")["objects"])


def _share(spent: Spent) -> float:
    return spent.engine_ns / spent.wall_ns * 100
