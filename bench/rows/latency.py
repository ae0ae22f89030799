"""How much later a person sees an event than the agent said it, at half load."""

from __future__ import annotations

from typing import Any

from bench.figures import Goal, Section, Series, Table
from bench.rows.paced import PAUSE_S, was_late
from bench.stand import Round, Stand, rounds_table

__all__ = ["measure"]

_TEXT = """\
Each event carries the monotonic clock of the moment at which the agent said it; the client, on the same machine,
reads its own when the bytes arrive. Random phases, one event per 20 ms and run. The number of runs, {runs}, is what
makes Runwire use about half of its core (its share is in the raw figures); N gets the same load. N stores nothing, so
all that it shows earlier is what durability adds."""
_EVENTS = 150
_PROBE_RUNS = 50


def measure(stand: Stand) -> Section:
    """Find out what half load is, then measure R and N, interleaved."""
    probe = _once(stand, "R", _PROBE_RUNS)
    runs = max(10, min(600, round(_PROBE_RUNS * 0.5 / probe.server_share)))
    if not stand.is_quick and runs > _PROBE_RUNS:
        # CPU per event falls with the load: one more step gets nearer.
        runs = max(10, min(600, round(runs * 0.5 / _once(stand, "R", runs).server_share)))
    found = stand.interleaved(("R", "N"), lambda letter: _once(stand, letter, runs))
    table = Table(("emit → client", "p50 ms", "p99 ms", "worst ms", "server's core"))
    series: dict[tuple[str, str], Series] = {}
    for letter, rounds in found.items():
        for name in ("p50", "p99", "max"):
            series[letter, name] = Series(tuple(one.result.latencies_ms[name] for one in rounds))
        share = Series(tuple(one.server_share for one in rounds))
        table.add(letter, *(series[letter, name].shown(2) for name in ("p50", "p99", "max")), share.shown(2))
    raw = Table(("server", "round", "p50 ms", "p99 ms", "worst ms"))
    for letter, rounds in found.items():
        for number, one in enumerate(rounds, 1):
            raw.add(letter, number, *(f"{one.result.latencies_ms[name]:.2f}" for name in ("p50", "p99", "max")))
    return Section(
        name="latency",
        title="Added latency",
        text=_TEXT.format(runs=runs),
        tables=[table],
        goals=[
            Goal(name="Added latency, p50", must=3, is_floor=False, unit="ms", found=series["R", "p50"]),
            Goal(name="Added latency, p99", must=10, is_floor=False, unit="ms", found=series["R", "p99"]),
        ],
        raw=[raw, rounds_table(found)],
        notes=was_late("added latency", found, (30 if stand.is_quick else _EVENTS) * PAUSE_S),
    )


def _once(stand: Stand, letter: str, runs: int) -> Round:
    events = 30 if stand.is_quick else _EVENTS
    load: dict[str, Any] = {"connections": runs, "events": events, "agent_pause_s": PAUSE_S, "spread_s": PAUSE_S}
    return stand.round(stand.server(letter), kind="clock", has_clocks=True, **load)
