"""What one person, and one API key, may take: messages, bytes, and what their agents report to have used."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from runwire.gateway.clock import monotonic_s
from runwire.resilience.limits import MovingWindows
from runwire.resilience.quotas import Allowance, OverLimit

__all__ = ["PersonalLimits", "Traffic"]

_MINUTE_S: Final = 60
_FLOOD: Final = 2  # times the limit of bytes, over which a socket is closed: who is refused may not go on for nothing


class Traffic:
    """How many bytes each person sends to this process, over sockets and as messages over HTTP, within a minute.

    This process alone counts: it is this process that reads and decodes them, and a question to others for each frame
    would cost more than the frame. Bounded: 10,000 people.

    Args:
        limit_bytes: within a minute.
        now_s: a clock that never goes back, seconds.
    """

    def __init__(self, limit_bytes: int, *, now_s: Callable[[], float] = monotonic_s) -> None:
        self._limit_bytes = limit_bytes
        self._now_s = now_s
        self._windows = MovingWindows(period_s=_MINUTE_S)

    def add(self, user: str, size_bytes: int) -> None:
        """Count what somebody has sent."""
        self._windows.add(user, size_bytes, now_s=self._now_s())

    def check(self, user: str) -> None:
        """Refuse what somebody sends beyond the limit. Raises OverLimit."""
        wait_s = self._windows.wait_s(user, 0, limit=self._limit_bytes, now_s=self._now_s())
        if wait_s > 0:
            wait_s = _rounded(wait_s)
            sentence = f"You have sent too much within a minute; try again in {_spoken(wait_s)}."
            raise OverLimit(sentence, reason="user_bytes", retry_after_s=wait_s)

    def flood_s(self, user: str) -> float:
        """Return how long somebody must stay away who sends on and on although it is refused; 0: nobody must."""
        return self._windows.wait_s(user, 0, limit=_FLOOD * self._limit_bytes, now_s=self._now_s())


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalLimits:
    """The limits that are set; None: that one is not."""

    user_messages: Allowance | None = None  # that a person sends, over all of their sockets and keys
    key_messages: Allowance | None = None  # that come with one API key
    traffic: Traffic | None = None  # bytes that a person sends
    used: tuple[Allowance, ...] = ()  # tokens and cost, counted where the agents run

    @property
    def counts_messages(self) -> bool:
        """Return whether it matters for a message if it is a repetition."""
        return self.user_messages is not None or self.key_messages is not None

    @property
    def is_alone(self) -> bool:
        """Return whether this process counts by itself what it should count together with others."""
        each = (self.user_messages, self.key_messages, *self.used)
        return any(one.is_alone for one in each if one is not None)

    async def take_message(self, user: str, api_key: str | None) -> None:
        """Count one message more, if it is within all limits.

        Args:
            user: who sends it.
            api_key: with what, if it is a key.

        Raises:
            OverLimit: it is not.
        """
        if self.traffic is not None:
            self.traffic.check(user)
        for allowance in self.used:
            if (wait_s := await allowance.wait_s(user)) > 0:
                what = "cost" if allowance.quota.name == "user_cost" else "tokens"
                raise _over(allowance, f"Your agents have used up today's {what}", wait_s)
        # The key first: one that is over its limit takes nothing of its user's.
        if self.key_messages is not None and api_key is not None:
            wait_s = await self.key_messages.take(api_key)
            if wait_s > 0:
                limit = self.key_messages.quota.limit
                raise _over(self.key_messages, f"This API key may send {limit} messages a minute", wait_s)
        if self.user_messages is not None and (wait_s := await self.user_messages.take(user)) > 0:
            raise _over(self.user_messages, f"You may send {self.user_messages.quota.limit} messages a minute", wait_s)


def _over(allowance: Allowance, fact: str, wait_s: float) -> OverLimit:
    wait_s = _rounded(wait_s)
    sentence = f"{fact}; try again in {_spoken(wait_s)}."
    return OverLimit(sentence, reason=allowance.quota.name, retry_after_s=wait_s)


def _rounded(wait_s: float) -> float:
    # Up: who comes a moment too early is refused again.
    return math.ceil(wait_s * 10) / 10


def _spoken(wait_s: float) -> str:
    if wait_s < 120:
        return f"{math.ceil(wait_s)} s"
    return f"{math.ceil(wait_s / 60)} minutes" if wait_s < 7200 else f"{math.ceil(wait_s / 3600)} hours"
