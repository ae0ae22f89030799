"""Which pages of other origins may read what the gateway serves over HTTP (CORS, WHATWG Fetch)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fastapi import Response
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from runwire.errors import ProtocolError
from runwire.gateway.request import problem_response

__all__ = ["CrossOrigin"]

_METHODS: Final = ("GET", "POST", "PATCH", "DELETE")
_HEADERS: Final = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID")
_MAX_AGE_S: Final = 600


class CrossOrigin(CORSMiddleware):
    """Let pages of listed origins use an app, without cookies; a refused preflight says what was wrong.

    Args:
        app: all of it, so that a page that may call one route may also sign in.
        allowed_origins: exact `scheme://host[:port]`.
    """

    def __init__(self, app: ASGIApp, *, allowed_origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=tuple(allowed_origins),
            allow_methods=_METHODS,
            allow_headers=_HEADERS,
            expose_headers=("Retry-After",),
            max_age=_MAX_AGE_S,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer the question that a browser asks before it sends the request itself."""
        answer = super().preflight_response(request_headers)
        if answer.status_code == 200:
            return answer
        if not self.is_allowed_origin(request_headers["origin"]):
            fault, field = "This Origin may not call this server; see `allowed_origins`.", "Origin"
        elif request_headers["access-control-request-method"] not in _METHODS:
            fault, field = f"The methods are {', '.join(_METHODS)}.", "Access-Control-Request-Method"
        else:
            fault, field = f"The headers are {', '.join(_HEADERS)}.", "Access-Control-Request-Headers"
        refused = problem_response(ProtocolError(fault, field=field))
        for name, value in answer.headers.items():
            refused.headers.setdefault(name, value)
        return refused
