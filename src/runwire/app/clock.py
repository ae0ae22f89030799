"""The one place where this room reads the wall clock."""

from __future__ import annotations

import time

__all__ = ["wall_ns"]


def wall_ns() -> int:
    """Return nanoseconds since 1970, UTC: for spans of traces, and for whoever looks whether the clock is right."""
    return time.time_ns()
