"""How long a stored message waits until a worker has begun with it, told of it or not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from bench.engine import DATABASES, Engine
from bench.figures import Faulty, Goal, Section, Series, Table
from bench.stand import Stand

__all__ = ["measure", "wait_ms"]

_TEXT = """\
From the moment at which a message is stored (`send` has returned) to the one at which the worker has heard that its
`agent_started` is stored; one message at a time, at random moments, the worker idle. On PostgreSQL another process than
the worker's stores it, and the hint comes by NOTIFY; with SQLite there is one process. *Without a hint* nobody is told:
the worker finds it when it looks, which it does at its default interval."""
_LONGEST_PAUSE_S = {True: 0.05, False: 0.5}
_LIMIT_MS = {True: 10.0, False: 300.0}


def measure(stand: Stand) -> Section:
    """Measure both databases, told first; then both at once, untold: nearly all of that is waiting."""
    told, untold = (5, 2) if stand.is_quick else (40, 8)
    found: dict[tuple[str, bool], list[list[float]]] = {}
    with ExitStack() as stack:
        pairs = {kind: _pair(stand, kind, stack) for kind in DATABASES}
        for number in range(1, stand.rounds + 1):
            for kind, (sender, worker) in pairs.items():
                waits = _waits(sender, worker, told, is_hinted=True)
                found.setdefault((kind, True), []).append(waits)
            with ThreadPoolExecutor(len(pairs)) as pool:

                def poll(pair: tuple[Engine, Engine]) -> list[float]:
                    return _waits(*pair, untold, is_hinted=False)

                for kind, waits in zip(pairs, pool.map(poll, pairs.values()), strict=True):
                    found.setdefault((kind, False), []).append(waits)
            stand.say(
                f"    round {number}: " + ", ".join(f"{k} {_median(v[-1]):.1f} ms" for (k, _), v in found.items())
            )
    return _section(found)


def _section(found: dict[tuple[str, bool], list[list[float]]]) -> Section:
    table = Table(("message stored → `agent_started` stored", "median ms", "worst ms"))
    raw = Table(("database", "hint", "round", "median ms", "worst ms"))
    goals = []
    for (kind, is_hinted), rounds in sorted(found.items(), key=lambda pair: not pair[0][1]):
        how = "with the hint" if is_hinted else "without a hint"
        medians, worst = Series(tuple(map(_median, rounds))), Series(tuple(map(max, rounds)))
        table.add(f"{kind}, {how}", medians.shown(1), worst.shown(1))
        for number, waits in enumerate(rounds, 1):
            raw.add(kind, "yes" if is_hinted else "no", number, f"{_median(waits):.2f}", f"{max(waits):.2f}")
        # Of the unhinted ones there are few in a round: the median of all.
        series = medians if is_hinted else Series((_median([wait for waits in rounds for wait in waits]),))
        goals.append(
            Goal(
                name=f"Claim to start, p50, {kind}, {how}",
                must=_LIMIT_MS[is_hinted],
                is_floor=False,
                unit="ms",
                found=series,
            )
        )
    return Section(name="start", title="Claim to start", text=_TEXT, tables=[table], goals=goals, raw=[raw])


def _pair(stand: Stand, kind: str, stack: ExitStack) -> tuple[Engine, Engine]:
    """Start what stores messages, and a worker: on SQLite one and the same."""
    url = stand.database(kind)
    worker = stack.enter_context(stand.engine("runwire", kind, url))
    worker.order("time_starts")
    worker.order("runs", count=20, users=5)  # warm up
    sender = worker if kind == "SQLite" else stack.enter_context(stand.engine("runwire", kind, url, "gateway"))
    return sender, worker


def _waits(
    sender: Engine, worker: Engine, count: int, *, is_hinted: bool, sleep: Callable[[float], None] = time.sleep
) -> list[float]:
    waits = []
    for _ in range(count):
        sleep(random.uniform(0, _LONGEST_PAUSE_S[is_hinted]))
        sent = sender.order("start_one", is_hinted=is_hinted)
        waits.append(wait_ms(sent, worker.order("started", run=sent["run"])))
    return waits


def wait_ms(sent: dict[str, int], started: dict[str, int]) -> float:
    """Return how long a message waited.

    Raises:
        Faulty: it was begun before it was stored: the clocks are not one.
    """
    waited_ms = (started["started_ns"] - sent["committed_ns"]) / 1e6
    if waited_ms <= 0:
        raise Faulty(f"A run began {-waited_ms:.3f} ms before its message was stored.")
    return waited_ms


def _median(values: list[float]) -> float:
    return Series(tuple(values)).median
