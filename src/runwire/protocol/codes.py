"""Error codes, close codes and failure codes of PROTOCOL §2–§4. The only place that spells them."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final

__all__ = ["RETRYABLE", "CloseCode", "ErrorCode", "RunFailure"]


class ErrorCode(StrEnum):
    """Why a command was refused (`reply.error.code`, problem+json `code`)."""

    BAD_REQUEST = "bad_request"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    RUN_ACTIVE = "run_active"
    RATE_LIMITED = "rate_limited"
    TOO_LARGE = "too_large"
    UNAVAILABLE = "unavailable"
    CIRCUIT_OPEN = "circuit_open"
    DEADLINE = "deadline"
    UNSUPPORTED = "unsupported"
    INTERNAL = "internal"

    @property
    def http_status(self) -> int:
        """Return the HTTP status of this code (RFC 9110 §15)."""
        return _HTTP_STATUS[self]


_HTTP_STATUS = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.CONFLICT: 409,
    ErrorCode.RUN_ACTIVE: 409,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.CIRCUIT_OPEN: 503,
    ErrorCode.DEADLINE: 504,
    ErrorCode.UNSUPPORTED: 501,
    ErrorCode.INTERNAL: 500,
}


class CloseCode(IntEnum):
    """Why a socket ends. Centrifuge's ranges: 4000–4499 reconnect, 4500–4999 stop."""

    NORMAL = 1000
    GOING_AWAY = 1001
    TOO_BIG = 1009
    INTERNAL = 4000
    DRAINING = 4001
    NO_HELLO = 4002
    TOKEN_EXPIRED = 4005
    TOO_SLOW = 4008
    NO_LIFE = 4012
    UNAVAILABLE = 4013
    RATE = 4029
    BAD_FRAME = 4500
    UNAUTHENTICATED = 4501
    FORBIDDEN = 4503
    TOO_MANY_CONNECTIONS = 4504
    VERSION = 4506
    REVOKED = 4507

    @property
    def may_reconnect(self) -> bool:
        """Return whether a client should come back with its position (PROTOCOL §4)."""
        return self in (CloseCode.NORMAL, CloseCode.GOING_AWAY) or 4000 <= self < 4500


class RunFailure(StrEnum):
    """Why a run ended as `agent_failed` (`agent_failed.data.code`)."""

    AGENT_ERROR = "agent_error"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    NO_RESULT = "no_result"
    CIRCUIT_OPEN = "circuit_open"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    WORKER_LOST = "worker_lost"
    NONDETERMINISTIC_AGENT = "nondeterministic_agent"
    PARALLEL_WITHOUT_GATHER = "parallel_without_gather"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    LOOP_BLOCKED = "loop_blocked"
    QUOTA_EXCEEDED = "quota_exceeded"
    AGENT_UNAVAILABLE = "agent_unavailable"
    INTERNAL = "internal"


RETRYABLE: Final = frozenset(
    {
        RunFailure.DEADLINE_EXCEEDED,
        RunFailure.CIRCUIT_OPEN,
        RunFailure.PROVIDER_UNAVAILABLE,
        RunFailure.WORKER_LOST,
        RunFailure.QUOTA_EXCEEDED,
        RunFailure.AGENT_UNAVAILABLE,
        RunFailure.INTERNAL,
    }
)
"""A second try of the same message may well succeed; the others need another agent or another message."""
