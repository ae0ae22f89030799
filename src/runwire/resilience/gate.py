"""When to let nobody more in, and when again: a limit with hysteresis, pure."""

from __future__ import annotations

__all__ = ["Gate"]


class Gate:
    """Closes when a figure is over its limit, opens when it has fallen to a share of it.

    Without the distance between the two a node at its limit would turn every second one away, for ever.

    Args:
        limit: the last value that is let in; None: it never closes.
        opens_at: share of the limit.
    """

    def __init__(self, limit: float | None, *, opens_at: float = 0.8) -> None:
        self._limit = limit
        self._opens_at = opens_at
        self.is_closed = False

    def look(self, value: float) -> bool:
        """Take a figure in; return whether the gate is closed now."""
        if self._limit is not None:
            self.is_closed = value > self._limit * (self._opens_at if self.is_closed else 1.0)
        return self.is_closed
