"""Health and figures, for machines that look after machines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter, Response

from runwire.errors import RunwireError
from runwire.gateway.request import answer
from runwire.storage.base import Storage

__all__ = ["HealthRoutes"]

_PING_S: Final = 2.0  # for the database to answer


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRoutes:
    """Started, live, ready, and the figures."""

    storages: Sequence[Storage]  # the databases, in their order
    is_running: Callable[[], bool]  # the loops of this process run
    is_draining: Callable[[], bool]  # it sends what it can elsewhere
    unready: Callable[[], str | None]  # a reason not to be ready, such as a stale view of users
    figures: Callable[[], bytes]  # in Prometheus' format

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(tags=["health"], default_response_class=Response)
        router.add_api_route("/health/started", self.started, methods=["GET"])
        router.add_api_route("/health/live", self.is_live, methods=["GET"])
        router.add_api_route("/health/ready", self.ready, methods=["GET"])
        router.add_api_route("/metrics", self.show_figures, methods=["GET"])
        return router

    async def started(self) -> Response:
        """Answer 200 once the server has started."""
        return _state("starting" if not self.is_running() else None)

    async def is_live(self) -> Response:
        """Answer 200 while the event loop turns. Never asks a dependency: a restart would not help it."""
        return _state(None)

    async def ready(self) -> Response:
        """Answer 200 if new clients are welcome, else 503 with the reason.

        Of several databases one that answers is enough: users of the others are told `unavailable` one by one, and
        sending everybody away would make an outage of some people one of all. The answer names those that do not.
        """
        if self.is_draining():
            return _state("draining")
        if not self.is_running():
            return _state("starting")
        async with asyncio.TaskGroup() as asking:
            pings = [asking.create_task(_answers(storage)) for storage in self.storages]
        away = [number for number, ping in enumerate(pings, 1) if not ping.result()]
        if len(away) == len(pings):
            return _state("database_unavailable")
        return _state(self.unready(), away=away)

    async def show_figures(self) -> Response:
        """Return the figures in Prometheus' format."""
        return Response(self.figures(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _answers(storage: Storage) -> bool:
    try:
        async with asyncio.timeout(_PING_S):
            await storage.ping()
    except (RunwireError, TimeoutError):
        return False
    return True


def _state(reason: str | None, *, away: Sequence[int] = ()) -> Response:
    unavailable = {"unavailable_databases": away} if away else {}
    if reason is None:
        return answer({"status": "ok", **unavailable})
    return answer({"status": "unready", "reason": reason, **unavailable}, status=503)
