"""How soon a person sees that something happens, beside what one fsync takes on the same disk."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from bench.figures import Goal, Section, Series, Table
from bench.process import Process
from bench.stand import Stand

__all__ = ["fsync_ms", "measure"]

_TEXT = """\
One person, one message at a time ({sends} in each round, in one conversation, at random moments): from the frame with
`send` to the bytes of `user_message` (stored) and of `agent_started` (claimed by a worker, which has begun). Two to
three commits lie before the second, each with an fsync; the disk's own fsync (4 KiB appended to a file of the same
folder) is measured before and after each round, and the goal counts in it: 3 ms + 3 × its median."""
_WRITES = 100


def measure(stand: Stand) -> Section:
    """Measure R and the disk in turns."""
    sends = 10 if stand.is_quick else 50
    table = Table(("from `send` to", "median ms", "p99 ms"))
    raw = Table(("round", "`user_message` ms", "`agent_started` ms", "fsync median ms"))
    stored: list[float] = []
    started: list[float] = []
    syncs: list[float] = []
    server = stand.server("R")
    first_medians: list[float] = []
    second_medians: list[float] = []
    sync_medians: list[float] = []
    for number in range(1, stand.rounds + 1):
        around = fsync_ms(stand.folder, _WRITES)
        early = _firsts(stand, server, '"type":"user_message"', sends)
        late = _firsts(stand, server, '"type":"agent_started"', sends)
        around += fsync_ms(stand.folder, _WRITES)
        stored, started, syncs = stored + early, started + late, syncs + around
        for medians, values in ((first_medians, early), (second_medians, late), (sync_medians, around)):
            medians.append(statistics.median(values))
        raw.add(number, *(f"{m[-1]:.2f}" for m in (first_medians, second_medians, sync_medians)))
        stand.say(f"    round {number}: {second_medians[-1]:.2f} ms, fsync {sync_medians[-1]:.2f} ms")
    for what, values in (("`user_message`", stored), ("`agent_started`", started), ("(one fsync)", syncs)):
        table.add(what, f"{statistics.median(values):.2f}", f"{sorted(values)[int(len(values) * 0.99)]:.2f}")
    limit = 3 + 3 * statistics.median(sync_medians)
    return Section(
        name="first_event",
        title="First event",
        text=_TEXT.format(sends=sends),
        tables=[table],
        goals=[
            Goal(
                name="First event of the agent (3 ms + 3 fsyncs)",
                must=limit,
                is_floor=False,
                unit="ms",
                found=Series(tuple(second_medians)),
            )
        ],
        raw=[raw],
    )


def fsync_ms(folder: Path, count: int) -> list[float]:
    """Return how long each of so many small appends takes to reach the disk."""
    path = folder / "fsync"
    took = []
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            began_ns = time.monotonic_ns()
            file.write(bytes(4_096))
            os.fdatasync(file.fileno())
            took.append((time.monotonic_ns() - began_ns) / 1e6)
    path.unlink()
    return took


def _firsts(stand: Stand, server: Process, mark: str, sends: int) -> list[float]:
    # A run of 10 events; each begins a little after the end of the one before, as a person's would.
    return stand.ask(server, events=10, connections=1, sends=sends, first=mark, pause_s=0.02).firsts_ms
