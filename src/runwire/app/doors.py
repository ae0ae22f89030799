"""What a process without sockets answers on its port: health and figures, and the auth service if it is one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import runwire
from runwire.errors import NotFound
from runwire.gateway.deadline import Deadline
from runwire.gateway.health import HealthRoutes
from runwire.gateway.http import make_http
from runwire.gateway.request import problem_response

__all__ = ["Asgi", "Doors"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

_ANSWER_S: Final = 20.0  # as at the gateway
_AUTH: Final = ("/auth/", "/.well-known/", "/internal/")
_HEALTH: Final = ("/health/", "/metrics")


class Doors:
    """An ASGI app.

    Args:
        health: of this process.
        has_management_port: health and figures are served there, and not here.
        auth_app: the auth service; None: it is elsewhere, and nothing here leads to it.
    """

    def __init__(self, health: HealthRoutes, auth_app: Asgi | None, *, has_management_port: bool = False) -> None:
        shown = [] if has_management_port else [health.router()]
        self._health: Asgi = make_http(shown, version=runwire.__version__)
        self._auth: Asgi | None = Deadline(auth_app, answer_s=_ANSWER_S) if auth_app else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            return
        app: Asgi | None = None
        if scope["type"] == "http":
            path: str = scope["path"]
            app = self._health if path.startswith(_HEALTH) else self._auth if path.startswith(_AUTH) else None
        if app is None:
            # A socket too: its upgrade is answered, not accepted.
            await _refuse(scope, receive, send)
        else:
            await app(scope, receive, send)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    error = NotFound("There is nothing here; people come to a gateway.")
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
    else:
        await problem_response(error)(scope, receive, send)
