"""The limits of each person and key, as they are set: counted together in Redis where there is one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from runwire.gateway.limits import PersonalLimits, Traffic
from runwire.resilience.memory import container_limit_bytes
from runwire.resilience.quotas import Allowance, Quota, SharedCounts, breaker_of_counts
from runwire.runtime.spending import MICRO, Spending
from runwire.settings import Settings
from runwire.storage.open import open_counts

__all__ = ["Limits", "memory_limit_bytes", "open_limits"]

_MINUTE_S: Final = 60
_DAY_S: Final = 86_400
_ENTRIES: Final = 1_000  # of a day's tokens that the shared counts keep for one person
_MEMORY_SHARE: Final = 0.9  # of its container, above which a process takes nothing new


async def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is counted in this process."""

    personal: PersonalLimits | None  # asked by the gateway; None: nothing is limited
    spending: Spending  # told by the worker
    close: Callable[[], Awaitable[None]] = _nothing  # lets go of what is shared


def open_limits(settings: Settings) -> Limits:
    """Return the limits that are set. Raises ConfigurationError: the URL of Redis cannot be meant."""
    limits = (
        ("user_messages", settings.user_messages_per_minute, _MINUTE_S, 1),
        ("key_messages", settings.key_messages_per_minute, _MINUTE_S, 1),
        ("user_tokens", settings.user_tokens_per_day, _DAY_S, _unit(settings.user_tokens_per_day)),
        ("user_cost", _micros(settings.user_cost_per_day), _DAY_S, _unit(_micros(settings.user_cost_per_day))),
    )
    counts = None
    if any(limit for _, limit, _, _ in limits) and settings.redis_url is not None and settings.is_shared:
        counts = open_counts(settings.redis_url, settings.redis_prefix)
    shared: SharedCounts | None = counts
    breaker = breaker_of_counts()
    allowances = {
        name: Allowance(Quota(name=name, limit=limit, period_s=period_s, unit=unit), shared=shared, breaker=breaker)
        for name, limit, period_s, unit in limits
        if limit is not None
    }
    tokens, cost = allowances.get("user_tokens"), allowances.get("user_cost")
    personal = PersonalLimits(
        user_messages=allowances.get("user_messages"),
        key_messages=allowances.get("key_messages"),
        traffic=None if settings.user_bytes_per_minute is None else Traffic(settings.user_bytes_per_minute),
        used=tuple(one for one in (tokens, cost) if one is not None),
    )
    is_any = bool(allowances) or personal.traffic is not None
    return Limits(
        personal=personal if is_any else None,
        spending=Spending(tokens=tokens, cost=cost),
        close=counts.close if counts else _nothing,
    )


def memory_limit_bytes(settings: Settings) -> int | None:
    """Return the resident memory over which this process takes nothing new; None: no limit is known."""
    if settings.max_memory_mb is not None:
        return settings.max_memory_mb << 20
    container = container_limit_bytes()
    return None if container is None else int(container * _MEMORY_SHARE)


def _micros(cost: float | None) -> int | None:
    return None if cost is None else max(1, round(cost * MICRO))


def _unit(limit: int | None) -> int:
    return max(1, (limit or 0) // _ENTRIES)
