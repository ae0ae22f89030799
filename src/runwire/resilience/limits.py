"""How often somebody may try: token buckets, pure; time is an argument."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

__all__ = ["Buckets", "network_of"]

_IPV6_PREFIX: Final = 64  # the least that a provider gives one customer (RFC 6177 §2)


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
