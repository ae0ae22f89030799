"""What an error says of the other side, asked before anything is counted. Pure."""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final

from runwire.errors import RunwireError, Unavailable

__all__ = ["Outcome", "classify", "is_outage", "retry_after_of"]


class Outcome(StrEnum):
    """What a call that raised says of whom it asked."""

    FAILURE = "failure"  # it did not answer, or broke: the breaker counts it
    LIMITED = "limited"  # it works, and has enough of us: for a limiter, not for a breaker
    IGNORED = "ignored"  # nothing: the request was wrong, or nobody wanted the answer any more


# Of clients that share no base class with each other or with ours: httpx, aiohttp, the SDKs of model providers.
_NO_ANSWER: Final = frozenset(
    {
        *("TransportError", "TimeoutException", "APIConnectionError", "APITimeoutError"),
        *("ClientConnectionError", "ClientPayloadError", "IncompleteReadError", "gaierror", "SSLError"),
    }
)
# Among these of httpx: our own request could not be sent, so nobody was asked.
_NOT_SENT: Final = frozenset({"UnsupportedProtocol", "LocalProtocolError", "PoolTimeout"})
# The caller's own mistakes.
_MISTAKES: Final = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, NameError),
    *(SyntaxError, TypeError, ValueError, OSError, RecursionError, NotImplementedError, StopAsyncIteration),
)


def classify(error: BaseException) -> Outcome:
    """Return what an error says of the other side.

    An answer counts by its status: 429 is `LIMITED`, 408 and 5xx are failures, the rest of 4xx is `IGNORED`. Without
    one, time-outs and broken connections are failures, cancellation and mistakes of the caller are `IGNORED`. What
    nothing is known of counts as a failure. Of a group the worst counts.
    """
    if isinstance(error, BaseExceptionGroup):
        found = {classify(each) for each in error.exceptions}
        return next(each for each in Outcome if each in found)
    if not isinstance(error, Exception) or isinstance(error, asyncio.CancelledError):
        return Outcome.IGNORED
    if isinstance(error, RunwireError):
        return _ours(error)
    status = _status_of(error)
    if status is not None:
        return _answered(status)
    if _names(error) & _NOT_SENT:
        return Outcome.IGNORED
    if _is_unanswered(error):
        return Outcome.FAILURE
    return Outcome.IGNORED if isinstance(error, _MISTAKES) else Outcome.FAILURE


def is_outage(error: BaseException) -> bool:
    """Return whether an error is known to mean that the other side did not answer, broke, or has enough of us."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_outage(each) for each in error.exceptions)
    if not isinstance(error, Exception) or classify(error) is Outcome.IGNORED:
        return False
    return _status_of(error) is not None or _is_unanswered(error)


def retry_after_of(error: BaseException) -> float | None:
    """Return for how many seconds the other side asked to be left alone (RFC 9110 §10.2.3); None: it did not.

    A date counts from the date of the answer itself, so it needs no clock of ours.
    """
    given = getattr(error, "retry_after_s", None)
    if isinstance(given, int | float) and not isinstance(given, bool) and given >= 0:
        return float(given)
    headers: Any = getattr(getattr(error, "response", None) or error, "headers", None)
    if not hasattr(headers, "get"):
        return None
    asked = _header(headers, "retry-after")
    if asked.isascii() and asked.isdigit() and len(asked) < 10:
        return float(asked)
    try:
        seconds = (parsedate_to_datetime(asked) - parsedate_to_datetime(_header(headers, "date"))).total_seconds()
    except (TypeError, ValueError):
        return None
    return max(0.0, seconds)


def _names(error: BaseException) -> set[str]:
    return {each.__name__ for each in type(error).__mro__}


def _is_unanswered(error: Exception) -> bool:
    return isinstance(error, TimeoutError | ConnectionError) or bool(_names(error) & _NO_ANSWER)


def _ours(error: RunwireError) -> Outcome:
    # `circuit_open` comes from a breaker further in: nobody was asked.
    is_failure = isinstance(error, Unavailable) and error.code != "circuit_open"
    return Outcome.FAILURE if is_failure else Outcome.IGNORED


def _answered(status: int) -> Outcome:
    if status == 429:
        return Outcome.LIMITED
    return Outcome.FAILURE if status == 408 or status >= 500 else Outcome.IGNORED


def _status_of(error: Exception) -> int | None:
    """Return the HTTP status that an error tells of, wherever its library keeps it."""
    response = getattr(error, "response", None)
    for place, name in ((response, "status_code"), (response, "status"), (error, "status_code"), (error, "status")):
        status = getattr(place, name, None)
        if isinstance(status, int) and 100 <= status <= 599:
            return status
    code = getattr(error, "code", None)  # of urllib
    return code if isinstance(code, int) and 400 <= code <= 599 else None


def _header(headers: Any, name: str) -> str:
    value = headers.get(name) or headers.get(name.title())
    return value.strip() if isinstance(value, str) else ""
