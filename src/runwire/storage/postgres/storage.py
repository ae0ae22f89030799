"""All ports of one PostgreSQL database."""

from __future__ import annotations

from typing import Final

from runwire.errors import Unavailable
from runwire.storage.postgres.auth import PostgresAuthStore
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.postgres.erasure import PostgresErasure
from runwire.storage.postgres.log import PostgresEventLog
from runwire.storage.postgres.members import PostgresMembers
from runwire.storage.postgres.people import PostgresPeople
from runwire.storage.postgres.runs import PostgresRuns
from runwire.storage.postgres.threads import PostgresThreads
from runwire.storage.postgres.upkeep import PostgresUpkeep
from runwire.storage.sql import load

__all__ = ["PostgresStorage"]

_SQL: Final = load("postgres.sql")


class PostgresStorage:
    """One database that many processes share; the truth of a cluster."""

    def __init__(self, database: PostgresDatabase) -> None:
        self.database: Final = database
        self.events: Final = PostgresEventLog(database)
        self.runs: Final = PostgresRuns(database)
        self.threads: Final = PostgresThreads(database)
        self.auth: Final = PostgresAuthStore(database)
        self.people: Final = PostgresPeople(database)
        self.members: Final = PostgresMembers(database)
        self.erasure: Final = PostgresErasure(database)
        self.upkeep: Final = PostgresUpkeep(database)

    @classmethod
    async def open(cls, url: str, *, lease_s: float = 6.0, limit_s: float | None = None) -> PostgresStorage:
        """Open a database that `migrate` has made ready; see `PostgresDatabase.open`."""
        return cls(await PostgresDatabase.open(url, lease_s=lease_s, limit_s=limit_s))

    @property
    def log(self) -> str:
        """Identity of the database's history; another one once a new connection leads to another history."""
        return self.database.log

    @property
    def lease_s(self) -> float:
        """How long a claim is good for unless it is renewed."""
        return self.database.lease_s

    async def ping(self) -> None:
        """Prove that the database answers and takes writes. Raises Unavailable."""
        if await self.database.fetchval(_SQL["ping"]):
            raise Unavailable("The database takes no writes; try again.", retry_after_s=1.0)

    async def close(self) -> None:
        """Let what runs finish, then disconnect. Idempotent."""
        await self.database.close()
