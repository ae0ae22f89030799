"""As models speak: 400 runs, each says something every 20 ms."""

from __future__ import annotations

from bench.figures import Section
from bench.rows.burst import compared, goal_against
from bench.servers.shape import Kind
from bench.stand import Round, Stand, cpu_series, rounds_table

__all__ = ["PAUSE_S", "measure", "was_late"]

PAUSE_S = 0.02
_EVENTS = 150
_LATE = 1.25  # times what the load takes by itself
_FULL = 0.85  # share of a core from which the server is what was short
_TEXT = """\
{runs} runs, each with one event every 20 ms ({rate:,.0f} events per second offered) for {seconds:.0f} s. Every agent
begins at a random moment of its 20 ms: agents in step would measure the queue they make themselves. CPU per event is
higher than in a burst for every server, as each event is a wake-up and a packet of its own; never compare the two.
What takes much longer than {seconds:.0f} s has not kept up, and then merges and groups more than it would at this
pace on a faster core."""


def measure(stand: Stand) -> Section:
    """Measure R, N, J and L, interleaved."""
    runs = 40 if stand.is_quick else 400
    events = 50 if stand.is_quick else _EVENTS
    letters = ("R", "N", "J", "L")

    def once(letter: str, kind: Kind) -> Round:
        server = stand.server(letter)
        return stand.round(server, connections=runs, events=events, agent_pause_s=PAUSE_S, kind=kind, spread_s=PAUSE_S)

    plain = stand.interleaved(letters, lambda letter: once(letter, "custom"))
    text = stand.interleaved(letters, lambda letter: once(letter, "text"))
    seconds = events * PAUSE_S
    return Section(
        name="paced",
        title="Paced",
        text=_TEXT.format(runs=runs, rate=runs / PAUSE_S, seconds=seconds),
        tables=[compared(plain, "events that cannot be merged"), compared(text, "text, merged where it queues")],
        goals=[
            goal_against("Paced, durable, against N", stand, plain, "N", must=0.9, aim=1.2),
            goal_against("Paced, durable, against L", stand, plain, "L", must=0.4, aim=0.6),
        ],
        raw=[rounds_table(plain), rounds_table(text)],
        notes=[*was_late("events that cannot be merged", plain, seconds), *was_late("text", text, seconds)],
    )


def was_late(what: str, found: dict[str, list[Round]], seconds: float) -> list[str]:
    """Return a sentence for each server that did not keep up."""
    notes = []
    for letter, rounds in found.items():
        late = [one for one in rounds if one.result.wall_ns / 1e9 > seconds * _LATE]
        if not late:
            continue
        share = max(one.server_share for one in late)
        cost = cpu_series(rounds).median
        why = (
            f"{cost:.0f} µs per event are more than a core has at this rate"
            if share >= _FULL
            else f"other work on the machine left it at most {share:.2f} of its core"
        )
        notes.append(f"{letter} did not keep up ({what}): {why}.")
    return notes
