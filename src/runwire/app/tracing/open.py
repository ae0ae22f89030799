"""Whether there are traces, and what there is if not. Imports OpenTelemetry only when they are wanted."""

from __future__ import annotations

import asyncio
from typing import Protocol

from prometheus_client import CollectorRegistry

from runwire.agents import tracing as agents
from runwire.gateway import tracing as gateway
from runwire.settings import Settings

__all__ = ["OpenTracing", "missing_extra", "open_tracing"]

_NO_EXTRA = "otel_endpoint: traces need other packages: pip install 'runwire[otel]'."


class OpenTracing(Protocol):
    """What a process traces with."""

    @property
    def gateway(self) -> gateway.Tracing:
        """Return what its gateway tells."""
        ...

    @property
    def worker(self) -> agents.Tracing:
        """Return what its workers tell."""
        ...

    async def run(self) -> None:
        """Do nothing until cancelled: a thread of its own exports."""
        ...

    async def close(self) -> None:
        """Export what is left, within a deadline."""
        ...


class _NoTracing:
    gateway = gateway.UNTRACED
    worker = agents.UNTRACED

    async def run(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None: ...


def missing_extra(settings: Settings) -> list[str]:
    """Say that OpenTelemetry is wanted and not installed."""
    if settings.otel_endpoint is None:
        return []
    try:
        import runwire.app.tracing.export  # noqa: F401 - only whether it can be
    except ModuleNotFoundError:
        return [_NO_EXTRA]
    return []


def open_tracing(settings: Settings, registry: CollectorRegistry) -> OpenTracing:
    """Return what the process traces with; without an endpoint, nothing.

    Args:
        settings: where to, how much of it, and whether with content.
        registry: gets the figures of the export.
    """
    if settings.otel_endpoint is None:
        return _NoTracing()
    from runwire.app.tracing.adapter import OtelTracing
    from runwire.app.tracing.export import open_provider

    return OtelTracing(open_provider(settings, registry), with_content=settings.otel_content)
