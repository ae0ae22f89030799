"""What agents report to have used, counted for their users: who is over a limit begins nothing more that costs.

A count is no bill: a crash may lose a report, or count it twice. What a run used is exact in its own log.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from runwire.protocol.codes import RunFailure
from runwire.resilience.quotas import Allowance
from runwire.runtime.endings import Failure

__all__ = ["MICRO", "Spending"]

MICRO: Final = 1_000_000  # cost is counted in millionths of its currency
_REMEMBERED: Final = 10_000  # people who are known to be over a limit


@dataclass(slots=True)
class _Used:
    """What one person's runs have reported since it was last counted."""

    tokens: int = 0
    micros: int = 0
    runs: list[Callable[[Failure], None]] = field(default_factory=list)


class Spending:
    """Counts tokens and cost of each person. `note` from any thread; all else on the control loop.

    Bounded: what is still to be counted is one sum per person who has a run here.

    Args:
        tokens: of a person, within a day; None: no limit.
        cost: likewise, in millionths.
    """

    def __init__(self, *, tokens: Allowance | None, cost: Allowance | None) -> None:
        self._tokens = tokens
        self._cost = cost
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: dict[str, _Used] = {}
        self._news = asyncio.Event()
        self._over: OrderedDict[str, tuple[float, str]] = OrderedDict()  # until when, and of what there is no more

    @property
    def is_limited(self) -> bool:
        """Return whether anything is counted."""
        return self._tokens is not None or self._cost is not None

    def note(self, user: str, *, tokens: int, micros: int, stop: Callable[[Failure], None]) -> None:
        """Have something counted, soon; `stop` is called on the control loop if that went over a limit."""
        if self.is_limited and self._loop is not None:
            self._loop.call_soon_threadsafe(self._put, user, tokens, micros, stop)

    def refusal(self, user: str) -> Failure | None:
        """Return how a run of somebody ends who is known to be over a limit; None: it may begin."""
        found = self._over.get(user)
        if found is None or self._loop is None:
            return None
        until_s, what = found
        wait_s = until_s - self._loop.time()
        if wait_s <= 0:
            del self._over[user]
            return None
        return _failure(what, wait_s)

    async def run(self) -> None:
        """Count until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._news.clear()  # armed before looking
            pending, self._pending = self._pending, {}
            for user, used in pending.items():
                await self._count(user, used)
            if not self._pending:
                await self._news.wait()

    def _put(self, user: str, tokens: int, micros: int, stop: Callable[[Failure], None]) -> None:
        used = self._pending.setdefault(user, _Used())
        used.tokens += tokens
        used.micros += micros
        used.runs.append(stop)
        self._news.set()

    async def _count(self, user: str, used: _Used) -> None:
        waits = [(0.0, "")]
        if self._tokens is not None:
            waits.append((await self._tokens.add(user, used.tokens), "tokens"))
        if self._cost is not None:
            waits.append((await self._cost.add(user, used.micros), "cost"))
        wait_s, what = max(waits)
        if wait_s <= 0 or self._loop is None:
            return
        self._over[user] = (self._loop.time() + wait_s, what)
        self._over.move_to_end(user)
        if len(self._over) > _REMEMBERED:
            self._over.popitem(last=False)
        for stop in used.runs:
            stop(_failure(what, wait_s))


def _failure(what: str, wait_s: float) -> Failure:
    hours = math.ceil(wait_s / 3600)
    message = f"Your agents have used up today's {what}; try again in {hours} h."
    return Failure(code=RunFailure.QUOTA_EXCEEDED, message=message, retry_after_s=math.ceil(wait_s))
