"""Where Runwire's time goes: py-spy beside a load, as a flame graph, collapsed stacks and a list by function."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import cpu
from bench.figures import Faulty, Table
from bench.process import Process
from bench.rows.paced import PAUSE_S
from bench.stand import Missing, Stand

__all__ = ["LOADS", "Stacks", "profile"]

# events: of each send; the sends are as many as fill the time.
LOADS: Final[dict[str, dict[str, Any]]] = {
    "burst": {"connections": 200, "events": 205},
    "burst-text": {"connections": 200, "events": 205, "kind": "text"},
    "paced": {"connections": 400, "events": 150, "agent_pause_s": PAUSE_S, "spread_s": PAUSE_S},
    "half": {"connections": 100, "events": 150, "agent_pause_s": PAUSE_S, "spread_s": PAUSE_S},
}
_RATE: Final = 200  # samples per second
_TOP: Final = 60


@dataclass(frozen=True, slots=True)
class Stacks:
    """Collapsed stacks: `thread;outer (file:line);…;inner (file:line) count`."""

    counts: Counter[tuple[str, ...]]

    @classmethod
    def parse(cls, text: str) -> Stacks:
        """Read what py-spy writes with `--format raw`."""
        counts: Counter[tuple[str, ...]] = Counter()
        for line in text.splitlines():
            stack, _, count = line.rpartition(" ")
            if stack:
                counts[tuple(_function(frame) for frame in stack.split(";"))] += int(count)
        return cls(counts)

    @property
    def total(self) -> int:
        """All samples."""
        return self.counts.total()

    def own(self) -> Counter[str]:
        """Samples in which a function was the innermost."""
        found: Counter[str] = Counter()
        for stack, count in self.counts.items():
            found[stack[-1]] += count
        return found

    def inclusive(self) -> Counter[str]:
        """Samples in which a function was on the stack."""
        found: Counter[str] = Counter()
        for stack, count in self.counts.items():
            for name in set(stack):
                found[name] += count
        return found

    def threads(self) -> Counter[str]:
        """Samples of each thread."""
        found: Counter[str] = Counter()
        for stack, count in self.counts.items():
            found[stack[0]] += count
        return found


def profile(stand: Stand, name: str, *, seconds: int) -> None:
    """Sample the server while a load runs, and write what was seen into a folder of its own."""
    spy = Path(sys.executable).with_name("py-spy")
    if importlib.util.find_spec("py_spy") is None and not spy.exists():
        raise Missing("py-spy is not installed (`make bench` installs it)")
    folder = Path(tempfile.mkdtemp(prefix=f"runwire-profile-{name}-"))
    server = stand.server("R")
    load = LOADS[name]
    one = stand.round(server, **load)  # warm up, and how long it takes
    stand.say(f"unobserved: {one.cpu_us:.1f} µs per event, {one.server_share:.2f} of a core")
    sampled = {form: folder / f"{name}.{end}" for form, end in (("raw", "collapsed.txt"), ("flamegraph", "svg"))}
    text = ""
    for form, path in sampled.items():
        used_ns, events = _sample(
            stand, server, load, [str(spy), "record", "--format", form, "--output", str(path)], seconds
        )
        if form == "raw":
            text = report(Stacks.parse(path.read_text(encoding="utf-8")), us_per_event=one.cpu_us)
    (folder / f"{name}.top.md").write_text(text, encoding="utf-8")
    print(text)
    stand.say(f"{used_ns / events / 1000:.1f} µs per event while observed; written to {folder}")


def report(stacks: Stacks, *, us_per_event: float) -> str:
    """Return threads and functions with their part of the CPU time per event."""
    if not stacks.total:
        raise Faulty("The profile has no samples.")

    def us(samples: int) -> str:
        return f"{samples / stacks.total * us_per_event:.2f}"

    threads = Table(("thread", "µs per event", "share"))
    for name, count in stacks.threads().most_common():
        threads.add(name, us(count), f"{count / stacks.total:.0%}")
    inclusive = stacks.inclusive()
    own = Table(("function, by its own time", "own µs per event", "with what it calls"))
    for name, count in stacks.own().most_common(_TOP):
        own.add(f"`{name}`", us(count), us(inclusive[name]))
    whole = Table(("function, with what it calls", "µs per event", "own"))
    alone = stacks.own()
    for name, count in inclusive.most_common(_TOP):
        whole.add(f"`{name}`", us(count), us(alone[name]))
    return "\n\n".join(table.markdown() for table in (threads, own, whole)) + "\n"


def _sample(stand: Stand, server: Process, load: dict[str, Any], words: list[str], seconds: int) -> tuple[int, int]:
    """Return CPU time and events while py-spy looked on."""
    spy = subprocess.Popen(
        [
            *words,
            "--pid",
            str(server.pid),
            "--rate",
            str(_RATE),
            "--duration",
            str(seconds),
            "--threads",
            "--nonblocking",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: cpu.pin(stand.client_core),
    )
    until_s, used_ns, events = time.monotonic() + seconds, 0, 0
    while time.monotonic() < until_s:
        result = stand.ask(server, **load)
        used_ns, events = used_ns + result.server_ns, events + load["connections"] * load["events"]
    _, said = spy.communicate(timeout=60)
    if spy.returncode:
        raise Faulty(f"py-spy failed: {said[-500:]}")
    return used_ns, events


def _function(frame: str) -> str:
    """Return `name (file.py)` of `name (file.py:line)`."""
    head, colon, rest = frame.rpartition(":")
    return f"{head})" if colon and rest.rstrip(")").isdecimal() else frame
