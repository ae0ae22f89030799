"""What the auth service says of itself to backends, so that a wrong pair is seen before there is traffic."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from fastapi import APIRouter, Request, Response

from runwire.auth.contract import About
from runwire.auth.service.requests import bearer
from runwire.auth.service.settings import AuthSettings

__all__ = ["about_routes"]


def about_routes(
    settings: AuthSettings, *, check_service: Callable[[str], None], wall_s: Callable[[], float]
) -> APIRouter:
    """Make the routes.

    Args:
        settings: who it is.
        check_service: raises Unauthenticated for a wrong service secret.
        wall_s: its clock.
    """
    router = APIRouter()

    @router.get("/internal/about", response_class=Response)
    async def about(request: Request) -> Response:
        """Say version, issuer, audience and time to a backend that knows the service secret.

        Below a path that no gateway leads to.
        """
        check_service(bearer(request))
        said = About(
            version=settings.version,
            issuer=settings.issuer,
            audience=settings.audience,
            now_ms=int(wall_s() * 1000),
        )
        return Response(msgspec.json.encode(said), media_type="application/json", headers={"cache-control": "no-store"})

    return router
