"""Rows of the auth tables on SQLite as records, and what every change of them writes besides."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from runwire.errors import NotFound
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
from runwire.storage.clock import now_ms
from runwire.storage.sql import load
from runwire.storage.sqlite.database import SqliteDatabase

__all__ = [
    "SQL",
    "AuthTables",
    "Row",
    "all_rows",
    "append",
    "audit_row",
    "changed",
    "event",
    "existing",
    "invite",
    "key",
    "key_revoked",
    "listed",
    "maybe",
    "note",
    "one",
    "session",
    "signing_keys",
    "user",
]

SQL: Final = load("sqlite_auth.sql")

Row = tuple[Any, ...]


class AuthTables:
    """The auth tables of a data file.

    Args:
        database: the open file; its writer thread serialises all changes, so numbers are commit-ordered.
        clock: the database's clock, ms UTC; on SQLite that of the process that owns the file.
    """

    def __init__(self, database: SqliteDatabase, *, clock: Callable[[], int] = now_ms) -> None:
        self._database = database
        self._clock = clock


def one(db: sqlite3.Connection, block: str, *values: object) -> Row | None:
    """Execute a statement and return its first row."""
    # Fetch all: a statement with RETURNING that is not read to its end blocks the COMMIT.
    rows = all_rows(db, block, *values)
    return rows[0] if rows else None


def all_rows(db: sqlite3.Connection, block: str, *values: object) -> list[Row]:
    """Execute a statement and return its rows."""
    return db.execute(SQL[block], values).fetchall()


def maybe(row: Row | None) -> UserRow | None:
    """Return the user of a row, if there is one."""
    return None if row is None else user(row)


def existing(db: sqlite3.Connection, ident: str) -> UserRow:
    """Return a user who may be changed. Raises NotFound."""
    found = maybe(one(db, "user_by_id", ident))
    if found is None or found.status == "deleted":
        raise NotFound("There is no such user.", field="user")
    return found


def changed(db: sqlite3.Connection, kind: AuthKind, at: int, holder: UserRow, *, reason: str | None = None) -> UserRow:
    """Append that a user was changed."""
    append(db, kind, at, user=holder.user, holder=holder, reason=reason)
    return holder


def append(
    db: sqlite3.Connection,
    kind: AuthKind,
    at: int,
    *,
    user: str | None = None,
    session: str | None = None,
    key: str | None = None,
    kid: str | None = None,
    holder: UserRow | None = None,
    reason: str | None = None,
) -> None:
    """Append to the log of changes."""
    (seq,) = one(db, "next_seq") or (0,)
    state = None if holder is None else msgspec.json.encode(holder).decode()
    db.execute(SQL["add_event"], (seq, kind, at, user, session, key, kid, state, reason))


def key_revoked(db: sqlite3.Connection, user: str, key: str, at: int, reason: str) -> None:
    """Append that a key has ended, and end the sessions whose client it is."""
    append(db, AuthKind.KEY_REVOKED, at, user=user, key=key, reason=reason)
    for (ended,) in all_rows(db, "revoke_sessions_of_key", user, key, at):
        append(db, AuthKind.SESSION_REVOKED, at, user=user, session=ended, reason="key_revoked")


def note(db: sqlite3.Connection, audit: AuditEntry | None, at: int, subject: str | None) -> None:
    """Append to the audit, if there is something to."""
    if audit is None:
        return
    entry = storable(audit, subject=subject)
    detail = msgspec.json.encode(entry.detail).decode()
    values = (at, entry.actor, entry.actor_kind, entry.action, entry.subject, entry.address, detail)
    db.execute(SQL["add_audit"], values)


def listed(words: Iterable[str]) -> str:
    """Return roles or scopes as they are stored."""
    return msgspec.json.encode(sorted(set(words))).decode()


def user(row: Row) -> UserRow:
    """Return the record of a row."""
    ident, name, status, epoch, roles, created_at, valid_from = row
    return UserRow(
        user=ident,
        name=name,
        status=status,
        epoch=epoch,
        roles=_words(roles),
        created_at=created_at,
        valid_from=valid_from,
    )


def session(row: Row, read_at: int) -> SessionRow:
    """Return the record of a row."""
    ident, client, epoch, refresh_key, counter, rotated_at, created_at, expires_at, revoked_at, address = row[:10]
    return SessionRow(
        session=ident,
        holder=user(row[10:]),
        client=client,
        epoch=epoch,
        refresh_key=refresh_key,
        counter=counter,
        rotated_at=rotated_at,
        created_at=created_at,
        expires_at=expires_at,
        revoked_at=revoked_at,
        read_at=read_at,
        address=address,
    )


def key(row: Row, read_at: int) -> KeyRow:
    """Return the record of a row."""
    ident, secret_hash, label, created_at, expires_at, revoked_at, scopes, last_used_at = row[:8]
    return KeyRow(
        key=ident,
        holder=user(row[8:]),
        secret_hash=secret_hash,
        label=label,
        created_at=created_at,
        expires_at=expires_at,
        revoked_at=revoked_at,
        read_at=read_at,
        scopes=_words(scopes),
        last_used_at=last_used_at,
    )


def signing_keys(db: sqlite3.Connection, at: int, *, with_ended: bool = False) -> list[SigningKeyRow]:
    """Read the signing keys."""
    names = SigningKeyRow.__struct_fields__
    rows = all_rows(db, "signing_keys", at, with_ended)
    return [SigningKeyRow(**dict(zip(names, row, strict=True))) for row in rows]


def invite(row: Row) -> InviteRow:
    """Return the record of a row."""
    ident, roles, created_by, created_at, ends_at = row
    return InviteRow(invite=ident, roles=_words(roles), created_by=created_by, created_at=created_at, ends_at=ends_at)


def audit_row(row: Row) -> AuditRow:
    """Return the record of a row."""
    seq, at, actor, actor_kind, action, subject, address, detail = row
    entry = AuditEntry(
        actor=actor,
        actor_kind=actor_kind,
        action=action,
        subject=subject,
        address=address,
        detail=msgspec.json.decode(detail, type=dict[str, str]),
    )
    return AuditRow(seq=seq, at=at, entry=entry)


def event(row: Row) -> AuthEvent:
    """Return the record of a row."""
    seq, kind, at, ident, session_id, key_id, kid, holder, reason = row
    state = None if holder is None else msgspec.json.decode(holder, type=UserRow)
    return AuthEvent(
        seq=seq,
        kind=AuthKind(kind),
        at=at,
        user=ident,
        session=session_id,
        key=key_id,
        kid=kid,
        holder=state,
        reason=reason,
    )


@functools.lru_cache(maxsize=1_024)  # there are few, and a snapshot reads them for each user
def _words(text: str) -> tuple[str, ...]:
    return msgspec.json.decode(text, type=tuple[str, ...])
