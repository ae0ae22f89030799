"""Put a breaker through the checks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from runwire.resilience.breaker import Breaker, Terms
from runwire.resilience.testing.checks import CHECKS
from runwire.resilience.testing.subject import KitTerms, Made, Refused, Subject

__all__ = ["Verdict", "examine", "subject_of"]

_DEADLINE_S: Final = 10.0  # of one check


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one check."""

    check: str
    is_kept: bool
    found: str = ""  # if it is not


async def examine(
    made: Made, *, terms: KitTerms | None = None, checks: Sequence[Callable[[Made, KitTerms], Awaitable[None]]] = ()
) -> list[Verdict]:
    """Put a breaker through the checks, each with a fresh one.

    Args:
        made: makes one.
        terms: for a breaker that lives by the real clock with shorter times.
        checks: some of `CHECKS`; else all.
    """
    return [await _verdict(check, made, terms or KitTerms()) for check in checks or CHECKS]


async def _verdict(check: Callable[[Made, KitTerms], Awaitable[None]], made: Made, terms: KitTerms) -> Verdict:
    name = check.__name__.replace("_", " ").strip()
    try:
        async with asyncio.timeout(_DEADLINE_S):
            await check(made, terms)
    except TimeoutError:
        return Verdict(check=name, is_kept=False, found=f"did not end within {_DEADLINE_S:.0f} s")
    except BaseExceptionGroup as group:
        return Verdict(check=name, is_kept=False, found="; ".join(str(each) or repr(each) for each in group.exceptions))
    except Exception as broken:  # whatever a foreign breaker raises is what was found
        return Verdict(check=name, is_kept=False, found=str(broken) or type(broken).__name__)
    return Verdict(check=name, is_kept=True)


class _Own:
    """Our breaker as a subject, by a clock of its own."""

    def __init__(self, terms: KitTerms, breaker: type[Breaker]) -> None:
        self._now_s = 1_000.0
        self._breaker = breaker(
            "subject",
            Terms(
                failures_in_row=terms.failures_in_row,
                failure_rate=terms.failure_rate,
                minimum_calls=terms.minimum_calls,
                window_s=terms.window_s,
                slow_s=terms.slow_s,
                open_s=terms.open_s,
                lease_s=terms.lease_s,
                probes=terms.probes,
                successes=terms.successes,
            ),
            now_s=lambda: self._now_s,
            chance=lambda: 1.0,
        )

    async def call(self, work: Callable[[], Awaitable[object]]) -> None:
        try:
            permit = self._breaker.acquire()
        except Exception as error:  # of a changed copy it is another class
            raise Refused(str(error)) from error
        with permit:
            await work()

    async def pass_time(self, seconds: float) -> None:
        self._now_s += seconds


def subject_of(terms: KitTerms, breaker: type[Breaker] = Breaker) -> Subject:
    """Return Runwire's own breaker for the kit, or a changed copy of it."""
    return _Own(terms, breaker)
