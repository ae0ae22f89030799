"""Counts of a moving stretch of time. Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["BUCKETS", "Window"]

BUCKETS: Final = 10
"""Of a window: what was counted is forgotten a tenth at a time."""


class Window:
    """Calls, failures and slow calls of the last `window_s`, or up to a tenth less. Not for several threads.

    The sums are kept beside the buckets, so that a call costs the same whatever was counted before it.
    """

    __slots__ = ("_at", "_bucket", "_bucket_s", "_buckets", "_end_s", "calls", "failures", "slow")

    def __init__(self, window_s: float) -> None:
        self._bucket_s = window_s / BUCKETS
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._buckets: list[list[int]] = [[0, 0, 0] for _ in range(BUCKETS)]
        self._at = 0  # number of the present stretch
        self._bucket = self._buckets[0]
        self._end_s = 0.0  # of the present stretch: looked at with each call
        self.calls = self.failures = self.slow = 0

    def add(self, now_s: float, is_failed: bool, is_slow: bool) -> None:
        """Count one call."""
        if now_s >= self._end_s:
            self.move(now_s)
        bucket = self._bucket
        bucket[0] += 1
        self.calls += 1
        if is_failed:
            bucket[1] += 1
            self.failures += 1
        if is_slow:
            bucket[2] += 1
            self.slow += 1

    def move(self, now_s: float) -> None:
        """Forget what is too old by now."""
        at = max(self._at, int(now_s // self._bucket_s))  # threads may come with times a little out of order
        for number in range(max(self._at + 1, at - BUCKETS + 1), at + 1):
            bucket = self._buckets[number % BUCKETS]
            self.calls -= bucket[0]
            self.failures -= bucket[1]
            self.slow -= bucket[2]
            bucket[:] = (0, 0, 0)
        self._at = at
        self._bucket = self._buckets[at % BUCKETS]
        self._end_s = (at + 1) * self._bucket_s
