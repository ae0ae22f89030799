"""How many calls may be made again: a share of those that are made anyhow, so that retries never make a storm. Pure.

Whoever fails is asked again by everybody at once, and what he bore before becomes several times as much. With a budget
all together make at most `ratio` retries for each first call, and a few more where there are few.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

__all__ = ["RATIO", "RetryBudget", "RetryBudgets"]

RATIO: Final = 0.2
"""Retries for each first call."""
_RESERVE: Final = 10.0  # retries that nobody has paid in for: who calls now and then may try again, too
_REFILL_S: Final = 1.0  # in which one of these comes back
_MOST_SAVED: Final = 20.0  # a quiet day pays for no storm
_MOST: Final = 1_000


class RetryBudget:
    """A bucket of tokens: each first call puts `ratio` of one in, each retry takes one out. Any thread may ask.

    Up to ten tokens come by themselves, one each second.

    Args:
        ratio: from 0 (no retry but these) to 1.
        now_s: a clock that never goes back, seconds.
    """

    __slots__ = ("_at_s", "_lock", "_now_s", "_ratio", "_tokens")

    def __init__(self, ratio: float = RATIO, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._ratio = ratio
        self._now_s = now_s
        self._tokens = _RESERVE
        self._at_s = now_s()  # when it was last filled up
        self._lock = threading.Lock()

    @property
    def tokens(self) -> float:
        """Return how many retries there are now."""
        return self._tokens

    def call(self) -> None:
        """Count a first call."""
        with self._lock:
            self._tokens = min(self._tokens + self._ratio, _MOST_SAVED)

    def retry(self) -> bool:
        """Take a retry; return whether there was one."""
        with self._lock:
            now_s = self._now_s()
            if self._tokens < _RESERVE:
                self._tokens = min(self._tokens + (now_s - self._at_s) / _REFILL_S, _RESERVE)
            self._at_s = now_s
            # A sum of tenths is a little less than the whole that it stands for.
            if self._tokens < 1 - 1e-9:
                return False
            self._tokens -= 1
            return True


class RetryBudgets:
    """One budget for each thing that is asked, so that what fails takes no retries from others.

    At most 1,000; past that the one that was used longest ago goes.
    """

    def __init__(self, ratio: float = RATIO, *, most: int = _MOST, now_s: Callable[[], float] = time.monotonic) -> None:
        self._ratio = ratio
        self._now_s = now_s
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, RetryBudget] = OrderedDict()

    def of(self, name: str) -> RetryBudget:
        """Return the budget of this, a new one if there is none."""
        with self._lock:
            budget = self._kept.get(name)
            if budget is None:
                budget = self._kept[name] = RetryBudget(self._ratio, now_s=self._now_s)
                if len(self._kept) > self._most:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(name)
        return budget
