"""All ports of one SQLite file."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Final

from runwire.storage.sql import load
from runwire.storage.sqlite.auth import SqliteAuthStore
from runwire.storage.sqlite.database import SqliteDatabase
from runwire.storage.sqlite.erasure import SqliteErasure
from runwire.storage.sqlite.log import SqliteEventLog
from runwire.storage.sqlite.members import SqliteMembers
from runwire.storage.sqlite.people import SqlitePeople
from runwire.storage.sqlite.runs import SqliteRuns
from runwire.storage.sqlite.threads import SqliteThreads
from runwire.storage.sqlite.upkeep import SqliteUpkeep

__all__ = ["SqliteStorage"]

_PROOF_S: Final = 1.0  # a write and its fsync at most so often, whoever asks for readiness

_SQL: Final = load("sqlite.sql")


class SqliteStorage:
    """One data file, open; the embedded truth."""

    def __init__(self, database: SqliteDatabase) -> None:
        self.database: Final = database
        self.events: Final = SqliteEventLog(database)
        self.runs: Final = SqliteRuns(database)
        self.threads: Final = SqliteThreads(database)
        self.auth: Final = SqliteAuthStore(database)
        self.people: Final = SqlitePeople(database)
        self.members: Final = SqliteMembers(database)
        self.erasure: Final = SqliteErasure(database)
        self.upkeep: Final = SqliteUpkeep(database)
        self._proved_at_s = float("-inf")

    @classmethod
    async def open(cls, path: Path) -> SqliteStorage:
        """Open a data file; see `SqliteDatabase.open`."""
        return cls(await SqliteDatabase.open(path))

    @property
    def log(self) -> str:
        """Identity of the database's history."""
        return self.database.log

    @property
    def lease_s(self) -> float:
        """Endless: this process owns the database until another opens it."""
        return math.inf

    async def ping(self) -> None:
        """Prove that the writer can write, or could less than a second ago. Raises Unavailable."""
        clock = asyncio.get_running_loop().time
        if clock() - self._proved_at_s < _PROOF_S:
            return
        await self.database.write(lambda connection: connection.execute(_SQL["ping"]).rowcount)
        self._proved_at_s = clock()

    async def close(self) -> None:
        """Finish queued writes, then close. Idempotent."""
        self._proved_at_s = float("-inf")
        await self.database.close()
