"""As fast as possible: 200 runs at once, 205 events each."""

from __future__ import annotations

from bench.figures import Goal, Section, Series, Table, ratios
from bench.servers.shape import Kind
from bench.stand import BASELINES, Round, Stand, cpu_series, rounds_table

__all__ = ["compared", "goal_against", "measure"]

_EVENTS = 205
_TEXT = """\
{runs} runs at once, {events} events each, as fast as their agents say them: after each event an agent only gives way
to the others. In the first table no event can be merged with its neighbour (`ctx.custom`), so events said are events
sent and stored; the three events of each Runwire run itself count among the {events}. In the second one the agent
streams text (`ctx.write`): Runwire merges adjacent deltas that wait for a commit, the baselines send each. Both are
per event *said*."""


def measure(stand: Stand) -> Section:
    """Measure R, N, J and L, interleaved."""
    runs = 20 if stand.is_quick else 200
    letters = ("R", "N", "J", "L")

    def once(letter: str, kind: Kind) -> Round:
        return stand.round(stand.server(letter), connections=runs, events=_EVENTS, kind=kind)

    for letter in stand.present(letters):
        once(letter, "custom")  # warm up
    plain = stand.interleaved(letters, lambda letter: once(letter, "custom"))
    text = stand.interleaved(letters, lambda letter: once(letter, "text"))
    return Section(
        name="burst",
        title="Burst",
        text=_TEXT.format(runs=runs, events=_EVENTS),
        tables=[compared(plain, "events that cannot be merged"), compared(text, "text, merged where it queues")],
        goals=[
            goal_against("Burst, durable, against N", stand, plain, "N", must=1.8, aim=2.5),
            goal_against("Burst, durable, against J", stand, plain, "J", must=1.0, aim=1.5),
            goal_against("Burst, durable, against L", stand, plain, "L", must=0.7, aim=1.0),
        ],
        raw=[rounds_table(plain), rounds_table(text)],
    )


def compared(found: dict[str, list[Round]], what: str) -> Table:
    """Return CPU per event of each server, and how many times Runwire's events one of its core-seconds would carry."""
    table = Table((what, "CPU µs per event", "events per second and core", "Runwire carries"))
    ours = cpu_series(found["R"])
    for letter, rounds in found.items():
        theirs = cpu_series(rounds)
        times = "" if letter == "R" else f"{ratios(theirs, ours).shown(2)} ×"
        table.add(f"{letter}: {BASELINES[letter]}", theirs.shown(), f"{1e6 / theirs.median:,.0f}", times)
    return table


def goal_against(
    name: str, stand: Stand, found: dict[str, list[Round]], letter: str, *, must: float, aim: float
) -> Goal:
    """Return the goal that Runwire carries so many times what a baseline does."""
    result: Series | None = None
    if letter in found:
        result = ratios(cpu_series(found[letter]), cpu_series(found["R"]))
    return Goal(name=name, must=must, aim=aim, unit=f"× {letter}", found=result, why_not=stand.why_not(letter))
