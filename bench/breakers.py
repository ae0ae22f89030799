"""The circuit breakers of PyPI as subjects of the herd kit, and each one's quickest way to make a call."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiobreaker
import circuitbreaker
import purgatory
import pybreaker
from hyx.circuitbreaker import consecutive_breaker
from hyx.circuitbreaker.exceptions import BreakerFailing
from purgatory.domain.model import OpenedState

from runwire.resilience.breaker import Breaker, Terms
from runwire.resilience.testing import KitTerms, Refused

__all__ = ["KIT_TERMS", "LIBRARIES", "calls", "subject"]

Work = Callable[[], Awaitable[object]]
Call = Callable[[Work], Awaitable[object]]

# They have only the real clock; short times, and long enough for a busy machine.
KIT_TERMS: Final = KitTerms(open_s=0.2, lease_s=0.4, window_s=1.0)


def _aiobreaker(terms: KitTerms) -> Call:
    breaker = aiobreaker.CircuitBreaker(
        fail_max=terms.failures_in_row or 5, timeout_duration=dt.timedelta(seconds=terms.open_s)
    )
    return breaker.call_async


def _circuitbreaker(terms: KitTerms) -> Call:
    breaker = circuitbreaker.CircuitBreaker(failure_threshold=terms.failures_in_row or 5, recovery_timeout=terms.open_s)

    async def call(work: Work) -> object:
        return await work()

    decorated: Call = breaker(call)  # `call_async` alone never looks whether it is open
    return decorated


def _hyx(terms: KitTerms) -> Call:
    breaker: Any = consecutive_breaker(
        failure_threshold=terms.failures_in_row or 5,
        recovery_time_secs=terms.open_s,
        recovery_threshold=terms.successes,
    )

    async def call(work: Work) -> object:
        async with breaker:
            return await work()

    return call


def _purgatory(terms: KitTerms) -> Call:
    made = purgatory.AsyncCircuitBreakerFactory(default_threshold=terms.failures_in_row or 5, default_ttl=terms.open_s)

    async def call(work: Work) -> object:
        async with await made.get_breaker("subject"):  # as its page has it: each call reads the state
            return await work()

    return call


def _pybreaker(terms: KitTerms) -> Call:
    breaker = pybreaker.CircuitBreaker(
        fail_max=terms.failures_in_row or 5, reset_timeout=terms.open_s, success_threshold=terms.successes
    )
    return lambda work: breaker.call(work)


def _runwire(terms: KitTerms) -> Call:
    breaker = Breaker("subject", Terms(failures_in_row=terms.failures_in_row, failure_rate=None))

    async def call(work: Work) -> object:
        with breaker.acquire():
            return await work()

    return call


LIBRARIES: Final[dict[str, Callable[[KitTerms], Call]]] = {
    "aiobreaker": _aiobreaker,
    "circuitbreaker": _circuitbreaker,
    "hyx": _hyx,
    "purgatory-circuitbreaker": _purgatory,
    "pybreaker": _pybreaker,
}
_OPEN: Final = (
    aiobreaker.CircuitBreakerError,
    circuitbreaker.CircuitBreakerError,
    BreakerFailing,
    OpenedState,
    pybreaker.CircuitBreakerError,
)


def calls() -> dict[str, Call]:
    """Return each one's quickest way to make a call, ours too."""
    made = {"runwire": _runwire, **LIBRARIES}
    return {name: make(KIT_TERMS) for name, make in made.items()}


class _Subject:
    def __init__(self, call: Call) -> None:
        self._call = call

    async def call(self, work: Work) -> None:
        has_begun = False
        raised: BaseException | None = None

        async def told() -> None:
            nonlocal has_begun, raised
            has_begun = True
            try:
                await work()
            except BaseException as error:
                raised = error
                raise

        try:
            await self._call(told)
        except _OPEN as error:
            if not has_begun:
                raise Refused(str(error)) from error
            # Some raise this in place of the failure that opened them.
            assert raised is not None
            raise raised from None

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def subject(name: str) -> Callable[[KitTerms], _Subject]:
    """Return what makes a library's breaker for the kit."""
    return lambda terms: _Subject(LIBRARIES[name](terms))
