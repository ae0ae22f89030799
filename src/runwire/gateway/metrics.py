"""Figures for operators. Labels are bounded: never a user, thread or run."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

__all__ = ["Metrics"]

_REVOCATION_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # promised: 1 s, and 30 s without the log


class Sent(Collector):
    """What went out over sockets. Counted by one event loop for each message, hence in bare numbers."""

    def __init__(self) -> None:
        self.messages = 0
        self.size_bytes = 0

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Return both figures."""
        yield CounterMetricFamily("gateway_sent_bytes", "Bytes sent over sockets.", value=self.size_bytes)
        yield CounterMetricFamily("gateway_sent_messages", "Messages sent over sockets.", value=self.messages)


class Metrics:
    """The gateway's figures; one registry per process, so that two in a test do not meet.

    Args:
        registry: has those of the process's other roles too; None: one of its own.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.listeners = Gauge("gateway_listeners", "Sockets and streams.", registry=self.registry)
        self.threads = Gauge("gateway_tail_threads", "Threads with a listener.", registry=self.registry)
        self.loop_lag = Gauge(
            "gateway_loop_lag_seconds", "How much later than asked for the event loop wakes up.", registry=self.registry
        )
        self.is_full = Gauge("gateway_full", "1 while nobody new is let in.", registry=self.registry)
        self.queued = Gauge(
            "gateway_queued_runs",
            "Runs that wait for a worker, one over the limit at most; per database.",
            ["database"],
            registry=self.registry,
        )
        self.queue_age = Gauge(
            "gateway_queue_age_seconds",
            "How long the oldest run that waits for a worker has waited.",
            ["database"],
            registry=self.registry,
        )
        self.refused = Counter(
            "gateway_refused_sends",
            "Messages refused, for want of room or over a limit of the person's.",
            ["reason"],
            registry=self.registry,
        )
        self.limits_alone = Gauge(
            "gateway_limits_alone",
            "1 while personal limits are counted by each process alone, for Redis does not answer.",
            registry=self.registry,
        )
        self.bus_age = Gauge(
            "gateway_bus_beacon_age_seconds",
            "Since the bus last carried a beacon of this process.",
            registry=self.registry,
        )
        self.closes = Counter("gateway_closes", "Sockets ended by the server.", ["code"], registry=self.registry)
        self.revocations = Histogram(
            "runwire_revocation_seconds",
            "From the change that withdrew somebody's access to the end of a socket or stream of theirs.",
            buckets=_REVOCATION_S,
            registry=self.registry,
        )
        self.commands = Counter(
            "gateway_commands", "Commands over sockets, by outcome.", ["op", "code"], registry=self.registry
        )
        self.sent = Sent()
        self.registry.register(self.sent)

    def text(self) -> bytes:
        """Return everything in the exposition format."""
        return generate_latest(self.registry)
