"""The breakers of a process: one for each thing that may fail by itself, never for a person. Pure."""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from runwire.resilience.breaker import Breaker, State, Terms, Transition
from runwire.resilience.retry_budget import RetryBudgets
from runwire.resilience.terms import TermsTable

__all__ = ["Breakers", "Kind", "Order", "Shown"]

_MOST: Final = 1_000
# Whose loss costs least: a closed one forgets what it counted in a minute anyhow, an operator's word is kept longest.
_KEPT: Final = (State.CLOSED, State.HALF_OPEN, State.OPEN, State.DISABLED, State.FORCED_OPEN)


class Kind(StrEnum):
    """What a breaker guards."""

    AGENT = "agent"
    MODEL = "model"  # provider and model, as "openai/gpt"
    TOOL = "tool"
    AUTH = "auth"
    BUS = "bus"
    WEBHOOK = "webhook"  # host


class Order(StrEnum):
    """What an operator may say of one."""

    RESET = "reset"  # begin anew: closed, with nothing counted
    FORCE_OPEN = "force-open"  # refuse every call until `reset`
    DISABLE = "disable"  # let every call through and count nothing until `reset`


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One breaker, for operators and metrics."""

    kind: Kind
    name: str
    state: State
    generation: int
    retry_after_s: float
    calls: int  # in the window
    failures: int
    slow: int


class Breakers:
    """The breakers by kind and name. Any thread may ask.

    Bounded: past `most` the one that was used longest ago goes, closed ones first, then half-open and open ones, and
    those that an operator has set only if there are no others. Calls that are under way go on with the one they have.
    Each process has its own, and finds out for itself: losing what processes share can so cost no safety.

    Args:
        terms: of kinds that have terms of their own.
        table: what an operator has set, over these.
        budgets: of retries of what agents ask.
        most: how many are kept.
        now_s: a clock that never goes back, seconds.
        chance: gives numbers from 0 to 1.
        on_change: told of each change of state, with its kind; must neither raise nor wait.
    """

    def __init__(
        self,
        terms: Mapping[Kind, Terms] | None = None,
        *,
        table: TermsTable | None = None,
        budgets: RetryBudgets | None = None,
        most: int = _MOST,
        now_s: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,  # noqa: S311 - jitter, no secret
        on_change: Callable[[Kind, Transition], None] | None = None,
    ) -> None:
        self._terms = dict(terms or {})
        self._table = table or TermsTable()
        self.budgets = budgets or RetryBudgets()
        self._most = most
        self._now_s = now_s
        self._chance = chance
        self._on_change = on_change
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Kind, str], Breaker] = OrderedDict()  # used longest ago first

    def of(self, kind: Kind, name: str, *, own: Terms | None = None) -> Breaker:
        """Return the breaker of this, a new one if there is none; `own`: the terms that such a one comes with."""
        key = (kind, name)
        with self._lock:
            breaker = self._kept.get(key)
            if breaker is None:
                breaker = self._kept[key] = self._made(kind, name, own)
                if len(self._kept) > self._most:
                    del self._kept[self._least(key)]
            self._kept.move_to_end(key)
        return breaker

    def shown(self) -> list[Shown]:
        """Return all, by kind and name."""
        with self._lock:
            kept = sorted(self._kept.items())
        return [_shown(kind, breaker) for (kind, _), breaker in kept]

    def set_for(self, kind: Kind, name: str) -> Breaker | None:
        """Return the breaker of what has one only if an operator has set terms for it, or while an order stands."""
        if not self._table.names(kind, name):
            with self._lock:
                kept = self._kept.get((kind, name))
                if kept is None or kept.state not in (State.DISABLED, State.FORCED_OPEN):
                    return None
        return self.of(kind, name)

    def one(self, kind: Kind, name: str) -> Shown:
        """Return how one is."""
        return _shown(kind, self.of(kind, name))

    def obey(self, order: Order, kind: Kind, name: str) -> None:
        """Do what an operator says, also if no call was made yet."""
        if order is Order.FORCE_OPEN:
            self.force_open(kind, name)
        elif order is Order.DISABLE:
            self.disable(kind, name)
        else:
            self.reset(kind, name)

    def force_open(self, kind: Kind, name: str) -> None:
        """Refuse every call to this until `reset`, also if none was made yet."""
        self.of(kind, name).force_open()

    def disable(self, kind: Kind, name: str) -> None:
        """Let every call to this through and count nothing until `reset`."""
        self.of(kind, name).disable()

    def reset(self, kind: Kind, name: str) -> None:
        """Begin anew with this: closed, with nothing counted."""
        self.of(kind, name).reset()

    def _made(self, kind: Kind, name: str, own: Terms | None) -> Breaker:
        tell = self._on_change
        return Breaker(
            name,
            self._table.of(kind, name, own=own or self._terms.get(kind)),
            now_s=self._now_s,
            chance=self._chance,
            on_change=(lambda change: tell(kind, change)) if tell else None,
        )

    def _least(self, new: tuple[Kind, str]) -> tuple[Kind, str]:
        """Return which one goes: `min` takes the first of equals, which was used longest ago."""
        return min((key for key in self._kept if key != new), key=lambda key: _KEPT.index(self._kept[key].state))


def _shown(kind: Kind, breaker: Breaker) -> Shown:
    calls, failures, slow = breaker.counted
    return Shown(
        kind=kind,
        name=breaker.name,
        state=breaker.state,
        generation=breaker.generation,
        retry_after_s=breaker.retry_after_s,
        calls=calls,
        failures=failures,
        slow=slow,
    )
