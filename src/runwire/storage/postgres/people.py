"""Whom a backend has met, in PostgreSQL."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Final

from runwire.errors import Conflict
from runwire.storage.base_people import PersonRow
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.sql import load

if TYPE_CHECKING:
    from asyncpg import Record

__all__ = ["PostgresPeople"]

_SQL: Final = load("postgres_people.sql")


class PostgresPeople:
    """The backend's own rows of users, in one PostgreSQL database."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def meet(self, user: str, issuer: str, subject: str) -> bool:
        """Keep that somebody is here; returns whether this call made the row. Raises Conflict."""
        outcome = await self._database.fetchval(_SQL["meet"], user, issuer, subject)
        if outcome == "taken":
            raise Conflict("This identity is another user here.", field="subject")
        is_first: bool = outcome == "first"
        return is_first

    async def get(self, user: str) -> PersonRow | None:
        """Return somebody's row, if they were met and not forgotten."""
        row = await self._database.fetchrow(_SQL["person"], user)
        return None if row is None else _person(row)

    async def list(self, *, after: str | None = None, limit: int = 100) -> builtins.list[PersonRow]:
        """List people by user id."""
        return [_person(row) for row in await self._database.fetch(_SQL["people"], after or "", limit)]

    async def quarantine(self, user: str) -> bool:
        """Mark a row without an account; returns whether that changed anything."""
        return await self._change("quarantine_person", user)

    async def release(self, user: str) -> bool:
        """Take that mark away; returns whether that changed anything."""
        return await self._change("release_person", user)

    async def forget(self, user: str) -> bool:
        """Take out who somebody was; returns whether there was anything."""
        return await self._change("forget_person", user)

    async def _change(self, block: str, user: str) -> bool:
        return await self._database.fetchrow(_SQL[block], user) is not None


def _person(row: Record) -> PersonRow:
    return PersonRow(
        user=row["id"],
        issuer=row["iss"],
        subject=row["sub"],
        met_at=row["created_at"],
        quarantined_at=row["quarantined_at"],
    )
