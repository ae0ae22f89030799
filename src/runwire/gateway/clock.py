"""The one place of this room that reads clocks itself; most have the event loop's."""

from __future__ import annotations

import time

__all__ = ["monotonic_s", "wall_ms"]


def monotonic_s() -> float:
    """Return seconds of the clock that `auth` measures with, too."""
    return time.monotonic()


def wall_ms() -> int:
    """Return ms since 1970, UTC: to compare with a token's `exp`, never to measure."""
    return time.time_ns() // 1_000_000
