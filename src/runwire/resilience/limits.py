"""How often somebody may try, and how much they may take: buckets and moving windows, pure; time is an argument."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from typing import Final

__all__ = ["Buckets", "MovingWindows", "network_of"]

_IPV6_PREFIX: Final = 64  # the least that a provider gives one customer (RFC 6177 §2)
_SLOTS: Final = 20  # of a window: what is taken within one is kept as one entry, so a key costs 3 KiB at most


def network_of(address: str) -> str:
    """Return what stands for one party among addresses: an IPv4 address, or the /64 of an IPv6 one.

    Whoever has one IPv6 address has 2**64 of them, so a limit for each would be none. What is no address stays.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), _IPV6_PREFIX), strict=False))


class Buckets:
    """One token bucket per key.

    Bounded: past `max_keys` the key that was used longest ago is forgotten, so that a flood of invented
    keys costs memory for `max_keys` entries and no more. A forgotten bucket is a full one.

    Args:
        burst: how many may be taken at once.
        refill_s: time after which one more may be taken, seconds.
        max_keys: how many buckets are kept.
    """

    def __init__(self, *, burst: int, refill_s: float, max_keys: int = 10_000) -> None:
        self._burst = burst
        self._refill_s = refill_s
        self._max_keys = max_keys
        # key -> monotonic time at which its bucket is full again ("theoretical arrival time" of GCRA)
        self._full_at_s: OrderedDict[str, float] = OrderedDict()

    def take(self, key: str, *, now_s: float) -> float:
        """Take one from the bucket of a key.

        Returns:
            0 if there was one, else the seconds until there will be one; nothing was taken then.
        """
        full_at_s = max(self._full_at_s.get(key, now_s), now_s)
        wait_s = full_at_s + self._refill_s - now_s - self._burst * self._refill_s
        if wait_s > 0:
            return wait_s
        self._full_at_s[key] = full_at_s + self._refill_s
        self._full_at_s.move_to_end(key)
        if len(self._full_at_s) > self._max_keys:
            self._full_at_s.popitem(last=False)
        return 0.0

    def give_back(self, key: str) -> None:
        """Return what was taken: the try was a good one."""
        if key in self._full_at_s:
            self._full_at_s[key] -= self._refill_s


class MovingWindows:
    """How much each key took of late: within any stretch of `period_s`, `take` lets no more than the limit through.

    Of what is taken in quick succession, within a twentieth of the period, all counts until the last of it is as old as
    the period. Bounded: past `max_keys` the key that was used longest ago is forgotten, as if it had taken nothing.

    Args:
        period_s: length of the window.
        max_keys: how many windows are kept.
    """

    def __init__(self, *, period_s: float, max_keys: int = 10_000) -> None:
        self._period_s = period_s
        self._max_keys = max_keys
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def take(self, key: str, amount: int = 1, *, limit: int, now_s: float) -> float:
        """Take an amount, if that does not go over the limit.

        Returns:
            0 if it was taken, else the seconds until it will fit; nothing was taken then.
        """
        wait_s = self.wait_s(key, amount, limit=limit, now_s=now_s)
        if wait_s == 0:
            self.add(key, amount, now_s=now_s)
        return wait_s

    def add(self, key: str, amount: int, *, now_s: float) -> None:
        """Count what was taken already, whether or not that goes over the limit."""
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window()
            if len(self._windows) > self._max_keys:
                self._windows.popitem(last=False)
        else:
            self._windows.move_to_end(key)
        window.add(amount, now_s=now_s, slot_s=self._period_s / _SLOTS)

    def wait_s(self, key: str, amount: int = 1, *, limit: int, now_s: float) -> float:
        """Return the seconds until an amount fits; 0: it does now."""
        window = self._windows.get(key)
        if window is None:
            return 0.0 if amount <= limit else self._period_s
        window.forget(until_s=now_s - self._period_s)
        excess = window.total + amount - limit
        if excess <= 0:
            return 0.0
        for _, last_s, taken in window.entries:
            excess -= taken
            if excess <= 0:
                return min(last_s + self._period_s - now_s, self._period_s)
        return self._period_s  # it is more than the limit: it never fits


class _Window:
    """What one key took: entries of (first, last, amount), the oldest first, and their sum."""

    __slots__ = ("entries", "total")

    def __init__(self) -> None:
        self.entries: deque[tuple[float, float, int]] = deque()
        self.total = 0

    def add(self, amount: int, *, now_s: float, slot_s: float) -> None:
        self.total += amount
        if self.entries and now_s - self.entries[-1][0] < slot_s:
            first_s, _, taken = self.entries.pop()
            self.entries.append((first_s, now_s, taken + amount))
        else:
            self.entries.append((now_s, now_s, amount))

    def forget(self, *, until_s: float) -> None:
        while self.entries and self.entries[0][1] <= until_s:
            self.total -= self.entries.popleft()[2]
