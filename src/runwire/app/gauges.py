"""What a process holds: memory, descriptors, threads, tasks. They stay level as long as its load does."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

__all__ = ["ProcessFigures"]


class ProcessFigures(Collector):
    """The figures that say whether a process leaks, besides those of prometheus_client (memory, CPU, descriptors).

    Args:
        registry: gets them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.agent_tasks: Callable[[], int] | None = None  # of a process that runs agents
        ProcessCollector(registry=registry)
        registry.register(self)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Name nothing: tasks can only be counted on the event loop."""
        return ()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return what there is now. Called on the process's event loop."""
        yield GaugeMetricFamily("process_threads", "Threads.", value=threading.active_count())
        yield GaugeMetricFamily("process_tasks", "Tasks of the server's own loop.", value=len(asyncio.all_tasks()))
        if self.agent_tasks is not None:
            yield GaugeMetricFamily("process_agent_tasks", "Tasks of agents' code.", value=self.agent_tasks())
        # Blocks rather than objects: counting those means visiting each of them.
        blocks = sys.getallocatedblocks()
        yield GaugeMetricFamily("process_allocated_blocks", "Pieces of memory that Python has given out.", value=blocks)
