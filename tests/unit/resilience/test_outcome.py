"""What counts against the other side, and what does not; errors are those of real libraries where these are here."""

from __future__ import annotations

import asyncio
import email.message
import socket
import ssl
import urllib.error

import httpx2
import pytest

from runwire.errors import Forbidden, Unavailable
from runwire.resilience.breaker import CircuitOpen
from runwire.resilience.outcome import Outcome, classify, is_outage, retry_after_of

REQUEST = httpx2.Request("GET", "http://provider.test/")


def answered(status: int, **headers: str) -> httpx2.HTTPStatusError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.HTTPStatusError(
        "refused", request=REQUEST, response=httpx2.Response(status, headers=named, request=REQUEST)
    )


def of_urllib(status: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("http://provider.test/", status, "no", email.message.Message(), None)


class ApiError(Exception):
    """As an SDK has it that keeps the status itself."""

    def __init__(self, status_code: object) -> None:
        self.status_code = status_code


class APIConnectionError(Exception):
    """As an SDK names it."""


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, Outcome.FAILURE) for status in (408, 500, 502, 503, 504, 529)),
        *((status, Outcome.IGNORED) for status in (400, 401, 403, 404, 409, 413, 422, 451)),
        (429, Outcome.LIMITED),
    ],
)
def test_an_answer_counts_by_its_status(status: int, outcome: Outcome) -> None:
    assert classify(answered(status)) is outcome
    assert classify(ApiError(status)) is outcome
    with of_urllib(status) as error:
        assert classify(error) is outcome


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        ConnectionRefusedError(),
        ConnectionResetError(),
        socket.gaierror(),
        ssl.SSLError(),
        asyncio.IncompleteReadError(b"", 1),
        httpx2.ConnectError("no"),
        httpx2.ReadTimeout("no"),
        httpx2.RemoteProtocolError("cut"),
        APIConnectionError(),
        Unavailable("down"),
        RuntimeError("who knows"),
        ApiError("no status"),
        ExceptionGroup("many", [ValueError(), TimeoutError()]),
    ],
    ids=repr,
)
def test_who_does_not_answer_fails(error: BaseException) -> None:
    assert classify(error) is Outcome.FAILURE


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        GeneratorExit(),
        KeyboardInterrupt(),
        ValueError(),
        KeyError(),
        TypeError(),
        FileNotFoundError(),
        httpx2.UnsupportedProtocol("ftp"),
        httpx2.PoolTimeout("ours is too small"),
        Forbidden("no"),
        CircuitOpen("of somebody further in", retry_after_s=1.0),
        BaseExceptionGroup("many", [asyncio.CancelledError(), ValueError()]),
    ],
    ids=repr,
)
def test_who_was_not_asked_or_asked_wrongly_has_not_failed(error: BaseException) -> None:
    assert classify(error) is Outcome.IGNORED


def test_of_a_group_the_worst_counts() -> None:
    assert classify(ExceptionGroup("many", [ValueError(), answered(429)])) is Outcome.LIMITED


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (answered(503, retry_after="12"), 12.0),
        (answered(503, retry_after="0"), 0.0),
        (answered(503, date="Mon, 23 Nov 2026 11:00:00 GMT", retry_after="Mon, 23 Nov 2026 11:01:30 GMT"), 90.0),
        (answered(503, date="Mon, 23 Nov 2026 11:00:00 GMT", retry_after="Mon, 23 Nov 2026 10:00:00 GMT"), 0.0),
        (answered(503, date="Mon, 23 Nov 2026 11:00:00 -0000", retry_after="Mon, 23 Nov 2026 11:01:00 GMT"), None),
        (answered(503, retry_after="Mon, 23 Nov 2026 11:01:30 GMT"), None),
        (answered(503, retry_after="-5"), None),
        (answered(503, retry_after="99999999999"), None),
        (answered(503, retry_after="soon"), None),
        (answered(503), None),
        (Unavailable("down", retry_after_s=3.0), 3.0),
        (ApiError(503), None),
        (TimeoutError(), None),
    ],
)
def test_the_other_side_says_for_how_long_it_wants_to_be_left_alone(error: Exception, seconds: float | None) -> None:
    assert retry_after_of(error) == seconds


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (answered(500), True),
        (answered(429), True),
        (answered(404), False),
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (ExceptionGroup("many", [ValueError(), TimeoutError()]), True),
        (ExceptionGroup("many", [ValueError()]), False),
        (RuntimeError("a bug, maybe"), False),
        (asyncio.CancelledError(), False),
    ],
)
def test_an_outage_is_what_is_known_to_be_one(error: BaseException, is_one: bool) -> None:
    assert is_outage(error) is is_one
