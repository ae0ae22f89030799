"""The breakers of a process: with the terms that are set, each change in the log and in the figures."""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from runwire.resilience.breaker import Transition
from runwire.resilience.breakers import Breakers, Kind
from runwire.resilience.retry_budget import RetryBudgets
from runwire.settings import Settings

__all__ = ["open_breakers"]

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
        failures = GaugeMetricFamily("resilience_breaker_failures", "Of these, failures.", labels=labels)
        slow = GaugeMetricFamily("resilience_breaker_slow", "Of these, slow ones.", labels=labels)
        for one in self._breakers.shown():
            state.add_metric((one.kind, one.name, one.state), 1)
            calls.add_metric((one.kind, one.name), one.calls)
            failures.add_metric((one.kind, one.name), one.failures)
            slow.add_metric((one.kind, one.name), one.slow)
        return (state, calls, failures, slow)
