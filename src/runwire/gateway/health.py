"""Health and figures, for machines that look after machines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter, Response

from runwire.errors import RunwireError
from runwire.gateway.live import Live
from runwire.gateway.metrics import Metrics
from runwire.gateway.request import answer
from runwire.gateway.tail import Tail
from runwire.storage.base import Storage

__all__ = ["HealthRoutes"]

_PING_S: Final = 2.0  # for the database to answer


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRoutes:
    """Started, live, ready, and the figures."""

    storage: Storage
    tail: Tail
    live: Live
    metrics: Metrics
    is_running: Callable[[], bool]  # the gateway's loops run
    unready: Callable[[], str | None]  # a reason of another room not to be ready, such as a stale view of users

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(tags=["health"], default_response_class=Response)
        router.add_api_route("/health/started", self.started, methods=["GET"])
        router.add_api_route("/health/live", self.is_live, methods=["GET"])
        router.add_api_route("/health/ready", self.ready, methods=["GET"])
        router.add_api_route("/metrics", self.figures, methods=["GET"])
        return router

    async def started(self) -> Response:
        """Answer 200 once the server has started."""
        return _state("starting" if not self.is_running() else None)

    async def is_live(self) -> Response:
        """Answer 200 while the event loop turns. Never asks a dependency: a restart would not help it."""
        return _state(None)

    async def ready(self) -> Response:
        """Answer 200 if new clients are welcome, else 503 with the reason."""
        if self.live.is_draining:
            return _state("draining")
        if not self.is_running():
            return _state("starting")
        try:
            async with asyncio.timeout(_PING_S):
                await self.storage.ping()
        except (RunwireError, TimeoutError):
            return _state("database_unavailable")
        return _state(self.unready())

    async def figures(self) -> Response:
        """Return the figures in Prometheus' format."""
        self.metrics.listeners.set(len(self.live))
        self.metrics.threads.set(self.tail.threads)
        self.metrics.bus_age.set(self.tail.bus_age_s())
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _state(reason: str | None) -> Response:
    if reason is None:
        return answer({"status": "ok"})
    return answer({"status": "unready", "reason": reason}, status=503)
