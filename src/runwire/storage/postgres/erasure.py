"""The end of a person's data in PostgreSQL."""

from __future__ import annotations

from typing import Final

from runwire.storage.base_erasure import Erased
from runwire.storage.base_members import RESERVED
from runwire.storage.clock import now_ms
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.sql import load

__all__ = ["PostgresErasure"]

ROWS: Final = 500  # of each table, deleted by one statement
_VACUUM_S: Final = 3_600.0

_SQL: Final = load("postgres_erasure.sql")


class PostgresErasure:
    """The end of people's data, in one PostgreSQL database."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def erase(self, user: str, *, is_forced: bool = False) -> Erased:
        """Delete some of what a user has; see `Erasure.erase`."""
        unfinished: int = await self._database.fetchval(_SQL["unfinished"], user)
        if unfinished and not is_forced:
            return Erased(runs=0, threads=(), unfinished=unfinished, has_more=True)
        runs: int = await self._database.fetchval(_SQL["erase_runs"], user, ROWS)
        if runs == ROWS or await self._database.fetchval(_SQL["erase_segments"], user, ROWS) == ROWS:
            return Erased(runs=runs, threads=(), unfinished=unfinished, has_more=True)
        threads = tuple(row[0] for row in await self._database.fetch(_SQL["erase_threads"], user, ROWS))
        if user.startswith(RESERVED):
            await self._database.execute(_SQL["erase_user"], user)
        return Erased(runs=runs, threads=threads, unfinished=0, has_more=len(threads) == ROWS)

    async def leftovers(self, *, older_s: float) -> list[str]:
        """Return names of processes that left something; see `Erasure.leftovers`."""
        before = now_ms() - round(older_s * 1000)
        return [row[0] for row in await self._database.fetch(_SQL["leftovers"], RESERVED, before)]

    async def wipe(self, *, is_thorough: bool = False) -> None:
        """Have the server clear away what was deleted, or write all anew; see `Erasure.wipe`."""
        async with self._database.alone(statement_timeout_s=_VACUUM_S) as connection:
            await connection.execute(_SQL["vacuum_thoroughly" if is_thorough else "vacuum"])
