"""Where Runwire's time goes: py-spy beside a load, as a flame graph, collapsed stacks and a list by function."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
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
_SPY_S: Final = 60.0  # to write what it saw
_TOP: Final = 60
_LEAST: Final = 0.005  # of all samples: what is below is left out of the tree


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

    def tree(self, *, us_per_event: float) -> str:
        """Return who calls whom, with µs per event including what is called, and alone."""
        nodes: Counter[tuple[str, ...]] = Counter()
        for stack, count in self.counts.items():
            for depth in range(1, len(stack) + 1):
                nodes[stack[:depth]] += count
        children: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for node, count in nodes.items():
            if count >= self.total * _LEAST:
                children.setdefault(node[:-1], []).append(node)
        lines: list[str] = []
        todo = sorted(children.get((), []), key=nodes.__getitem__)
        while todo:
            node = todo.pop()
            spent, alone = (samples[node] / self.total * us_per_event for samples in (nodes, self.counts))
            lines.append(f"{'  ' * (len(node) - 1)}{spent:.2f} ({alone:.2f}) {node[-1]}")
            todo += sorted(children.get(node, []), key=nodes.__getitem__)
        return "\n".join(lines)


def profile(stand: Stand, name: str, *, seconds: int) -> None:
    """Sample the server while a load runs, and write what was seen into a folder of its own."""
    spy = Path(sys.executable).with_name("py-spy")
    if not spy.exists():
        raise Missing("py-spy is not installed (`make bench` installs it)")
    folder = Path(tempfile.mkdtemp(prefix=f"runwire-profile-{name}-"))
    server, load = stand.server("R"), LOADS[name]
    stand.round(server, **load)  # warm up
    one = stand.round(server, **load)
    stand.say(f"unobserved: {one.cpu_us:.1f} µs per event, {one.server_share:.2f} of a core")
    collapsed, flames = folder / f"{name}.collapsed.txt", folder / f"{name}.svg"
    # The lists count who holds the interpreter: of the other threads a sampler cannot tell, on a busy machine, which
    # wait for it and which are in the kernel or in SQLite. The flame graph shows all that does not sleep.
    _sample(stand, server, load, [str(spy), "record", "--format", "flamegraph", "--output", str(flames)], seconds)
    _sample(stand, server, load, [str(spy), "record", "--gil", "--format", "raw", "--output", str(collapsed)], seconds)
    text = report(Stacks.parse(collapsed.read_text(encoding="utf-8")), us_per_event=one.cpu_us)
    (folder / f"{name}.top.md").write_text(text, encoding="utf-8")
    print(text)
    stand.say(f"written to {folder}")


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
    lists = "\n\n".join(table.markdown() for table in (threads, own, whole))
    return f"{lists}\n\n```\n{stacks.tree(us_per_event=us_per_event)}\n```\n"


def _sample(stand: Stand, server: Process, load: dict[str, Any], words: list[str], seconds: int) -> None:
    """Have py-spy look on while the load runs."""
    more = ["--pid", str(server.pid), "--rate", str(_RATE), "--duration", str(seconds), "--threads", "--nonblocking"]
    spy = subprocess.Popen(
        [*words, *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(cpu.pin, stand.client_core),
    )
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        stand.ask(server, **load)
    _, said = spy.communicate(timeout=_SPY_S)
    if spy.returncode:
        raise Faulty(f"py-spy failed: {said[-500:]}")


def _function(frame: str) -> str:
    """Return `name (file.py)` of `name (file.py:line)`."""
    head, colon, rest = frame.rpartition(":")
    return f"{head})" if colon and rest.rstrip(")").isdecimal() else frame
