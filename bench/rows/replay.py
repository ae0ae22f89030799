"""How soon somebody who comes back has everything."""

from __future__ import annotations

import json
import urllib.request

from bench.figures import Goal, Section, Series, Table, quantile
from bench.process import Process
from bench.stand import Stand

__all__ = ["measure"]

_TEXT = """\
A conversation of {events:,} events that nobody listens to: a new connection subscribes from the start. Time from its
`subscribe` to the bytes of the first event, and of the last one ({times} times in each round, each on a new
connection; medians of the rounds)."""


def measure(stand: Stand) -> Section:
    """Fill a thread, then read it again and again."""
    events = 500 if stand.is_quick else 5_000
    times = 3 if stand.is_quick else 10
    server = stand.server("R")
    thread = _filled(stand, server, events)
    command = json.dumps({"op": "subscribe", "id": "1", "thread": thread, "after": 0, "view": "all"})
    table = Table(("events", "median ms", "worst ms"))
    raw = Table(("round", "first event ms", "all events ms"))
    firsts: list[float] = []
    wholes: list[float] = []
    for number in range(1, stand.rounds + 1):
        first, everything = [], []
        for _ in range(times):
            result = stand.load(
                server,
                connections=1,
                command=command,
                events=events,
                ends=events,
                first='"op":"event"',
                credentials=stand.keys[:1],
            )
            first += result.firsts_ms
            everything += result.lasts_ms
        firsts.append(quantile(sorted(first), 0.5))
        wholes.append(quantile(sorted(everything), 0.5))
        raw.add(number, f"{firsts[-1]:.2f}", f"{wholes[-1]:.2f}")
        stand.say(f"    round {number}: first {firsts[-1]:.1f} ms, all {wholes[-1]:.1f} ms")
    table.add("the first", f"{Series(tuple(firsts)).median:.2f}", f"{max(firsts):.2f}")
    table.add(f"all {events:,}", f"{Series(tuple(wholes)).median:.2f}", f"{max(wholes):.2f}")
    return Section(
        name="replay",
        title="Replay",
        text=_TEXT.format(events=events, times=times),
        tables=[table],
        goals=[
            Goal(
                name=f"Replay of {events:,} events: first",
                must=5,
                is_floor=False,
                unit="ms",
                found=Series(tuple(firsts)),
            ),
            Goal(
                name=f"Replay of {events:,} events: all",
                must=80,
                is_floor=False,
                unit="ms",
                found=Series(tuple(wholes)),
            ),
        ],
        raw=[raw],
    )


def _filled(stand: Stand, server: Process, events: int) -> str:
    """Return a thread of the first user that has so many events."""
    stand.ask(server, events=events, connections=1, credentials=stand.keys[:1])
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/v1/threads?limit=1", headers={"authorization": f"Bearer {stand.keys[0]}"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        thread = json.load(response)["items"][0]["thread"]
    assert isinstance(thread, str)
    return thread
