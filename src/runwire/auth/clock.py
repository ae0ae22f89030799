"""The one place where this room reads clocks."""

from __future__ import annotations

import time

__all__ = ["monotonic_s", "wall_s"]


def wall_s() -> float:
    """Return seconds since 1970, UTC: for claims of tokens."""
    return time.time_ns() / 1e9


def monotonic_s() -> float:
    """Return seconds of a clock that only goes forward: for deadlines and limits."""
    return time.monotonic()
