"""Every adapter of the storage ports under one face, and words to write events with."""

from __future__ import annotations

import asyncio
import json
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
LATER = """
UPDATE member SET since = since - ?1, seen_at = seen_at - ?1, good_until = good_until - ?1
WHERE node IN (SELECT value FROM json_each(?2)) OR NOT EXISTS (SELECT 1 FROM json_each(?2))
"""


class Adapter:
    """A database that a test may crash: `storage` is what is open now."""

    storage: Storage

    async def crash(self) -> None:
        """Go on as a new process would after `kill -9` of the owner."""
        raise NotImplementedError

    async def hurry(self) -> None:
        """From now on leases, where there are any, run out within a second."""

    async def later(self, seconds: float, *nodes: str) -> None:
        """From now on these members, or all, have come, and were last seen, so much longer ago."""
        raise NotImplementedError

    async def settle(self) -> None:
        """From now on all members have been there for long enough, without a gap."""
        for _ in range(3):
            await self.later(20)
            for row in await self.storage.members.list():
                await self.storage.members.announce(row.member)

    async def close(self) -> None:
        await self.storage.close()


class MemoryAdapter(Adapter):
    storage: MemoryStorage

    def __init__(self) -> None:
        self.storage = MemoryStorage()

    async def later(self, seconds: float, *nodes: str) -> None:
        for node, one in self.storage._state.members.items():
            if node in nodes or not nodes:
                for name in ("since", "seen_at", "good_until"):
                    setattr(one, name, getattr(one, name) - int(seconds * 1000))

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

    async def later(self, seconds: float, *nodes: str) -> None:
        values = (int(seconds * 1000), json.dumps(nodes))
        await self.storage.database.write(lambda connection: connection.execute(LATER, values).rowcount)

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
        await self.storage.database.execute("DELETE FROM member")  # nobody was seen for a day
        await old.close()

    async def later(self, seconds: float, *nodes: str) -> None:
        sql = LATER.replace("?1", "$1::bigint").replace("json_each(?2)", "jsonb_array_elements_text($2::jsonb)")
        await self.storage.database.execute(sql, int(seconds * 1000), json.dumps(nodes))

    async def hurry(self) -> None:
        await self.storage.close()
        self.storage = await self._opened(lease_s=0.9)

    async def close(self) -> None:
        await self.storage.close()
        await self._server.take_back(self.url)

    async def _opened(self, *, lease_s: float) -> PostgresStorage:
        return await PostgresStorage.open(self.url, lease_s=lease_s, limit_s=5)


async def send(storage: Storage, thread: str | None = None, *, user: str = "usr_ada", **fields: Any) -> Sent:
    values = {"agent": "echo", "content": "hello", **fields}
    return await storage.runs.send(IncomingMessage(user=user, thread=thread, **values))


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
