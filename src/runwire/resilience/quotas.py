"""How much one person or key may take: counted by all processes together, or by each for itself, more strictly.

The pure part is `limits.MovingWindows`. Here is the shell: it asks what all processes share, for a moment and behind a
breaker, and counts alone while that does not answer. Nobody is refused because the shared counts are away, and nobody
waits for them: a send is late by `ANSWER_S` at most, and only until the breaker has opened.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from runwire.errors import Unavailable
from runwire.resilience.breaker import Breaker, State, Terms
from runwire.resilience.limits import MovingWindows

__all__ = ["ALONE", "ANSWER_S", "Allowance", "OverLimit", "Quota", "SharedCounts", "breaker_of_counts"]

ANSWER_S: Final = 0.5  # for the shared counts; of a Redis that works they take a tenth of a millisecond
ALONE: Final = 0.5  # share of a limit that each process lets through by itself while the shared counts are away


class OverLimit(Unavailable):
    """Refuse what would go over a limit of the person's or key's own; `reason` names the limit, for figures."""

    code = "rate_limited"

    def __init__(self, message: str, *, reason: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much of something one party may take within any stretch of time."""

    name: str  # such as `user_messages`: in figures, and in the names of the shared counts
    limit: int
    period_s: int
    unit: int = 1  # the shared counts keep an entry for each so many: a million tokens are no million entries

    @property
    def alone(self) -> int:
        """Return what one process lets through while the shared counts are away."""
        return max(1, int(self.limit * ALONE))


class SharedCounts(Protocol):
    """Counts that several processes have in common. Each answers, or raises, within about `ANSWER_S`."""

    async def take(self, quota: Quota, who: str, amount: int) -> float:
        """Take an amount; return 0, or the seconds until it will fit. Raises Unavailable."""
        ...

    async def add(self, quota: Quota, who: str, amount: int) -> float:
        """Count what was taken already, up to the limit; return what `wait_s` does then. Raises Unavailable."""
        ...

    async def wait_s(self, quota: Quota, who: str) -> float:
        """Return 0 if something is left, else the seconds until something will be. Raises Unavailable."""
        ...


def breaker_of_counts(now_s: Callable[[], float] = time.monotonic) -> Breaker:
    """Return what all allowances of a process ask before they ask the shared counts."""
    terms = Terms(failures_in_row=2, failure_rate=None, open_s=1.0, longest_open_s=5.0, lease_s=1.0)
    return Breaker("limits", terms, now_s=now_s)


class Allowance:
    """One quota, for each party. On one event loop.

    Never over the limit within any period while the shared counts answer; what processes let through alone, because
    they did not, comes on top: half of the limit for each process. 10,000 parties are counted here at a time.

    Args:
        quota: how much.
        shared: what is counted with others; None: this process alone counts, and grants the whole limit.
        breaker: around `shared`.
        now_s: a clock that never goes back, seconds.
    """

    def __init__(
        self,
        quota: Quota,
        *,
        shared: SharedCounts | None = None,
        breaker: Breaker | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.quota = quota
        self._shared = shared
        self._breaker = breaker or breaker_of_counts(now_s)
        self._now_s = now_s
        self._own = MovingWindows(period_s=quota.period_s)

    @property
    def is_alone(self) -> bool:
        """Return whether the shared counts do not answer, and this process counts more strictly."""
        return self._shared is not None and self._breaker.state is not State.CLOSED

    async def take(self, who: str, amount: int = 1) -> float:
        """Take an amount.

        Returns:
            0 if it was taken, else the seconds until it will fit; nothing was taken then.
        """
        waits_s = await self._ask(lambda shared: shared.take(self.quota, who, amount))
        if waits_s is None:
            return self._own.take(who, amount, limit=self._limit, now_s=self._now_s())
        return waits_s

    async def add(self, who: str, amount: int) -> float:
        """Count what was taken already, whether or not that goes over the limit; return what `wait_s` does then."""
        waits_s = await self._ask(lambda shared: shared.add(self.quota, who, amount))
        if waits_s is None:
            self._own.add(who, amount, now_s=self._now_s())
            return self._own.wait_s(who, limit=self._limit, now_s=self._now_s())
        return waits_s

    async def wait_s(self, who: str) -> float:
        """Return 0 if something is left, else the seconds until something will be."""
        waits_s = await self._ask(lambda shared: shared.wait_s(self.quota, who))
        if waits_s is None:
            return self._own.wait_s(who, limit=self._limit, now_s=self._now_s())
        return waits_s

    async def _ask(self, question: Callable[[SharedCounts], Awaitable[float]]) -> float | None:
        """Return what the shared counts answer; None: there are none, or they do not answer now."""
        if self._shared is None:
            return None
        try:
            with self._breaker.acquire():
                return await question(self._shared)
        except Unavailable:  # the breaker has counted it, or has them left alone
            return None

    @property
    def _limit(self) -> int:
        return self.quota.limit if self._shared is None else self.quota.alone
