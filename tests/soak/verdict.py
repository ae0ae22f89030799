"""Whether a figure grows: a robust line through its samples, and only what cannot be noise is a finding. Pure.

A slope is Theil-Sen's: the median over all pairs of samples, which one burst or one sample taken in the middle of a
run does not move. Beside it stands the interval that Kendall's test gives for it (Sen, 1968). A finding is a slope
whose *lower* end is above the bound: a noisy figure can hide a leak, but never invent one. What could have been hidden
is said beside it: a leak of `bound + (slope - lowest)` per hour would have been seen.

Bounds, per hour and process:

- resident memory 3 MiB: with five connections a second at two gateways 350 bytes of each. Half an hour does not show
  that: under load, on a busy machine, a leak was seen from 15 to 40 MiB an hour on (measured). Eight hours show
  less, by about as much as they are longer.
- descriptors, tasks and threads 60: one a minute, those of sockets that people have open left out. At two and a half
  connections a second and gateway, one in 150 of them leaking one thing is seen.
- blocks of memory given out by Python 4,000: one in two connections or runs leaking a single object. Only with garbage
  collected before each sample (`--collect`), else it is garbage that is counted. Blocks are what objects of up to 512
  bytes are made of, so what leaks only larger ones is left to resident memory.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["BOUNDS", "Figure", "Line", "Rest", "judge", "line", "rest_findings"]

BOUNDS: Final = {"rss_kib": 3 * 1024.0, "descriptors": 60.0, "tasks": 60.0, "threads": 60.0, "blocks": 4000.0}
_GROUPS: Final = 60  # of samples, whose medians are taken: pairs grow with the square
_FEWEST: Final = 8  # with less nothing is certain enough to be a finding
_Z: Final = 2.576  # 99 %, two-sided


@dataclass(frozen=True, slots=True)
class Line:
    """A robust line, per hour."""

    slope: float
    lowest: float  # of the interval
    highest: float
    level: float  # the median


@dataclass(frozen=True, slots=True)
class Figure:
    """What is known of one figure of one process."""

    process: str
    name: str
    line: Line
    bound: float

    @property
    def is_found(self) -> bool:
        """Return whether it grows for sure."""
        return self.line.lowest > self.bound

    @property
    def seen_from(self) -> float:
        """Return how steep a leak had to be to be seen above this noise."""
        return self.bound + self.line.slope - self.line.lowest


def line(times_s: Sequence[float], values: Sequence[float]) -> Line:
    """Lay a line through samples."""
    points = _grouped(times_s, values)
    slopes = sorted(3600 * (b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(points, 2))
    level = statistics.median(values) if values else 0.0
    if len(points) < _FEWEST:
        return Line(statistics.median(slopes) if slopes else 0.0, -math.inf, math.inf, level)
    n = len(points)
    spread = _Z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    first = max(0, math.floor((len(slopes) - spread) / 2))
    return Line(statistics.median(slopes), slopes[first], slopes[-1 - first], level)


def _grouped(times_s: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """Return at most so many points, each the median of neighbours."""
    size = max(1, math.ceil(len(values) / _GROUPS))
    pairs = list(zip(times_s, values, strict=True))
    groups = [pairs[n : n + size] for n in range(0, len(pairs), size)]
    return [(statistics.median(t for t, _ in group), statistics.median(v for _, v in group)) for group in groups]


def judge(process: str, times_s: Sequence[float], series: dict[str, list[float]], scale: float = 1.0) -> list[Figure]:
    """Judge the figures of one process.

    Args:
        process: its name.
        times_s: when the samples were taken, after the warm-up.
        series: figure -> samples.
        scale: how many times faster than usual connections come and go, and bounds are wider.
    """
    return [
        Figure(process, name, line(times_s, series[name]), bound * scale)
        for name, bound in BOUNDS.items()
        if name in series
    ]


@dataclass(frozen=True, slots=True)
class Rest:
    """What a process holds when nobody is connected."""

    descriptors: int
    tasks: int
    threads: int
    blocks: int = 0  # reported: caches are filled by then
    rss_kib: int = 0


# A pool of connections to the database may have grown under load (10), and so may the threads of blocking calls.
_LEFT: Final = Rest(descriptors=16, tasks=24, threads=40)


def rest_findings(process: str, before: Rest, after: Rest) -> list[str]:
    """Compare a process before the first connection with the same after the last."""
    found = []
    for name in ("descriptors", "tasks", "threads"):
        was, now, more = (getattr(rest, name) for rest in (before, after, _LEFT))
        if now > was + more:
            found.append(f"{process}: {name} at rest were {was} and are {now}")
    return found
