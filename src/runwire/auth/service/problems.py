"""Errors of the auth service as problems, and the bounded request body."""

from __future__ import annotations

from typing import Final

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runwire.auth.problem import problem
from runwire.errors import ProtocolError, RunwireError
from runwire.protocol.codes import ErrorCode
from runwire.protocol.ids import new_id

__all__ = ["MAX_BODY_BYTES", "add_problems", "body_of"]

MAX_BODY_BYTES: Final = 16_384

_log = structlog.get_logger("runwire.auth")
_CODE_OF_STATUS: Final = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.BAD_REQUEST}


async def body_of(request: Request) -> bytes:
    """Read a request's body, at most 16 KiB. Raises ProtocolError `too_large`."""
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                raise ProtocolError(f"The body is over {MAX_BODY_BYTES} bytes.", code=ErrorCode.TOO_LARGE)
    except ClientDisconnect:
        raise ProtocolError("The body did not come to its end.") from None
    return body


def add_problems(app: FastAPI) -> None:
    """Make every error of an app a problem; nothing of an unexpected one is shown but its id."""
    app.add_exception_handler(RunwireError, _ours)
    app.add_exception_handler(RequestValidationError, _misused)
    app.add_exception_handler(HTTPException, _http)
    app.add_middleware(_Contained)


async def _ours(_: Request, error: Exception) -> Response:
    assert isinstance(error, RunwireError)
    return problem(error)


async def _misused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]  # it names the parameter; its value, which pydantic gives too, is not quoted back
    field = str(fault["loc"][-1])
    return problem(ProtocolError(f"{field}: {fault['msg']}.", field=field))


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODE_OF_STATUS.get(error.status_code, ErrorCode.BAD_REQUEST)
    answer = problem(ProtocolError(str(error.detail), code=code), status=error.status_code)
    answer.headers.update(error.headers or {})
    return answer


class _Contained:
    """Answer an unexpected error as a problem: this is the top of a request.

    Starlette's own handler would raise it once more, and the server would log its text, which may quote
    what a person sent. Here only its type is logged.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_started = False

        async def sending(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            error_id = new_id("err")
            _log.error("auth_request_failed", error_id=error_id, error=type(error).__name__)
            if not is_started:
                answer = problem(RunwireError("The auth service failed; try again."), error_id=error_id)
                await answer(scope, receive, send)
