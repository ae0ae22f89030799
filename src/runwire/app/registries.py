"""The figures of a process with several databases: each of a worker's once for every database, by a label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from runwire.storage.placed import Place, Placed

__all__ = ["registry_of"]

_LABEL: Final = "database"


def registry_of(places: Placed[Place], registry: CollectorRegistry) -> dict[int, CollectorRegistry]:
    """Return the registry for what there is once for each database, by its number.

    Of one database it is the process's own, so that its figures have no label that says nothing.
    """
    if len(places) == 1:
        return {places.first.number: registry}
    each = {place.number: CollectorRegistry() for place in places}
    registry.register(_Labelled(each))
    return each


class _Labelled(Collector):
    """The figures of several registries under one name each, told apart by a label."""

    def __init__(self, each: dict[int, CollectorRegistry]) -> None:
        self._each = each

    def describe(self) -> Iterable[Metric]:
        """Name nothing: what is there is only made after this is registered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return each figure once, with the samples of all databases."""
        merged: dict[str, Metric] = {}
        for number, registry in self._each.items():
            for metric in registry.collect():
                one = merged.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    one.samples.append(sample._replace(labels={**sample.labels, _LABEL: str(number)}))
        return merged.values()
