"""Allowances: what is shared is asked behind a breaker, and where it is away a process counts alone, more strictly."""

from __future__ import annotations

from runwire.errors import Unavailable
from runwire.resilience.limits import MovingWindows
from runwire.resilience.quotas import Allowance, Quota, breaker_of_counts


class FakeClock:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


class FakeCounts:
    """Shared counts that may be away."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._windows = MovingWindows(period_s=60)
        self.is_away = False
        self.asked = 0

    async def take(self, quota: Quota, who: str, amount: int) -> float:
        self._check()
        return self._windows.take(who, amount, limit=quota.limit, now_s=self._clock())

    async def add(self, quota: Quota, who: str, amount: int) -> float:
        self._check()
        self._windows.add(who, amount, now_s=self._clock())
        return await self.wait_s(quota, who)

    async def wait_s(self, quota: Quota, who: str) -> float:
        self._check()
        return self._windows.wait_s(who, limit=quota.limit, now_s=self._clock())

    def _check(self) -> None:
        self.asked += 1
        if self.is_away:
            raise Unavailable("away")


QUOTA = Quota(name="user_messages", limit=10, period_s=60)


async def taken(allowance: Allowance, tries: int) -> int:
    """Return how many of so many tries pass."""
    return sum([await allowance.take("ann") == 0 for _ in range(tries)])


async def test_a_process_with_nobody_to_share_with_grants_the_whole_limit() -> None:
    clock = FakeClock()
    allowance = Allowance(QUOTA, now_s=clock)
    assert await taken(allowance, 50) == 10
    assert not allowance.is_alone
    assert await allowance.take("ann") == 60.0
    assert await allowance.take("bob") == 0
    clock.s += 60.0
    assert await taken(allowance, 50) == 10


async def test_without_the_shared_counts_half_of_the_limit_comes_on_top_and_no_more() -> None:
    clock = FakeClock()
    counts = FakeCounts(clock)
    allowance = Allowance(QUOTA, shared=counts, breaker=breaker_of_counts(clock), now_s=clock)
    assert await taken(allowance, 50) == 10
    counts.is_away = True
    assert await taken(allowance, 50) == 5
    assert allowance.is_alone
    assert counts.asked == 52, "two failures open the breaker: after them nobody waits for what is away"
    counts.is_away = False
    clock.s += 5.0
    assert await taken(allowance, 5) == 0, "what was counted together stands when it is asked again"
    assert not allowance.is_alone


async def test_what_is_used_is_counted_here_while_the_shared_counts_are_away() -> None:
    clock = FakeClock()
    counts = FakeCounts(clock)
    allowance = Allowance(QUOTA, shared=counts, breaker=breaker_of_counts(clock), now_s=clock)
    assert await allowance.add("ann", 9) == 0
    counts.is_away = True
    assert await allowance.wait_s("ann") == 0, "others know what was used before, this process does not"
    assert await allowance.add("ann", 4) == 0
    assert await allowance.add("ann", 1) == 60.0
    assert await allowance.wait_s("ann") == 60.0


def test_a_limit_of_one_is_not_none_when_it_is_halved() -> None:
    assert Quota(name="n", limit=1, period_s=60).alone == 1
