"""Rows of the auth tables in PostgreSQL as records."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from runwire.errors import Conflict, NotFound
from runwire.storage.base_audit import AuditEntry, AuditRow, storable
from runwire.storage.base_auth import (
    AuthEvent,
    AuthKind,
    InviteRow,
    KeyRow,
    SessionRow,
    SigningKeyRow,
    UserRow,
)
from runwire.storage.conflicts import changed_meanwhile
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.sql import load

if TYPE_CHECKING:
    from asyncpg import Record

__all__ = [
    "SQL",
    "AuthTables",
    "audit_row",
    "audit_text",
    "event",
    "invite",
    "key",
    "listed",
    "session",
    "signing_key",
    "unknown_user",
    "user",
]

SQL: Final = load("postgres_auth.sql")


def _of_the_database() -> int | None:
    return None


class AuthTables:
    """The auth tables of a PostgreSQL database, which any number of auth services share.

    Args:
        database: the open database; the row of the counter serialises all changes, so numbers are commit-ordered.
        clock: ms UTC; None: the database's.
    """

    def __init__(self, database: PostgresDatabase, *, clock: Callable[[], int | None] = _of_the_database) -> None:
        self._database = database
        self._clock = clock

    async def _change(self, block: str, *values: object) -> UserRow:
        """Call a function that changes a user. Raises NotFound, Conflict."""
        row = await self._row(block, *values)
        if row is None:
            raise unknown_user()
        if row["fault"] == "changed":
            raise changed_meanwhile()
        if row["fault"] is not None:
            raise Conflict("This is the last active administrator; make another one first.", field="user")
        return user(row)

    async def _row(self, block: str, *values: object) -> Record | None:
        return await self._database.fetchrow(SQL[block], *values, self._clock())

    async def _value(self, block: str, *values: object) -> Any:
        return await self._database.fetchval(SQL[block], *values, self._clock())


def unknown_user() -> NotFound:
    """Return the error that says so."""
    return NotFound("There is no such user.", field="user")


def audit_text(entry: AuditEntry | None) -> str | None:
    """Return an entry as the functions take it."""
    return None if entry is None else msgspec.json.encode(storable(entry)).decode()


def listed(words: Iterable[str]) -> str:
    """Return roles or scopes as they are stored."""
    return msgspec.json.encode(sorted(set(words))).decode()


def user(row: Record) -> UserRow:
    """Return the record of a row."""
    return UserRow(
        user=row["id"],
        name=row["name"],
        status=row["status"],
        epoch=row["epoch"],
        roles=_words(row["roles"]),
        created_at=row["created_at"],
        valid_from=row["valid_from"],
    )


def session(row: Record) -> SessionRow:
    """Return the record of a row."""
    return SessionRow(
        session=row["session"],
        holder=user(row),
        client=row["client"],
        epoch=row["session_epoch"],
        refresh_key=row["refresh_key"],
        counter=row["counter"],
        rotated_at=row["rotated_at"],
        created_at=row["since"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        read_at=row["read_at"],
        address=row["address"],
    )


def key(row: Record) -> KeyRow:
    """Return the record of a row."""
    return KeyRow(
        key=row["key"],
        holder=user(row),
        secret_hash=row["secret_hash"],
        label=row["label"],
        created_at=row["since"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        read_at=row["read_at"],
        scopes=_words(row["scopes"]),
        last_used_at=row["last_used_at"],
    )


def signing_key(row: Record) -> SigningKeyRow:
    """Return the record of a row."""
    return SigningKeyRow(**dict(row))


def invite(row: Record) -> InviteRow:
    """Return the record of a row."""
    return InviteRow(
        invite=row["id"],
        roles=_words(row["roles"]),
        created_by=row["created_by"],
        created_at=row["created_at"],
        ends_at=row["ends_at"],
    )


def audit_row(row: Record) -> AuditRow:
    """Return the record of a row."""
    entry = AuditEntry(
        actor=row["actor"],
        actor_kind=row["actor_kind"],
        action=row["action"],
        subject=row["subject"],
        address=row["address"],
        detail=msgspec.json.decode(row["detail"], type=dict[str, str]),
    )
    return AuditRow(seq=row["seq"], at=row["at"], entry=entry)


def event(row: Record) -> AuthEvent:
    """Return the record of a row."""
    holder = row["holder"]
    return AuthEvent(
        seq=row["seq"],
        kind=AuthKind(row["kind"]),
        at=row["at"],
        user=row["user_id"],
        session=row["session_id"],
        key=row["key_id"],
        kid=row["kid"],
        holder=None if holder is None else msgspec.json.decode(holder, type=UserRow),
        reason=row["reason"],
    )


@functools.lru_cache(maxsize=1_024)  # there are few, and a snapshot reads them for each user
def _words(text: str) -> tuple[str, ...]:
    return msgspec.json.decode(text, type=tuple[str, ...])
