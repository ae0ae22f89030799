"""The clocks of this room: one for people, and one for leases, which goes on while the machine sleeps."""

from __future__ import annotations

import time
from typing import Final

__all__ = ["lease_now_s", "now_ms"]

# The monotonic clock of Linux stands still in a suspended machine, whose leases run out all the same.
_LEASE_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_ms() -> int:
    """Return milliseconds since 1970, UTC. Its readings are for people; order is `seq` alone."""
    return time.time_ns() // 1_000_000


def lease_now_s() -> float:
    """Return seconds since some moment; never goes back, and counts the time in which the machine slept."""
    return time.clock_gettime(_LEASE_CLOCK)
