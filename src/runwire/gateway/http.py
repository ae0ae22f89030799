"""The HTTP routes of PROTOCOL §3 as one FastAPI app: errors and OpenAPI in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from runwire.errors import NotFound, ProtocolError, RunwireError
from runwire.gateway.openapi import describe
from runwire.gateway.request import method_refused, problem_response
from runwire.protocol.codes import ErrorCode
from runwire.protocol.ids import new_id

__all__ = ["make_http"]

_log: Final = structlog.get_logger(__name__)
_METHOD_NOT_ALLOWED: Final = 405


def make_http(
    routers: Sequence[APIRouter], *, version: str, described_too: Callable[[], Mapping[str, Any]] | None = None
) -> FastAPI:
    """Make the app of these routes; its OpenAPI document says what `described_too` does, too."""
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
    app.add_exception_handler(HTTPException, partial(_no_route, [route for each in routers for route in each.routes]))
    app.add_exception_handler(Exception, _failed)
    app.openapi = partial(describe, app, described_too)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    return app


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RunwireError), "registered for this class"
    return problem_response(error)


async def _misused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for this class"
    fault: dict[str, Any] = error.errors()[0]
    field = str(fault["loc"][-1])
    return problem_response(ProtocolError(f"{field}: {fault['msg']}.", field=field))


async def _no_route(routes: Sequence[BaseRoute], request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for this class"
    if error.status_code == ErrorCode.NOT_FOUND.http_status:
        return problem_response(NotFound("There is no such route."))
    # A path with several methods is several routes, and the error knows only the first of them.
    here = [each for each in routes if isinstance(each, APIRoute) and each.matches(request.scope)[0] is not Match.NONE]
    if error.status_code == _METHOD_NOT_ALLOWED and here:
        return method_refused({method for route in here for method in route.methods or ()})
    refused = problem_response(ProtocolError(str(error.detail)), status=error.status_code)
    if error.headers:
        refused.headers.update(error.headers)
    return refused


async def _failed(request: Request, error: Exception) -> Response:
    # The top of a request. Its text may hold somebody's data: only the id goes out, the rest into the log.
    error_id = new_id("err")
    _log.error("request_failed", error_id=error_id, method=request.method, exc_info=error)
    return problem_response(RunwireError(f"Something went wrong here ({error_id})."))
