"""Errors over HTTP: `application/problem+json` (RFC 9457) with PROTOCOL's code, field and retry_after_s."""

from __future__ import annotations

from typing import Any

from runwire.errors import RunwireError
from runwire.protocol.codes import ErrorCode

__all__ = ["problem"]


def problem(error: RunwireError, *, status: int | None = None) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of an error; `status` where HTTP has a finer one than the code's own."""
    try:
        status = status or ErrorCode(error.code).http_status
    except ValueError:  # a code of one run, which no request has
        status = ErrorCode.INTERNAL.http_status
    body = {
        "type": "about:blank",
        "title": error.code.replace("_", " "),
        "status": status,
        "detail": error.message,
        "code": error.code,
        "field": error.field,
        "retry_after_s": error.retry_after_s,
    }
    return status, body
