"""Every adapter of the storage ports under one face, and words to write events with."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tests.postgres import PostgresServer

from runwire.protocol.events import (
    AgentCompleted,
    AgentFailed,
    AgentStarted,
    AgentThinking,
    EmittedEvent,
    StoredEvent,
    decode_data,
    emitted,
)
from runwire.storage.base import Batch, Claim, IncomingMessage, RunEnd, Sent, Storage, Stored
from runwire.storage.memory.storage import MemoryStorage
from runwire.storage.postgres.storage import PostgresStorage
from runwire.storage.sqlite.storage import SqliteStorage

__all__ = [
    "KINDS",
    "Adapter",
    "MemoryAdapter",
    "PostgresAdapter",
    "SqliteAdapter",
    "append",
    "claim_one",
    "completed",
    "failed",
    "said",
    "send",
    "started",
    "thought",
]

KINDS = ("memory", "sqlite", "postgres")


class Adapter:
    """A database that a test may crash: `storage` is what is open now."""

    storage: Storage

    async def crash(self) -> None:
        """Go on as a new process would after `kill -9` of the owner."""
        raise NotImplementedError

    async def hurry(self) -> None:
        """From now on leases, where there are any, run out within a second."""

    async def close(self) -> None:
        await self.storage.close()


class MemoryAdapter(Adapter):
    def __init__(self) -> None:
        self.storage: MemoryStorage = MemoryStorage()

    async def crash(self) -> None:
        self.storage = self.storage.restarted()


class SqliteAdapter(Adapter):
    storage: SqliteStorage

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._generation = 0

    async def open(self) -> SqliteAdapter:
        self.storage = await SqliteStorage.open(self._path())
        return self

    async def crash(self) -> None:
        """Open what a dead process would have left: data file and log as they are, nothing flushed or closed."""
        old, before = self.storage, self._path()
        self._generation += 1
        after = self._path()
        after.parent.mkdir()
        for name in (before.name, f"{before.name}-wal"):
            await asyncio.to_thread(shutil.copy, before.with_name(name), after.with_name(name))
        self.storage = await SqliteStorage.open(after)
        await old.close()

    def _path(self) -> Path:
        return self._folder / f"owner{self._generation}" / "runwire.db"


class PostgresAdapter(Adapter):
    """One database of a server that the tests share; leases end when a test says so."""

    storage: PostgresStorage

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.url = ""

    async def open(self) -> PostgresAdapter:
        self.url = await self._server.lend()
        self.storage = await self._opened(lease_s=300)
        return self

    async def crash(self) -> None:
        """Open it as another process, when the leases of the dead one have run out."""
        old = self.storage
        self.storage = await self._opened(lease_s=old.lease_s)
        await self.storage.database.execute("UPDATE run SET lease_until = 0, worker = 'dead ' || worker")
        await old.close()

    async def hurry(self) -> None:
        await self.storage.close()
        self.storage = await self._opened(lease_s=0.9)

    async def close(self) -> None:
        await self.storage.close()
        await self._server.take_back(self.url)

    async def _opened(self, *, lease_s: float) -> PostgresStorage:
        return await PostgresStorage.open(self.url, lease_s=lease_s, limit_s=5)


async def send(storage: Storage, thread: str | None = None, *, user: str = "usr_ada", **fields: Any) -> Sent:
    return await storage.runs.send(IncomingMessage(user=user, thread=thread, agent="echo", content="hello", **fields))


async def claim_one(storage: Storage, worker: str = "w1") -> Claim:
    (claim,) = await storage.runs.claim(worker, agents=["echo"], limit=1, user_limit=100)
    return claim


async def append(
    storage: Storage, claim: Claim, *events: EmittedEvent, ordinal: int, end: RunEnd | None = None
) -> Stored:
    batch = Batch(run=claim.run, attempt=claim.attempt, ordinal=ordinal, events=events, end=end)
    (outcome,) = await storage.events.append([batch])
    assert isinstance(outcome, Stored), outcome
    return outcome


def thought(text: str, *, scope: str = "") -> EmittedEvent:
    return emitted(AgentThinking(text=text), ts=1, scope=scope)


def started() -> EmittedEvent:
    return emitted(AgentStarted(agent="echo", message="msg_1"), ts=1)


def completed() -> EmittedEvent:
    return emitted(AgentCompleted(output="done", duration_ms=1), ts=1)


def failed(code: Literal["agent_error", "internal"] = "agent_error") -> EmittedEvent:
    return emitted(AgentFailed(code=code, message="no", error_id="err_1", retryable=False), ts=1)


def said(events: Sequence[StoredEvent | EmittedEvent]) -> list[str]:
    """Return each event as a word: the text of a thought, else its type."""
    return [decode_data(event).text if event.type == "agent_thinking" else event.type for event in events]
