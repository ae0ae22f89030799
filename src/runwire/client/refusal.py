"""From what a server refuses with to the error that a caller handles."""

from __future__ import annotations

from typing import Final

from runwire.errors import Conflict, Forbidden, NotFound, ProtocolError, RunwireError, Unauthenticated, Unavailable
from runwire.protocol.codes import CloseCode, ErrorCode
from runwire.protocol.frames import ErrorBody

__all__ = ["may_reconnect", "refusal", "stopped"]

_BY_CODE: Final[dict[str, type[RunwireError]]] = {
    ErrorCode.UNAUTHENTICATED: Unauthenticated,
    ErrorCode.FORBIDDEN: Forbidden,
    ErrorCode.NOT_FOUND: NotFound,
    ErrorCode.CONFLICT: Conflict,
    ErrorCode.RUN_ACTIVE: Conflict,
    ErrorCode.RATE_LIMITED: Unavailable,
    ErrorCode.UNAVAILABLE: Unavailable,
    ErrorCode.CIRCUIT_OPEN: Unavailable,
    ErrorCode.DEADLINE: Unavailable,
}

_BY_CLOSE: Final[dict[int, tuple[type[RunwireError], str]]] = {
    CloseCode.BAD_FRAME: (ProtocolError, "The server could not read what was sent"),
    CloseCode.UNAUTHENTICATED: (Unauthenticated, "The server does not know this token; sign in again"),
    CloseCode.FORBIDDEN: (Forbidden, "This user may not connect"),
    CloseCode.TOO_MANY_CONNECTIONS: (Unavailable, "This user has too many connections; close one"),
    CloseCode.VERSION: (ProtocolError, "The server does not speak protocol 1; update Runwire"),
    CloseCode.REVOKED: (Unauthenticated, "The access was withdrawn; sign in again"),
}


def refusal(body: ErrorBody) -> RunwireError:
    """Return the error for an `error` of a reply or a problem+json; of an unknown code, `ProtocolError`."""
    kind = _BY_CODE.get(body.code, ProtocolError)
    return kind(body.message, code=body.code, field=body.field, retry_after_s=body.retry_after_s)


def may_reconnect(code: int) -> bool:
    """Return whether to come back after a close code (PROTOCOL §4); what a proxy or a crash leaves means yes."""
    # RFC 6455 §7.4.1: our frame was at fault, so it would be again.
    return code < 4500 and code not in (1002, 1003, 1007, 1008, 1009, 1010)


def stopped(code: int, reason: str) -> RunwireError:
    """Return the error that ends a client after a close code that means stop."""
    kind, sentence = _BY_CLOSE.get(code, (ProtocolError, f"The server ended the connection with {code}"))
    return kind(f"{sentence}{f': {reason}' if reason else ''}.")
