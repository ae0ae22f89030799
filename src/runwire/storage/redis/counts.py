"""Counts that all gateways and workers share in Redis: moving windows of the library `limits`, on connections of ours.

The library's own clients retry and pool as redis-py does by itself, and stand still for seconds when Redis does; its
windows are one Lua script each, so that of fifty requests at the limit exactly as many pass as are left.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.util import WindowStats
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

from runwire.errors import ConfigurationError, Unavailable
from runwire.resilience.quotas import ANSWER_S, Quota
from runwire.storage.clock import now_ms
from runwire.storage.redis.address import parse_address
from runwire.storage.redis.link import answered, open_pool
from runwire.storage.redis.route import Route, find_route

__all__ = ["RedisCounts"]

_CONNECTIONS: Final = 16  # per server; who finds none free waits for one, within the deadline of all
_RESTS: Final = 10_000  # parties whose last piece of a unit is kept


class RedisCounts:
    """Count for all processes with the same Redis and prefix. Each call answers within `ANSWER_S`, or raises.

    In a cluster each party's count is on the node of its slot. An entry is as old as the clock of the process says that
    made it; deployments keep those together (`clock_skewed`).

    Args:
        url: of Redis (`storage/redis/address.py`).
        prefix: what the names of the counts begin with.

    Raises:
        ConfigurationError: the URL cannot be meant.
    """

    def __init__(self, url: str, *, prefix: str) -> None:
        self._address = parse_address(url)
        self._prefix = f"{prefix}:limits"
        self._servers: _Servers | None = None  # until something fails; then they are looked for anew
        self._rests: OrderedDict[tuple[str, str], int] = OrderedDict()

    async def take(self, quota: Quota, who: str, amount: int) -> float:
        """Take an amount; return 0, or the seconds until it will fit."""
        item = _item(quota)
        async with self._window(item, who) as window:
            if await window.hit(item, who, cost=amount):
                return 0.0
            return _until((await window.get_window_stats(item, who)).reset_time, quota)

    async def add(self, quota: Quota, who: str, amount: int) -> float:
        """Count what was taken already, up to the limit; return what `wait_s` does then.

        What is less than a unit is kept here until it is one.
        """
        units, rest = divmod(self._rests.pop((quota.name, who), 0) + amount, quota.unit)
        self._rests[quota.name, who] = rest
        if len(self._rests) > _RESTS:
            self._rests.popitem(last=False)
        item = _item(quota)
        async with self._window(item, who) as window:
            units = min(units, item.amount)
            if units and not await window.hit(item, who, cost=units):
                left = (await window.get_window_stats(item, who)).remaining
                if left > 0:
                    await window.hit(item, who, cost=min(left, units))
            return _left(await window.get_window_stats(item, who), quota)

    async def wait_s(self, quota: Quota, who: str) -> float:
        """Return 0 if something is left, else the seconds until something will be."""
        item = _item(quota)
        async with self._window(item, who) as window:
            return _left(await window.get_window_stats(item, who), quota)

    async def close(self) -> None:
        """Let go of the connections. Idempotent."""
        servers, self._servers = self._servers, None
        if servers:
            await servers.close()

    @asynccontextmanager
    async def _window(self, item: RateLimitItemPerSecond, who: str) -> AsyncIterator[MovingWindowRateLimiter]:
        """Give the windows of the server that counts for somebody; forget it if it does not answer.

        Raises:
            Unavailable: it did not, or refused the password, which the bus says where it is read.
        """
        servers = self._servers
        try:
            async with answered(ANSWER_S):
                if servers is None:
                    servers = await self._open()
                yield servers.window(f"{self._prefix}:{item.key_for(who)}")
        except (Unavailable, ConfigurationError) as error:
            if servers is not None and self._servers is servers:
                self._servers = None  # after a fail-over another one is the master
                await servers.close()
            raise Unavailable("Redis does not count.") from error

    async def _open(self) -> _Servers:
        route = await find_route(self._address)
        if self._servers is None:  # else another call was quicker
            pools = [open_pool(self._address, node, size=_CONNECTIONS) for node in route.nodes]
            self._servers = _Servers(route, pools, self._prefix)
        return self._servers


class _Servers:
    """The windows on each server of a route."""

    def __init__(self, route: Route, pools: list[BlockingConnectionPool], prefix: str) -> None:
        self._route = route
        self._pools = pools
        self._windows = [
            MovingWindowRateLimiter(
                RedisStorage("redis://", implementation="redispy", key_prefix=prefix, connection_pool=pool)  # type: ignore[arg-type]  # a pool is no number, and what it takes
            )
            for pool in pools
        ]

    def window(self, key: str) -> MovingWindowRateLimiter:
        """Return those of the server that has a key. Raises Unavailable."""
        return self._windows[self._route.place(key.encode())]

    async def close(self) -> None:
        """End the connections that are idle; one that is used ends with the call that uses it."""
        for pool in self._pools:
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    await pool.disconnect(inuse_connections=False)


def _item(quota: Quota) -> RateLimitItemPerSecond:
    return RateLimitItemPerSecond(max(1, quota.limit // quota.unit), quota.period_s, quota.name)


def _left(stats: WindowStats, quota: Quota) -> float:
    return 0.0 if stats.remaining > 0 else _until(stats.reset_time, quota)


def _until(reset_s: float, quota: Quota) -> float:
    # The library measures with the wall clock; one that jumped must not send anybody away for longer than the period.
    return min(max(reset_s - now_ms() / 1000, 0.01), float(quota.period_s))
