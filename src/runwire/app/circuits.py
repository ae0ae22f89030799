"""The breakers of a process: with the terms that are set, each change in the log and in the figures.

What an operator says of one is a row of the audit and nothing else, so that it is known who said it, no process misses
it whatever becomes of the bus, and one that starts later finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from runwire.errors import Unavailable
from runwire.resilience.breaker import Transition
from runwire.resilience.breakers import Breakers, Kind, Order
from runwire.resilience.retry_budget import RetryBudgets
from runwire.settings import Settings
from runwire.storage.base import AuditEntry, AuthStore, Bus, BusMessage, Wake

__all__ = ["Circuits", "open_breakers"]

_POLL_S: Final = 1.0  # a wake-up may be lost
_READ_S: Final = 5.0
_ACTION: Final = "breaker."

_log = structlog.get_logger(__name__)


def open_breakers(settings: Settings, registry: CollectorRegistry) -> Breakers:
    """Return the breakers of a process; its figures name at most as many as it keeps, never a person or a run."""
    changes = Counter(
        "resilience_breaker_changes",
        "Changes of circuit breakers, by the state after.",
        ("kind", "to"),
        registry=registry,
    )

    def tell(kind: Kind, change: Transition) -> None:
        changes.labels(kind, change.after).inc()
        _log.warning(
            "breaker_changed",
            kind=kind,
            name=change.name,
            before=change.before,
            after=change.after,
            reason=change.reason,
            retry_after_s=round(change.retry_after_s, 1),
        )

    budgets = RetryBudgets(settings.retry_budget_ratio)
    breakers = Breakers(table=settings.breakers, budgets=budgets, on_change=tell)
    registry.register(_Figures(breakers))
    return breakers


class Circuits:
    """The breakers of a process, and the orders that operators give to those of all processes. Event loop.

    Args:
        breakers: of this process.
        store: has the audit of all.
        bus: wakes the others.
    """

    def __init__(self, breakers: Breakers, *, store: AuthStore, bus: Bus) -> None:
        self.breakers = breakers
        self._store = store
        self._bus = bus
        self._cursor: int | None = None  # None: nothing was read yet
        self._wake = asyncio.Event()
        self._reading = asyncio.Lock()

    async def run(self) -> None:
        """Follow the orders until cancelled; one that is given elsewhere is obeyed here within about a second."""
        stop = self._bus.listen(self._hear)
        try:
            while True:
                self._wake.clear()  # before the read: a wake-up during it must lead to another one
                with contextlib.suppress(Unavailable, TimeoutError):
                    await self._read()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_S):
                        await self._wake.wait()
        finally:
            stop()

    async def give(self, order: Order, kind: Kind, name: str, *, by: AuditEntry) -> None:
        """Give an order to all processes; this one has obeyed it when this returns, and the others soon.

        Args:
            order: what is to be done.
            kind: of the breaker.
            name: of the breaker, also one that nothing has been asked of yet.
            by: who says so, and from where; its action and subject are made here.

        Raises:
            Unavailable: it may be given, or not; give it again.
        """
        entry = AuditEntry(
            actor=by.actor,
            actor_kind=by.actor_kind,
            action=f"{_ACTION}{order}",
            subject=f"{kind}/{name}",
            address=by.address,
        )
        await self._store.record(entry)
        self._bus.publish(Wake(topic="auth"))
        await self._read()

    async def _read(self) -> None:
        """Obey every order after the cursor."""
        async with self._reading, asyncio.timeout(_READ_S):
            is_first = self._cursor is None
            cursor = self._cursor or 0
            last: dict[str, Order] = {}
            while True:
                page = await self._store.breaker_orders(cursor)
                if page.head < cursor:  # the database was restored: what is said there now stands
                    cursor, is_first, last = 0, False, {}
                    continue
                for row in page.rows:
                    cursor = row.seq
                    if row.entry.subject:
                        last[row.entry.subject] = Order(row.entry.action.removeprefix(_ACTION))
                if not page.rows:
                    break
            self._cursor = page.head
            for subject, order in last.items():
                kind, _, name = subject.partition("/")
                # Of those that a new process finds, "reset" says nothing; other kinds are of another release.
                if kind in set(Kind) and not (is_first and order is Order.RESET):
                    self.breakers.obey(order, Kind(kind), name)

    def _hear(self, message: BusMessage) -> None:
        if isinstance(message, Wake) and message.topic == "auth":
            self._wake.set()


class _Figures(Collector):
    """State and counts of each breaker that there is."""

    def __init__(self, breakers: Breakers) -> None:
        self._breakers = breakers

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Name nothing: which there are shows later."""
        return ()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return what there is now."""
        labels = ("kind", "name")
        state = GaugeMetricFamily(
            "resilience_breaker_state", "1 for the state that a circuit breaker is in.", labels=(*labels, "state")
        )
        calls = GaugeMetricFamily("resilience_breaker_calls", "Calls in the breaker's window.", labels=labels)
        failures = GaugeMetricFamily(
            "resilience_breaker_failures", "Failures among the calls in the breaker's window.", labels=labels
        )
        slow = GaugeMetricFamily(
            "resilience_breaker_slow", "Slow calls among those in the breaker's window.", labels=labels
        )
        for one in self._breakers.shown():
            state.add_metric((one.kind, one.name, one.state), 1)
            calls.add_metric((one.kind, one.name), one.calls)
            failures.add_metric((one.kind, one.name), one.failures)
            slow.add_metric((one.kind, one.name), one.slow)
        return (state, calls, failures, slow)
