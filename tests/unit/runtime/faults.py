"""Faults put in at the port: a real adapter, through which a test can lose replies, stand still, or refuse."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from runwire.errors import Unavailable
from runwire.storage.base import Batch, Claim, Outcome, Unstorable
from runwire.storage.memory.storage import MemoryStorage

__all__ = ["FaultyStorage"]


class _FaultyLog:
    """The log of a real storage; every append is remembered as it was asked for."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.appends: list[list[Batch]] = []
        self.lose_batches: Callable[[Sequence[Batch]], bool] = lambda _batches: False
        self.lose_reply: Callable[[Sequence[Batch]], bool] = lambda _batches: False
        self.refuse: Callable[[Batch], bool] = lambda _batch: False
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.is_asked = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def append(self, batches: Sequence[Batch]) -> list[Outcome]:
        self.appends.append(list(batches))
        self.is_asked.set()
        await self.is_open.wait()
        if self.lose_batches(batches):
            raise Unavailable("nothing was stored")
        taken = [batch for batch in batches if not self.refuse(batch)]
        outcomes = dict(zip([batch.run for batch in taken], await self._inner.append(taken), strict=True))
        if self.lose_reply(batches):
            raise Unavailable("the reply was lost")
        return [outcomes.get(batch.run, Unstorable(reason="refused by the test")) for batch in batches]


class _FaultyRuns:
    """The runs of a real storage."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.lose_claims: Callable[[list[Claim]], bool] = lambda _claims: False
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.is_asked = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def claim(self, worker: str, **options: Any) -> list[Claim]:
        claims: list[Claim] = await self._inner.claim(worker, **options)
        self.is_asked.set()
        await self.is_open.wait()
        if self.lose_claims(claims):
            raise Unavailable("the reply was lost")
        return claims


class FaultyStorage:
    """All ports of a database in memory, its log and its runs with faults."""

    def __init__(self, inner: MemoryStorage | None = None) -> None:
        self._inner = inner or MemoryStorage()
        self.events: Any = _FaultyLog(self._inner.events)
        self.runs: Any = _FaultyRuns(self._inner.runs)
        self.threads = self._inner.threads
        self.auth = self._inner.auth
        self.members = self._inner.members
        self.people, self.erasure = self._inner.people, self._inner.erasure
        self.upkeep = self._inner.upkeep

    @property
    def log(self) -> str:
        return self._inner.log

    @property
    def lease_s(self) -> float:
        return self._inner.lease_s

    async def ping(self) -> None:
        await self._inner.ping()

    async def close(self) -> None:
        await self._inner.close()
