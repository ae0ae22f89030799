"""Whether an event costs more when many are connected."""

from __future__ import annotations

from bench.figures import Goal, Section, Series, Table, ratios
from bench.stand import BASELINES, Round, Stand, cpu_series, rounds_table

__all__ = ["measure"]

_FEW, _MANY = 10, 1_000
_EVENTS = 100
_TEXT = """\
CPU per event of a burst of {events} events per run, on {few} connections (each asks {sends} times, one after the
other, in the same conversation) and on {many:,}. Any server gets dearer, as more sockets are in use at a time and
less stays in the processor's caches; the goal is that Runwire grows at most 1.2 times as much as bare uvicorn."""


def measure(stand: Stand) -> Section:
    """Measure R and U at both sizes, interleaved."""
    many = 50 if stand.is_quick else _MANY
    sends = 2 if stand.is_quick else 20

    def once(letter: str, connections: int) -> Round:
        asked = sends if connections == _FEW else 1
        return stand.round(stand.server(letter), connections=connections, events=_EVENTS, sends=asked)

    for letter in stand.present(("R", "U")):
        once(letter, _FEW)
    few = stand.interleaved(("R", "U"), lambda letter: once(letter, _FEW))
    crowd = stand.interleaved(("R", "U"), lambda letter: once(letter, many))
    table = Table(("CPU µs per event", f"{_FEW} connections", f"{many:,} connections", "growth"))
    growth: dict[str, Series] = {}
    for letter in few:
        growth[letter] = ratios(cpu_series(crowd[letter]), cpu_series(few[letter]))
        row = (cpu_series(few[letter]).shown(), cpu_series(crowd[letter]).shown(), f"{growth[letter].shown(2)} ×")
        table.add(f"{letter}: {BASELINES[letter]}", *row)
    against = ratios(growth["R"], growth["U"])
    return Section(
        name="growth",
        title="Many connections",
        text=_TEXT.format(events=_EVENTS, few=_FEW, many=many, sends=sends),
        tables=[table],
        goals=[
            Goal(
                name=f"Growth of cost, {_FEW} to {many:,} connections",
                must=1.2,
                is_floor=False,
                unit="× U's",
                found=against,
            )
        ],
        raw=[rounds_table(few), rounds_table(crowd)],
    )
