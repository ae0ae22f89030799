"""The HTTP routes of PROTOCOL §3 as one FastAPI app: errors, CORS and OpenAPI in one place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from runwire.errors import NotFound, ProtocolError, RunwireError
from runwire.gateway.openapi import describe
from runwire.gateway.request import problem_response
from runwire.protocol.codes import ErrorCode
from runwire.protocol.ids import new_id

__all__ = ["make_http"]

_log: Final = structlog.get_logger(__name__)


def make_http(routers: Iterable[APIRouter], *, allowed_origins: Sequence[str], version: str) -> FastAPI:
    """Make the app of these routes."""
    app = FastAPI(
        title="Runwire",
        version=version,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # its page loads scripts from another host, which the console's CSP forbids
        redoc_url=None,
    )
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(RunwireError, _refused)
    app.add_exception_handler(RequestValidationError, _misused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _failed)
    if allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(allowed_origins),
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
            expose_headers=["Retry-After"],
            max_age=600,
        )
    app.openapi = partial(describe, app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    return app


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RunwireError), "registered for this class"
    return problem_response(error)


async def _misused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for this class"
    fault: dict[str, Any] = error.errors()[0]
    field = str(fault["loc"][-1])
    return problem_response(ProtocolError(f"{field}: {fault['msg']}.", field=field))


async def _no_route(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for this class"
    if error.status_code == ErrorCode.NOT_FOUND.http_status:
        return problem_response(NotFound("There is no such route."))
    refused = problem_response(ProtocolError(str(error.detail)))
    refused.status_code = error.status_code
    if error.headers:
        refused.headers.update(error.headers)
    return refused


async def _failed(request: Request, error: Exception) -> Response:
    # The top of a request. Its text may hold somebody's data: only the id goes out, the rest into the log.
    error_id = new_id("err")
    _log.error("request_failed", error_id=error_id, method=request.method, exc_info=error)
    return problem_response(RunwireError(f"Something went wrong here ({error_id})."))
