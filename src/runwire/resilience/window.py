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

    __slots__ = ("_at", "_bucket_s", "_buckets", "_sums")

    def __init__(self, window_s: float) -> None:
        self._bucket_s = window_s / BUCKETS
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._buckets: list[list[int]] = [[0, 0, 0] for _ in range(BUCKETS)]
        self._sums = [0, 0, 0]
        self._at = 0  # number of the present stretch

    def add(self, now_s: float, *, is_failed: bool, is_slow: bool) -> tuple[int, int, int]:
        """Count one call; return calls, failures and slow ones."""
        at = int(now_s // self._bucket_s)
        if at > self._at:
            self._forget(at)
        for counts in (self._sums, self._buckets[self._at % BUCKETS]):
            counts[0] += 1
            if is_failed:
                counts[1] += 1
            if is_slow:
                counts[2] += 1
        calls, failures, slow = self._sums
        return calls, failures, slow

    def totals(self, now_s: float) -> tuple[int, int, int]:
        """Return calls, failures and slow ones."""
        self._forget(int(now_s // self._bucket_s))
        calls, failures, slow = self._sums
        return calls, failures, slow

    def _forget(self, at: int) -> None:
        for number in range(max(self._at + 1, at - BUCKETS + 1), at + 1):
            bucket = self._buckets[number % BUCKETS]
            for which, count in enumerate(bucket):
                self._sums[which] -= count
                bucket[which] = 0
        self._at = max(self._at, at)
