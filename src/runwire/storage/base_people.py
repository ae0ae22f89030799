"""The port of people: the backend's own rows of users, beside what is theirs.

They are no part of identity: the auth service knows who somebody is, these rows say that the backend has met them. Each
is in the database of the user's threads (`placed.py`). `runwire doctor auth-sync` looks after it that both sides agree.
"""

from __future__ import annotations

import builtins
from typing import Protocol

import msgspec

__all__ = ["People", "PersonRow"]


class PersonRow(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody whom this backend has met."""

    user: str  # id of the account
    issuer: str  # "builtin", or the `iss` of another one
    subject: str  # within it; of the built-in one the user's id
    met_at: int  # ms UTC
    quarantined_at: int | None  # since when there is no account to it that anybody knows of


class People(Protocol):
    """Whom this backend has met. None of these calls gives or withdraws access."""

    async def meet(self, user: str, issuer: str, subject: str) -> bool:
        """Keep that somebody is here; any number of calls at once make one row.

        Returns:
            Whether this call made it. A row that says otherwise (made by a first message before the first meeting) is
            brought in line, and one that was forgotten begins anew.

        Raises:
            Conflict: this subject of this issuer is another user here; nothing was written.
        """
        ...

    async def get(self, user: str) -> PersonRow | None:
        """Return somebody's row, if they were met and not forgotten."""
        ...

    async def list(self, *, after: str | None = None, limit: int = 100) -> builtins.list[PersonRow]:
        """List people by user id; `after` is the last id of the previous page, `limit` 1..1,000."""
        ...

    async def quarantine(self, user: str) -> bool:
        """Mark a row without an account. Returns whether that changed anything."""
        ...

    async def release(self, user: str) -> bool:
        """Take that mark away. Returns whether that changed anything."""
        ...

    async def forget(self, user: str) -> bool:
        """Take out who somebody was: issuer, subject, mark. Returns whether there was anything.

        What belongs to the user's threads is not touched: delete those. The bare id stays for them.
        """
        ...
