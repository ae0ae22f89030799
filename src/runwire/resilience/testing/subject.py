"""What a breaker under test looks like to the kit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["KitTerms", "Made", "Refused", "Subject"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KitTerms:
    """What a check wants of the breaker; one that cannot do it fails that check."""

    failures_in_row: int | None = 5
    failure_rate: float | None = None
    minimum_calls: int = 10
    window_s: float = 60.0
    slow_s: float | None = None
    open_s: float = 1.0  # the first time; at most twice that for each probe that failed
    lease_s: float = 3.0
    probes: int = 1
    successes: int = 1


class Refused(Exception):
    """The breaker let a call not through."""


class Subject(Protocol):
    """A breaker under test."""

    async def call(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do the work if the breaker lets it through.

        Raises:
            Refused: it does not, and the work was not begun.
            Exception: what the work raised.
        """
        ...

    async def pass_time(self, seconds: float) -> None:
        """Let time pass for the breaker: move its clock, or sleep."""
        ...


Made = Callable[[KitTerms], Subject]
"""Makes a breaker to be tested."""
