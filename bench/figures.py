"""The arithmetic: medians with their spread, ratios within a round, goals and whether they are met. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

__all__ = [
    "BUSY_CLIENT",
    "Faulty",
    "Goal",
    "Section",
    "Series",
    "Table",
    "check_count",
    "per_event_us",
    "quantile",
    "ratios",
]

BUSY_CLIENT: Final = 0.8  # a client that used more of its core may have been what was measured


class Faulty(Exception):
    """Something was measured that is no measurement."""


@dataclass(frozen=True, slots=True)
class Series:
    """One figure, of every round."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise Faulty("A figure without a single round.")

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def shown(self, digits: int = 1) -> str:
        """Return `median (min–max)`."""
        spread = f" ({min(self.values):.{digits}f}–{max(self.values):.{digits}f})" if len(self.values) > 1 else ""
        return f"{self.median:.{digits}f}{spread}"


def ratios(above: Series, below: Series) -> Series:
    """Return above ÷ below round by round: what disturbs a whole round disturbs both."""
    return Series(tuple(a / b for a, b in zip(above.values, below.values, strict=True)))


def per_event_us(cpu_ns: int, events: int) -> float:
    """Return µs of CPU per event.

    Raises:
        Faulty: nothing was counted.
    """
    if events <= 0:
        raise Faulty("No event was counted: nothing was measured.")
    if cpu_ns <= 0:
        raise Faulty("The server used no CPU: another process was looked at.")
    return cpu_ns / events / 1000


def check_count(letter: str, *, came: int, said: int, is_merged: bool) -> None:
    """Let no figure pass whose events were not all seen, once each.

    Raises:
        Faulty: none came, or another number than was said; of merged ones fewer may come.
    """
    if came <= 0 or came > said or (came < said and not is_merged):
        raise Faulty(f"{letter} sent {came} events where {said} were said.")


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which this share of the ordered values lies (nearest rank)."""
    if not ordered:
        raise Faulty("A quantile of nothing.")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What was to be reached, and what was."""

    name: str
    must: float
    aim: float | None = None
    is_floor: bool = True  # more is better; else less is
    unit: str = "×"
    found: Series | None = None
    why_not: str = ""  # it was not measured

    @property
    def is_met(self) -> bool:
        """Return whether the median reaches what it must."""
        return self.found is not None and self._reaches(self.must)

    @property
    def verdict(self) -> str:
        """Return it in words: met, or by how much not."""
        if self.found is None:
            return f"not measured: {self.why_not}"
        if self.aim is not None and self._reaches(self.aim):
            return "met, and the aim"
        if self.is_met:
            return "met"
        found = self.found.median
        share = 1 - found / self.must if self.is_floor else found / self.must - 1
        return f"**missed** by {share * 100:.0f} %"

    def wanted(self) -> str:
        """Return `≥ 1.8 × (aim 2.5)`."""
        sign = "≥" if self.is_floor else "≤"
        aim = f" (aim {self.aim:g})" if self.aim is not None else ""
        return f"{sign} {self.must:.3g} {self.unit}{aim}"

    def _reaches(self, limit: float) -> bool:
        assert self.found is not None
        return self.found.median >= limit if self.is_floor else self.found.median <= limit


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a head."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        """Add a row."""
        if len(cells) != len(self.head):
            raise Faulty(f"{len(cells)} cells under a head of {len(self.head)}.")
        self.rows.append(tuple(map(str, cells)))

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines: Iterable[tuple[str, ...]] = (self.head, ("---",) * len(self.head), *self.rows)
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What one measure says."""

    name: str  # of the file that made it
    title: str
    text: str
    tables: list[Table]
    goals: list[Goal] = field(default_factory=list)
    raw: list[Table] = field(default_factory=list)  # figures of every round
    notes: list[str] = field(default_factory=list)  # what went wrong or could not be had
