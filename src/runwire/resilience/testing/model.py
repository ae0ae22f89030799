"""What a breaker is, in a few lines, to compare a state machine with."""

from __future__ import annotations

from runwire.resilience.breaker import State, Terms
from runwire.resilience.window import BUCKETS

__all__ = ["Model"]


class Model:
    """What a breaker is, without a thought of speed: `chance` is 1, and each call tells a number and its generation."""

    def __init__(self, terms: Terms) -> None:
        self.terms, self.state, self.generation = terms, State.CLOSED, 0
        self.seen: list[tuple[int, bool, bool]] = []  # bucket, failed, slow
        self.probes: dict[int, float] = {}
        self.until_s, self.row, self.openings, self.successes = 0.0, 0, 0, 0

    def move(self, state: State) -> None:
        """Begin a generation."""
        self.openings = 0 if state is State.CLOSED else self.openings + (state is State.OPEN)
        self.state, self.generation, self.seen, self.probes = state, self.generation + 1, [], {}
        self.row = self.successes = 0

    def let_through(self, number: int, now_s: float) -> bool:
        """Return whether this call is let through."""
        if self.state is State.OPEN and now_s >= self.until_s:
            self.move(State.HALF_OPEN)
        self.probes = {each: until_s for each, until_s in self.probes.items() if until_s > now_s}
        if self.state is State.HALF_OPEN and len(self.probes) < self.terms.probes:
            self.probes[number] = now_s + self.terms.lease_s
            return True
        return self.state in (State.CLOSED, State.DISABLED)

    def settle(self, number: int, generation: int, now_s: float, *, is_failed: bool, is_slow: bool) -> None:
        """Take in what came of a call that was let through in that generation."""
        if generation != self.generation:
            return
        self.probes.pop(number, None)
        bucket, terms = int(now_s // (self.terms.window_s / BUCKETS)), self.terms
        if self.state is State.CLOSED:
            self.row = self.row + 1 if is_failed else 0
            self.seen.append((bucket, is_failed, is_slow))
            counted = [each for each in self.seen if each[0] > bucket - BUCKETS]
            failed, slow = sum(each[1] for each in counted), sum(each[2] for each in counted)
            by_rate = failed >= (terms.failure_rate or 2) * len(counted) or slow >= terms.slow_rate * len(counted)
            if self.row == terms.failures_in_row or (len(counted) >= terms.minimum_calls and by_rate):
                self._open(now_s)
        elif self.state is State.HALF_OPEN:
            self.successes += 1
            if is_failed or is_slow:
                self._open(now_s)
            elif self.successes == terms.successes:
                self.move(State.CLOSED)

    def _open(self, now_s: float) -> None:
        self.until_s = now_s + min(self.terms.longest_open_s, self.terms.open_s * 2.0**self.openings)
        self.move(State.OPEN)
