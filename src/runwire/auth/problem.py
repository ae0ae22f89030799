"""Errors of identity over HTTP: `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from fastapi import Response

from runwire.errors import RunwireError
from runwire.protocol.codes import ErrorCode

__all__ = ["problem"]


def problem(fault: RunwireError, *, status: int | None = None, **members: Any) -> Response:
    """Answer with an error; `members` are added to the problem, e.g. OAuth's `error`."""
    code = ErrorCode(fault.code)
    shown = {
        "type": "about:blank",
        "title": code.value.replace("_", " "),
        "status": status or code.http_status,
        "detail": fault.message,
        "code": code.value,
        "field": fault.field,
        "retry_after_s": fault.retry_after_s,
        **members,
    }
    headers = {"cache-control": "no-store"}
    if fault.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(fault.retry_after_s))
    if shown["status"] == 401:
        headers["www-authenticate"] = "Bearer"  # RFC 9110 §11.6.1
    return Response(msgspec.json.encode(shown), shown["status"], media_type="application/problem+json", headers=headers)
