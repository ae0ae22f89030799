"""When to ask somebody again who does not answer: after some failures in a row, and one at a time. Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["FailFast"]

_LEAST_CHANCE: Final = 0.5  # of a pause: many who lost the same peer come back to it spread over the other half


class FailFast:
    """Let nobody ask a peer that has failed `after` times in a row, for a pause that doubles; then one asks first.

    Time and chance are arguments. Only failures to answer count: a refusal is an answer.

    Args:
        after: failures in a row.
        first_s: the first pause, seconds.
        most_s: the longest.
        probe_s: how long the one who asks first may take; then another one may.
    """

    def __init__(self, *, after: int, first_s: float, most_s: float, probe_s: float) -> None:
        self._after = after
        self._first_s = first_s
        self._most_s = most_s
        self._probe_s = probe_s
        self._failures = 0
        self._closed_until_s = 0.0

    def wait_s(self, *, now_s: float) -> float:
        """Return 0 if the peer may be asked now, by who called; else how long nobody may."""
        if self._failures < self._after:
            return 0.0
        if now_s < self._closed_until_s:
            return self._closed_until_s - now_s
        self._closed_until_s = now_s + self._probe_s  # for all others, until this one has its answer
        return 0.0

    def answered(self) -> None:
        """Take in that the peer has answered."""
        self._failures = 0
        self._closed_until_s = 0.0

    def failed(self, *, now_s: float, chance: float) -> None:
        """Take in that the peer has not answered; `chance` is a random number from 0 to 1."""
        self._failures += 1
        if self._failures >= self._after:
            doubled_s = self._first_s * 2.0 ** min(self._failures - self._after, 16)
            pause_s = min(self._most_s, doubled_s) * (_LEAST_CHANCE + (1 - _LEAST_CHANCE) * chance)
            self._closed_until_s = now_s + pause_s
