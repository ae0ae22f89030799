"""When to stop asking somebody who fails, and when to try again: a circuit breaker. Pure; clock and chance are given.

::

    closed ─ failure rate, slow rate or failures in a row ─▶ open ─ its time is over, and somebody asks ─▶ half_open
      ▲                                                       ▲                                             │  │
      │                                                       └─────────────── a probe fails ───────────────┘  │
      └───────────────────────────────────────── enough probes succeed ────────────────────────────────────────┘
    forced_open, disabled: an operator's word, good until `reset`

Each change of state begins a new generation, and what a call of an earlier one comes to says nothing any more.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

from runwire.errors import Unavailable
from runwire.resilience.outcome import Outcome, classify, retry_after_of
from runwire.resilience.window import Window

__all__ = ["Breaker", "CircuitOpen", "Permit", "State", "Terms", "Transition"]

_LEAST_CHANCE: Final = 0.5  # of a pause: many who lost the same peer come back to it spread over the other half
_MOST_DOUBLINGS: Final = 32


class State(StrEnum):
    """What a breaker does with calls."""

    CLOSED = "closed"  # lets them through and counts
    OPEN = "open"  # refuses them
    HALF_OPEN = "half_open"  # lets probes through
    FORCED_OPEN = "forced_open"  # refuses them until an operator says otherwise
    DISABLED = "disabled"  # lets them through and counts nothing


class CircuitOpen(Unavailable):
    """Nobody was asked, because whom it would have been has failed too often; `retry_after_s` says when to ask."""

    code = "circuit_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """When a breaker opens, and how it closes again.

    Raises:
        ValueError: one is out of its bounds.
    """

    failure_rate: float | None = 0.5  # share of failures in the window that opens it; None: not by rate
    minimum_calls: int = 10  # in the window; with fewer no rate counts
    failures_in_row: int | None = None  # that open it, however many calls went well before; None: not by these
    window_s: float = 60.0
    slow_s: float | None = None  # a call that takes longer is slow; None: none is
    slow_first_s: float | None = None  # a stream is, whose first token takes longer
    slow_rate: float = 0.8  # share of slow calls in the window that opens it
    probes: int = 1  # at a time, while it is half-open
    successes: int = 1  # of probes, that close it
    lease_s: float = 30.0  # that one probe may keep others away; a stream's begins again at its first token
    open_s: float = 5.0  # the first time; it doubles with each probe that fails
    longest_open_s: float = 60.0
    longest_retry_after_s: float = 300.0  # for which the other side may ask to be left alone

    def __post_init__(self) -> None:
        """Check the bounds."""
        for name in ("minimum_calls", "probes", "successes"):
            _check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("window_s", "lease_s", "open_s"):
            _check(name, getattr(self, name) > 0, "over 0")
        for name in ("slow_s", "slow_first_s", "failures_in_row"):
            _check(name, getattr(self, name) is None or getattr(self, name) > 0, "over 0, or nothing")
        for rate in ("failure_rate", "slow_rate"):
            _check(rate, getattr(self, rate) is None or 0 < getattr(self, rate) <= 1, "over 0 and at most 1")
        _check("longest_open_s", self.longest_open_s >= self.open_s, "at least `open_s`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A change of state, as listeners are told."""

    name: str
    before: State
    after: State
    generation: int  # grows by one with each: with several threads they may be told out of order
    reason: str  # for an operator
    retry_after_s: float  # 0 unless it is open now


class Permit:
    """The right to make one call, which then must say what came of it. The first word counts, others are dropped.

    As a context manager it says that itself: what is raised is judged by `classify`, cancellation is neutral. A time
    limit counts as one only if its `asyncio.timeout` is within; outside it is a cancellation like any other.
    """

    __slots__ = ("_breaker", "begun_s", "generation", "is_counted", "is_settled", "is_stream")

    def __init__(self, breaker: Breaker, generation: int, begun_s: float) -> None:
        self._breaker = breaker
        self.generation = generation
        self.begun_s = begun_s
        self.is_settled = False
        self.is_stream = False
        self.is_counted = False  # by its slow beginning

    def success(self, elapsed_s: float | None = None) -> None:
        """Say that it was answered, after that many seconds; None: since the permit was given."""
        self._breaker.settle(self, elapsed_s=elapsed_s)

    def failure(self, *, retry_after_s: float | None = None) -> None:
        """Say that it was not answered, and for how long the other side asked to be left alone."""
        self._breaker.settle(self, is_failed=True, retry_after_s=retry_after_s)

    def ignore(self) -> None:
        """Say that nothing can be said: cancelled, or the caller's own mistake."""
        self._breaker.give_back(self)

    def first_token(self, elapsed_s: float | None = None) -> None:
        """Say that a stream has begun.

        A slow beginning counts at once, as a slow call or a failed probe, and the end then only if it is a failure.
        After another beginning the end decides, and however long it takes it is not slow.
        """
        self._breaker.begin_stream(self, elapsed_s=elapsed_s)

    def judge(self, error: BaseException) -> None:
        """Say that it raised this."""
        if classify(error) is Outcome.FAILURE:
            self.failure(retry_after_s=retry_after_of(error))
        else:
            self.ignore()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _at: TracebackType | None
    ) -> None:
        if error is None:
            self.success()
        else:
            self.judge(error)


class Breaker:
    """One circuit. Any thread may ask it; it never waits and never calls what it guards.

    ::

        with breaker.acquire():  # raises CircuitOpen
            async with asyncio.timeout(30):
                return await ask()

    Args:
        name: what it guards, as people know it.
        terms: when it opens and closes.
        now_s: a clock that never goes back, seconds.
        chance: gives numbers from 0 to 1.
        on_change: told of each change, after it and outside the lock; must neither raise nor wait.
    """

    def __init__(
        self,
        name: str,
        terms: Terms,
        *,
        now_s: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,  # noqa: S311 - jitter, no secret
        on_change: Callable[[Transition], None] | None = None,
    ) -> None:
        self.name = name
        self.terms = terms
        self._now_s = now_s
        self._chance = chance
        self._on_change = on_change
        self._lock = threading.Lock()
        self._state = State.CLOSED
        self._generation = 0
        self._window = Window(terms.window_s)
        self._row = 0  # failures
        self._retry_at_s = 0.0  # not before: the other side asked for it
        self._openings = 0  # without having been closed between them
        self._open_until_s = 0.0
        self._probes: dict[Permit, float] = {}  # under way, and when others need not wait for it any more
        self._successes = 0  # of probes

    @property
    def state(self) -> State:
        """Return what it does with calls; one that is open stays so until somebody asks after its time."""
        return self._state

    @property
    def generation(self) -> int:
        """Return how often it has changed."""
        return self._generation

    @property
    def counted(self) -> tuple[int, int, int]:
        """Return calls, failures and slow calls in the window."""
        with self._lock:
            window = self._window
            window.move(self._now_s())
            return window.calls, window.failures, window.slow

    @property
    def retry_after_s(self) -> float:
        """Return for how long it refuses calls, as known now; 0: it does not."""
        with self._lock:
            return self._wait_s(self._now_s())

    def acquire(self) -> Permit:
        """Return the right to make one call.

        Raises:
            CircuitOpen: not now.
        """
        # Without the lock: a permit of a state that ends meanwhile has its generation too, and counts for nothing.
        generation = self._generation
        now_s = self._now_s()
        if self._state is State.CLOSED:
            return Permit(self, generation, now_s)
        return self._acquire_probe(now_s)

    def force_open(self) -> None:
        """Refuse every call until `reset`."""
        self._order(State.FORCED_OPEN)

    def disable(self) -> None:
        """Let every call through and count nothing until `reset`."""
        self._order(State.DISABLED)

    def reset(self) -> None:
        """Begin anew: closed, with nothing counted."""
        self._order(State.CLOSED)

    # ── for permits ──────────────────────────────────────────────────────────────────────────────────────

    def settle(
        self,
        permit: Permit,
        *,
        is_failed: bool = False,
        elapsed_s: float | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Take in what came of a call."""
        now_s = self._now_s()
        slow_s = self.terms.slow_s
        if slow_s is None or permit.is_stream or is_failed:
            is_slow = False
        else:
            is_slow = (now_s - permit.begun_s if elapsed_s is None else elapsed_s) > slow_s
        with self._lock:
            if permit.is_settled:
                return
            permit.is_settled = True
            if permit.is_counted and not is_failed:
                return
            change = self._judge(permit, now_s, is_failed, is_slow, retry_after_s)
        if change is not None:
            self._tell(change)

    def begin_stream(self, permit: Permit, *, elapsed_s: float | None) -> None:
        """Take in that a stream has begun."""
        now_s = self._now_s()
        slow_s = self.terms.slow_first_s
        is_slow = slow_s is not None and (now_s - permit.begun_s if elapsed_s is None else elapsed_s) > slow_s
        with self._lock:
            if permit.is_settled or permit.is_stream:
                return
            permit.is_stream = True
            permit.is_counted = is_slow
            if permit in self._probes:
                self._probes[permit] = now_s + self.terms.lease_s
            change = self._judge(permit, now_s, False, True) if is_slow else None
        if change is not None:
            self._tell(change)

    def give_back(self, permit: Permit) -> None:
        """Take in that nothing came of a call."""
        with self._lock:
            permit.is_settled = True
            self._probes.pop(permit, None)

    # ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _acquire_probe(self, now_s: float) -> Permit:
        change: Transition | None = None
        with self._lock:
            state = self._state
            if state is State.OPEN and now_s >= self._open_until_s:
                change = self._move(State.HALF_OPEN, "its time is over", now_s)
                state = State.HALF_OPEN
            wait_s = self._wait_s(now_s)
            permit = Permit(self, self._generation, now_s)
            if state is State.HALF_OPEN and wait_s == 0:
                self._probes[permit] = now_s + self.terms.lease_s
        if change is not None:
            self._tell(change)
        if wait_s > 0:
            sentence = f"{self.name} fails too often and is left alone; try again in {math.ceil(wait_s)} s."
            raise CircuitOpen(sentence, retry_after_s=wait_s)
        return permit

    def _wait_s(self, now_s: float) -> float:
        """Return for how long calls are refused, and forget probes that took too long."""
        if self._state is State.OPEN:
            return max(0.0, self._open_until_s - now_s)
        if self._state is State.FORCED_OPEN:
            return self.terms.longest_open_s
        if self._state is not State.HALF_OPEN:
            return 0.0
        for permit in [each for each, until_s in self._probes.items() if until_s <= now_s]:
            del self._probes[permit]
        if len(self._probes) < self.terms.probes:
            return 0.0
        # An answer may come long before the lease ends, so nobody is sent away for as long as that.
        return min(min(self._probes.values()) - now_s, self.terms.open_s)

    def _judge(
        self,
        permit: Permit,
        now_s: float,
        is_failed: bool,
        is_slow: bool,
        retry_after_s: float | None = None,
    ) -> Transition | None:
        # By position, here and below: keywords are a tenth of what a call costs (measured).
        if permit.generation != self._generation:
            return None
        if is_failed and retry_after_s:
            self._retry_at_s = max(self._retry_at_s, now_s + min(retry_after_s, self.terms.longest_retry_after_s))
        if self._state is State.CLOSED:
            return self._count(now_s, is_failed, is_slow)
        if self._state is State.HALF_OPEN:
            return self._probed(permit, now_s, is_bad=is_failed or is_slow)
        return None  # disabled

    def _count(self, now_s: float, is_failed: bool, is_slow: bool) -> Transition | None:
        window = self._window
        window.add(now_s, is_failed, is_slow)
        self._row = self._row + 1 if is_failed else 0
        failures, slow = window.failures, window.slow
        if not failures and not slow:
            return None
        terms, calls = self.terms, window.calls
        if self._row and self._row == terms.failures_in_row:
            return self._open(f"{self._row} failures in a row", now_s)
        if calls < terms.minimum_calls:
            return None
        if terms.failure_rate is not None and failures >= terms.failure_rate * calls:
            return self._open(f"{failures} of {calls} calls failed", now_s)
        if slow and slow >= terms.slow_rate * calls:
            return self._open(f"{slow} of {calls} calls were slow", now_s)
        return None

    def _probed(self, permit: Permit, now_s: float, *, is_bad: bool) -> Transition | None:
        self._probes.pop(permit, None)
        if is_bad:
            return self._open("a probe failed", now_s)
        self._successes += 1
        if self._successes < self.terms.successes:
            return None
        return self._move(State.CLOSED, "probes succeeded", now_s)

    def _open(self, reason: str, now_s: float) -> Transition:
        terms = self.terms
        doubled_s = min(terms.longest_open_s, terms.open_s * 2.0 ** min(self._openings, _MOST_DOUBLINGS))
        pause_s = doubled_s * (_LEAST_CHANCE + (1 - _LEAST_CHANCE) * self._chance())
        self._openings += 1
        self._open_until_s = max(now_s + pause_s, self._retry_at_s)
        return self._move(State.OPEN, reason, now_s)

    def _order(self, state: State) -> None:
        with self._lock:
            change = self._move(state, "an operator's word", self._now_s())
        self._tell(change)

    def _move(self, after: State, reason: str, now_s: float) -> Transition:
        before, self._state = self._state, after
        self._generation += 1
        self._probes.clear()
        self._successes = 0
        self._row = 0
        self._retry_at_s = 0.0
        self._window.clear()
        if after is State.CLOSED:
            self._openings = 0
        return Transition(
            name=self.name,
            before=before,
            after=after,
            generation=self._generation,
            reason=reason,
            retry_after_s=self._wait_s(now_s),
        )

    def _tell(self, change: Transition) -> None:
        if self._on_change:
            self._on_change(change)


def _check(name: str, is_right: bool, bounds: str) -> None:
    if not is_right:
        raise ValueError(f"`{name}` of a breaker is {bounds}.")
