"""Figures for operators. Labels are bounded: never a user, thread or run."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

__all__ = ["Metrics"]


class Metrics:
    """The gateway's figures; one registry per gateway, so that two in a process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.listeners = Gauge("gateway_listeners", "Sockets and streams.", registry=self.registry)
        self.threads = Gauge("gateway_tail_threads", "Threads with a listener.", registry=self.registry)
        self.bus_age = Gauge("gateway_bus_beacon_age_seconds", "Age of the last beacon heard.", registry=self.registry)
        self.closes = Counter("gateway_closes", "Sockets ended by the server.", ["code"], registry=self.registry)
        self.commands = Counter("gateway_commands", "Commands by outcome.", ["op", "code"], registry=self.registry)
        self.sent = Counter("gateway_sent_bytes", "Bytes sent over sockets.", registry=self.registry)
        self.messages = Counter("gateway_sent_messages", "Messages sent over sockets.", registry=self.registry)

    def text(self) -> bytes:
        """Return everything in the exposition format."""
        return generate_latest(self.registry)
