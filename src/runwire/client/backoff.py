"""When to come back after a lost connection. Pure: chance and time are arguments."""

from __future__ import annotations

from typing import Final

__all__ = ["Backoff"]

_BASE_S: Final = 0.5
_CAP_S: Final = 15.0
_STEADY_S: Final = 5.0  # a connection that lived so long was a good one


class Backoff:
    """Full jitter: a wait is anywhere between 0 and a bound that doubles, from 0.5 s to 15 s.

    A fleet that lost its server at one moment so comes back spread out, not in a wave.
    """

    def __init__(self) -> None:
        self._failures = 0

    def lost(self, *, lived_s: float) -> None:
        """Note that a connection ended; 0 if it never was."""
        self._failures = 1 if lived_s >= _STEADY_S else self._failures + 1

    def wait_s(self, *, chance: float, asked_s: float | None = None) -> float:
        """Return how long to wait.

        Args:
            chance: a random number in [0, 1).
            asked_s: what the server's `bye` asked for; the jitter comes on top, so that not all come at once.
        """
        bound_s = min(_CAP_S, _BASE_S * 2.0 ** min(self._failures - 1, 10)) if self._failures else 0.0
        return (asked_s or 0.0) + chance * bound_s
