"""The one place of this room that reads the wall clock."""

from __future__ import annotations

import time

__all__ = ["wall_ms"]


def wall_ms() -> int:
    """Return ms since 1970, UTC: to compare with a token's `exp`, never to measure."""
    return time.time_ns() // 1_000_000
