"""A real storage whose calls a test may go around: something happens just before or after one, or in its place."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

from runwire.storage.base import Storage
from runwire.storage.memory.storage import MemoryStorage

__all__ = ["HookedStorage", "once"]

Around = Callable[..., Awaitable[Any]]
"""Called with the real call, which takes nothing any more, and then with what it was called with."""


class _Port:
    """A port of a real storage; `around` has the ways around its methods, by name."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.around: dict[str, Around] = {}

    def __getattr__(self, name: str) -> Any:
        real, around = getattr(self._inner, name), self.around.get(name)
        if around is None:
            return real

        async def call(*args: Any, **options: Any) -> Any:
            return await around(lambda: real(*args, **options), *args, **options)

        return call


class HookedStorage:
    """All ports of a database, by default of one in memory, whose leases, if there are any, only the worker counts."""

    def __init__(self, inner: Storage | None = None, *, lease_s: float = math.inf) -> None:
        self._inner = inner or MemoryStorage()
        self.events: Any = _Port(self._inner.events)
        self.runs: Any = _Port(self._inner.runs)
        self.threads = self._inner.threads
        self.auth = self._inner.auth
        self.people, self.erasure = self._inner.people, self._inner.erasure
        self.members: Any = _Port(self._inner.members)
        self.upkeep = self._inner.upkeep
        self.lease_s = inner.lease_s if inner else lease_s

    @property
    def log(self) -> str:
        return self._inner.log

    async def ping(self) -> None:
        await self._inner.ping()

    async def close(self) -> None:
        await self._inner.close()


def once(port: Any, name: str, *, before: Around | None = None, after: Around | None = None) -> None:
    """Have something happen around the next call of a method, with the arguments of that call."""

    async def around(real: Callable[[], Awaitable[Any]], *args: Any, **options: Any) -> Any:
        del port.around[name]
        if before:
            await before(*args, **options)
        result = await real()
        if after:
            await after(*args, **options)
        return result

    port.around[name] = around
