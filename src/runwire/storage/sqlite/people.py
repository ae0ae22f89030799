"""Whom a backend has met, on SQLite."""

from __future__ import annotations

import builtins
import sqlite3
from typing import Any, Final

from runwire.errors import Conflict
from runwire.storage.base_people import PersonRow
from runwire.storage.clock import now_ms
from runwire.storage.sql import load
from runwire.storage.sqlite.database import SqliteDatabase

__all__ = ["SqlitePeople"]

_SQL: Final = load("sqlite_people.sql")


class SqlitePeople:
    """The backend's own rows of users, in one SQLite file."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def meet(self, user: str, issuer: str, subject: str) -> bool:
        """Keep that somebody is here; returns whether this call made the row. Raises Conflict."""
        now = now_ms()

        def work(db: sqlite3.Connection) -> bool:
            known = db.execute(_SQL["who_is"], (issuer, subject)).fetchone()
            if known is not None:
                if known[0] != user:
                    raise Conflict("This identity is another user here.", field="subject")
                return False
            if db.execute(_SQL["add_person"], (user, issuer, subject, now)).fetchall():
                return True
            was_forgotten = db.execute(_SQL["person"], (user,)).fetchone() is None
            db.execute(_SQL["correct_person"], (user, issuer, subject, now))
            return was_forgotten

        if await self._is_met(user, issuer, subject):  # nearly always: nothing is written
            return False
        return await self._database.write(work)

    async def _is_met(self, user: str, issuer: str, subject: str) -> bool:
        found = await self.get(user)
        return found is not None and (found.issuer, found.subject) == (issuer, subject)

    async def get(self, user: str) -> PersonRow | None:
        """Return somebody's row, if they were met and not forgotten."""
        row = await self._database.read(lambda db: db.execute(_SQL["person"], (user,)).fetchone())
        return None if row is None else _person(row)

    async def list(self, *, after: str | None = None, limit: int = 100) -> builtins.list[PersonRow]:
        """List people by user id."""
        rows = await self._database.read(lambda db: db.execute(_SQL["people"], (after or "", limit)).fetchall())
        return [_person(row) for row in rows]

    async def quarantine(self, user: str) -> bool:
        """Mark a row without an account; returns whether that changed anything."""
        return await self._change("quarantine_person", user, now_ms())

    async def release(self, user: str) -> bool:
        """Take that mark away; returns whether that changed anything."""
        return await self._change("release_person", user)

    async def forget(self, user: str) -> bool:
        """Take out who somebody was; returns whether there was anything."""
        return await self._change("forget_person", user)

    async def _change(self, block: str, *values: object) -> bool:
        return bool(await self._database.write(lambda db: db.execute(_SQL[block], values).fetchall()))


def _person(row: tuple[Any, ...]) -> PersonRow:
    user, issuer, subject, met_at, quarantined_at = row
    return PersonRow(user=user, issuer=issuer, subject=subject, met_at=met_at, quarantined_at=quarantined_at)
