"""What is allowed although it is unsafe: said at the start, each hour and in the figures, lest it is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Gauge

from runwire.settings import Rule

__all__ = ["remind"]

_log = structlog.get_logger()

_HOUR_S: Final = 3_600.0


async def remind(allowed: Sequence[Rule], registry: CollectorRegistry, *, every_s: float = _HOUR_S) -> None:
    """Say now and again what is allowed, until cancelled.

    Args:
        allowed: the rules that are broken and allowed; none: nothing is said.
        registry: gets `runwire_unsafe_allowed{rule}`, 1 for each of them.
        every_s: how often.
    """
    figure = Gauge("runwire_unsafe_allowed", "1: the rule is broken and allowed.", ["rule"], registry=registry)
    for rule in allowed:
        figure.labels(rule.id).set(1)
    while allowed:
        for rule in allowed:
            _log.warning("unsafe_allowed", rule=rule.id, setting=rule.settings[0], reason=rule.sentence, fix=rule.fix)
        await asyncio.sleep(every_s)
