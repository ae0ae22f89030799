"""Whom a backend has met, in memory."""

from __future__ import annotations

import builtins

from runwire.errors import Conflict
from runwire.storage.base_people import PersonRow
from runwire.storage.clock import now_ms
from runwire.storage.memory.state import State, User

__all__ = ["MemoryPeople"]


class MemoryPeople:
    """The backend's own rows of users, in one database in memory."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def meet(self, user: str, issuer: str, subject: str) -> bool:
        """Keep that somebody is here; returns whether this call made the row. Raises Conflict."""
        with self._state.lock:
            others = (other for other in self._state.users.values() if other.id != user)
            if any((other.issuer, other.subject) == (issuer, subject) for other in others):
                raise Conflict("This identity is another user here.", field="subject")
            is_first = user not in self._state.users or not self._state.users[user].issuer
            row = self._state.user(user)
            row.issuer, row.subject = issuer, subject
            if is_first:
                row.met_at = now_ms()
            return is_first

    async def get(self, user: str) -> PersonRow | None:
        """Return somebody's row, if they were met and not forgotten."""
        with self._state.lock:
            row = self._state.users.get(user)
            return _person(row) if row is not None and row.issuer else None

    async def list(self, *, after: str | None = None, limit: int = 100) -> builtins.list[PersonRow]:
        """List people by user id."""
        with self._state.lock:
            rows = sorted(self._state.users.values(), key=lambda row: row.id)
            return [_person(row) for row in rows if row.id > (after or "") and row.issuer][:limit]

    async def quarantine(self, user: str) -> bool:
        """Mark a row without an account; returns whether that changed anything."""
        with self._state.lock:
            row = self._state.users.get(user)
            if row is None or not row.issuer or row.quarantined_at is not None:
                return False
            row.quarantined_at = now_ms()
            return True

    async def release(self, user: str) -> bool:
        """Take that mark away; returns whether that changed anything."""
        with self._state.lock:
            row = self._state.users.get(user)
            if row is None or row.quarantined_at is None:
                return False
            row.quarantined_at = None
            return True

    async def forget(self, user: str) -> bool:
        """Take out who somebody was; returns whether there was anything."""
        with self._state.lock:
            row = self._state.users.get(user)
            if row is None or not row.issuer:
                return False
            row.issuer, row.subject, row.quarantined_at = "", user, None
            return True


def _person(row: User) -> PersonRow:
    return PersonRow(
        user=row.id,
        issuer=row.issuer,
        subject=row.subject,
        met_at=row.met_at,
        quarantined_at=row.quarantined_at,
    )
