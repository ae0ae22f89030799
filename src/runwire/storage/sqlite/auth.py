"""The auth tables on SQLite. Each change is one write: the change, its number, its event."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from runwire.errors import Conflict, NotFound
from runwire.protocol.ids import new_id
from runwire.storage.base_auth import (
    AuthEvent,
    AuthKind,
    AuthPage,
    AuthSnapshot,
    KeyRow,
    SessionRow,
    SigningKeyRow,
    TicketRow,
    UserRow,
)
from runwire.storage.clock import now_ms
from runwire.storage.sql import load
from runwire.storage.sqlite.database import SqliteDatabase

__all__ = ["SqliteAuthStore"]

_SQL: Final = load("sqlite_auth.sql")

_Row = tuple[Any, ...]


class SqliteAuthStore:
    """The `AuthStore` of a data file.

    Args:
        database: the open file; its writer thread serialises all changes, so numbers are commit-ordered.
        clock: the database's clock, ms UTC; on SQLite that of the process that owns the file.
    """

    def __init__(self, database: SqliteDatabase, *, clock: Callable[[], int] = now_ms) -> None:
        self._database = database
        self._clock = clock

    # Users

    async def create_user(
        self, name: str, *, roles: Sequence[str] = ("user",), password_hash: str | None = None
    ) -> UserRow:
        """Create an active user. Raises Conflict."""
        user, at = new_id("usr"), self._clock()

        def work(db: sqlite3.Connection) -> UserRow:
            row = _one(db, "add_user", user, name, _roles_text(roles), password_hash, at)
            if row is None:
                raise Conflict(f"There is a user {name} already.", field="name")
            return _changed(db, AuthKind.USER_CREATED, at, _user(row))

        return await self._database.write(work)

    async def user_by_id(self, user: str) -> UserRow | None:
        """Return a user, if there is one."""
        return await self._database.read(lambda db: _maybe(_one(db, "user_by_id", user), _user))

    async def user_by_name(self, name: str) -> UserRow | None:
        """Return the user of that exact name, if there is one."""
        return await self._database.read(lambda db: _maybe(_one(db, "user_by_name", name), _user))

    async def list_users(self, *, after: str | None = None, limit: int = 100) -> list[UserRow]:
        """List users by name."""
        return await self._database.read(lambda db: [_user(row) for row in _all(db, "list_users", after or "", limit)])

    async def disable_user(self, user: str) -> UserRow:
        """Withdraw all access. Idempotent. Raises NotFound."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> UserRow:
            row = _one(db, "disable_user", user)
            if row is None:
                return _existing(db, user)
            db.execute(_SQL["revoke_keys_of_user"], (user, at, "user_disabled"))
            return _changed(db, AuthKind.USER_DISABLED, at, _user(row))

        return await self._database.write(work)

    async def enable_user(self, user: str) -> UserRow:
        """Let a disabled user sign in again; revives nothing. Idempotent. Raises NotFound."""
        return await self._change_user(AuthKind.USER_ENABLED, user, "enable_user")

    async def set_roles(self, user: str, roles: Sequence[str]) -> UserRow:
        """Replace the roles. Idempotent. Raises NotFound."""
        return await self._change_user(AuthKind.ROLES_CHANGED, user, "set_roles", _roles_text(roles))

    async def _change_user(self, kind: AuthKind, user: str, block: str, *values: object) -> UserRow:
        at = self._clock()

        def work(db: sqlite3.Connection) -> UserRow:
            row = _one(db, block, user, *values)
            return _existing(db, user) if row is None else _changed(db, kind, at, _user(row))

        return await self._database.write(work)

    async def password_hash(self, user: str) -> str | None:
        """Return the argon2 hash, None if there is none."""
        row = await self._database.read(lambda db: _one(db, "password_hash", user))
        return None if row is None else row[0]

    async def set_password(self, user: str, password_hash: str, *, keep_session: str | None = None) -> UserRow:
        """Replace the password and revoke every other session. Raises NotFound."""
        at, reason = self._clock(), "credential_changed"

        def work(db: sqlite3.Connection) -> UserRow:
            row = _one(db, "set_password", user, password_hash)
            if row is None:
                raise _unknown_user()
            for (session,) in _all(db, "revoke_other_sessions", user, keep_session or "", at, reason):
                _append(db, AuthKind.SESSION_REVOKED, at, user=user, session=session, reason=reason)
            return _changed(db, AuthKind.CREDENTIAL_CHANGED, at, _user(row))

        return await self._database.write(work)

    # Sessions

    async def create_session(
        self, user: str, *, session: str, epoch: int, client: str, refresh_key: bytes, ttl_s: int
    ) -> SessionRow:
        """Create a session, iff the user is active and still in that epoch. Raises Conflict."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> SessionRow:
            if _one(db, "add_session", session, user, epoch, client, refresh_key, at, at + ttl_s * 1000) is None:
                raise Conflict("Access was withdrawn meanwhile; sign in again.")
            _append(db, AuthKind.SESSION_CREATED, at, user=user, session=session)
            return _session(_one(db, "session", session) or (), at)

        return await self._database.write(work)

    async def session(self, session: str) -> SessionRow | None:
        """Return a session with its holder, live or not."""
        row = await self._database.read(lambda db: _one(db, "session", session))
        return None if row is None else _session(row, self._clock())

    async def rotate_session(self, session: str, *, counter: int) -> bool:
        """Move the counter by one, iff it is there and the session is live."""
        at = self._clock()
        row = await self._database.write(lambda db: _one(db, "rotate_session", session, counter, at))
        return row is not None

    async def revoke_session(self, session: str, *, reason: str) -> bool:
        """End a session for good; returns whether it was live."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> bool:
            row = _one(db, "revoke_session", session, at, reason)
            if row is not None:
                _append(db, AuthKind.SESSION_REVOKED, at, user=row[0], session=session, reason=reason)
            return row is not None

        return await self._database.write(work)

    # API keys

    async def create_key(
        self, user: str, *, key: str, secret_hash: bytes, label: str = "", ttl_s: int | None = None
    ) -> KeyRow:
        """Create an API key. Raises NotFound, Conflict."""
        at = self._clock()
        expires_at = None if ttl_s is None else at + ttl_s * 1000

        def work(db: sqlite3.Connection) -> KeyRow:
            if _existing(db, user).status != "active":
                raise Conflict("This user is disabled; enable it first.")
            db.execute(_SQL["add_key"], (key, user, secret_hash, label, at, expires_at))
            _append(db, AuthKind.KEY_CREATED, at, user=user, key=key)
            return _key(_one(db, "key", key) or (), at)

        return await self._database.write(work)

    async def key(self, key: str) -> KeyRow | None:
        """Return an API key with its holder, live or not."""
        row = await self._database.read(lambda db: _one(db, "key", key))
        return None if row is None else _key(row, self._clock())

    async def keys(self, keys: Sequence[str]) -> dict[str, KeyRow]:
        """Return those API keys that there are, by id, live or not."""
        wanted = msgspec.json.encode(list(keys)).decode()
        rows = await self._database.read(lambda db: _all(db, "keys", wanted))
        at = self._clock()
        return {row[0]: _key(row, at) for row in rows}

    async def list_keys(self, user: str) -> list[KeyRow]:
        """List a user's API keys, newest first, revoked ones too."""
        rows = await self._database.read(lambda db: _all(db, "list_keys", user))
        at = self._clock()
        return [_key(row, at) for row in rows]

    async def revoke_key(self, key: str, *, reason: str) -> bool:
        """End an API key for good; returns whether it was live."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> bool:
            row = _one(db, "revoke_key", key, at, reason)
            if row is not None:
                _append(db, AuthKind.KEY_REVOKED, at, user=row[0], key=key, reason=reason)
            return row is not None

        return await self._database.write(work)

    # Signing keys

    async def create_signing_key(self, kid: str, private_jwk: bytes) -> list[SigningKeyRow]:
        """Create a signing key iff there is none, and return those there are."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> list[SigningKeyRow]:
            if _one(db, "add_signing_key_if_none", kid, private_jwk, at) is not None:
                _append(db, AuthKind.SIGNING_KEY_CREATED, at, kid=kid)
            return _signing_keys(db)

        return await self._database.write(work)

    async def signing_keys(self) -> list[SigningKeyRow]:
        """Return the signing keys in force, oldest first."""
        return await self._database.read(_signing_keys)

    # One-time secrets

    async def create_link(self, user: str, *, secret_hash: bytes, ttl_s: int) -> None:
        """Keep the hash of a one-time sign-in link. Raises NotFound."""
        at = self._clock()

        def work(db: sqlite3.Connection) -> None:
            _existing(db, user)
            db.execute(_SQL["drop_old_links"], (at,))
            db.execute(_SQL["add_link"], (secret_hash, user, at + ttl_s * 1000))

        await self._database.write(work)

    async def consume_link(self, secret_hash: bytes) -> str | None:
        """Delete a link and return its user; None if unknown, used or over its time."""
        row = await self._database.write(lambda db: _one(db, "consume_link", secret_hash))
        return row[0] if row is not None and row[1] > self._clock() else None

    async def create_ticket(self, ticket: TicketRow, *, secret_hash: bytes, ttl_s: int) -> None:
        """Keep the hash of a one-time ticket for a socket."""
        at, text = self._clock(), msgspec.json.encode(ticket).decode()

        def work(db: sqlite3.Connection) -> None:
            db.execute(_SQL["drop_old_tickets"], (at,))
            db.execute(_SQL["add_ticket"], (secret_hash, text, at + ttl_s * 1000))

        await self._database.write(work)

    async def consume_ticket(self, secret_hash: bytes) -> TicketRow | None:
        """Delete a ticket and return it; None if unknown, used or over its time."""
        row = await self._database.write(lambda db: _one(db, "consume_ticket", secret_hash))
        if row is None or row[1] <= self._clock():
            return None
        return msgspec.json.decode(row[0], type=TicketRow)

    # The log of changes

    async def events_after(self, cursor: int, *, limit: int = 500) -> AuthPage:
        """Read the log of changes with seq > cursor, oldest first, and where it ends."""

        def work(db: sqlite3.Connection) -> AuthPage:
            generation, head = _head(db)
            events = [_event(row) for row in _all(db, "events_after", cursor, head, limit)] if head > cursor else []
            return AuthPage(generation=generation, head=head, read_at=self._clock(), events=events)

        return await self._database.read(work)

    async def snapshot(self, *, revoked_within_s: int) -> AuthSnapshot:
        """Read the state that the log has led to, in one read transaction."""

        def work(db: sqlite3.Connection) -> AuthSnapshot:
            at = self._clock()
            since = at - revoked_within_s * 1000
            generation, head = _head(db)
            return AuthSnapshot(
                generation=generation,
                head=head,
                read_at=at,
                users=[_user(row) for row in _all(db, "all_users")],
                revoked_sessions=[(row[0], row[1]) for row in _all(db, "revoked_sessions", since)],
                revoked_keys=[(row[0], row[1]) for row in _all(db, "revoked_keys", since)],
            )

        return await self._database.read(work)


def _one(db: sqlite3.Connection, block: str, *values: object) -> _Row | None:
    # Fetch all: a statement with RETURNING that is not read to its end blocks the COMMIT.
    rows = _all(db, block, *values)
    return rows[0] if rows else None


def _all(db: sqlite3.Connection, block: str, *values: object) -> list[_Row]:
    return db.execute(_SQL[block], values).fetchall()


def _maybe(row: _Row | None, read: Callable[[_Row], UserRow]) -> UserRow | None:
    return None if row is None else read(row)


def _unknown_user() -> NotFound:
    return NotFound("There is no such user.", field="user")


def _existing(db: sqlite3.Connection, user: str) -> UserRow:
    row = _one(db, "user_by_id", user)
    if row is None:
        raise _unknown_user()
    return _user(row)


def _changed(db: sqlite3.Connection, kind: AuthKind, at: int, holder: UserRow) -> UserRow:
    _append(db, kind, at, user=holder.user, holder=holder)
    return holder


def _append(
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
    (seq,) = _one(db, "next_seq") or (0,)
    state = None if holder is None else msgspec.json.encode(holder).decode()
    db.execute(_SQL["add_event"], (seq, kind, at, user, session, key, kid, state, reason))


def _head(db: sqlite3.Connection) -> tuple[str, int]:
    generation, head = _one(db, "head") or ("", 0)
    return generation, head


def _event(row: _Row) -> AuthEvent:
    seq, kind, at, user, session, key, kid, holder, reason = row
    state = None if holder is None else msgspec.json.decode(holder, type=UserRow)
    return AuthEvent(
        seq=seq,
        kind=AuthKind(kind),
        at=at,
        user=user,
        session=session,
        key=key,
        kid=kid,
        holder=state,
        reason=reason,
    )


def _roles_text(roles: Sequence[str]) -> str:
    return msgspec.json.encode(sorted(set(roles))).decode()


def _user(row: _Row) -> UserRow:
    user, name, status, epoch, roles, created_at = row
    return UserRow(
        user=user,
        name=name,
        status=status,
        epoch=epoch,
        roles=msgspec.json.decode(roles, type=tuple[str, ...]),
        created_at=created_at,
    )


def _session(row: _Row, read_at: int) -> SessionRow:
    session, client, epoch, refresh_key, counter, rotated_at, created_at, expires_at, revoked_at = row[:9]
    return SessionRow(
        session=session,
        holder=_user(row[9:]),
        client=client,
        epoch=epoch,
        refresh_key=refresh_key,
        counter=counter,
        rotated_at=rotated_at,
        created_at=created_at,
        expires_at=expires_at,
        revoked_at=revoked_at,
        read_at=read_at,
    )


def _key(row: _Row, read_at: int) -> KeyRow:
    key, secret_hash, label, created_at, expires_at, revoked_at = row[:6]
    return KeyRow(
        key=key,
        holder=_user(row[6:]),
        secret_hash=secret_hash,
        label=label,
        created_at=created_at,
        expires_at=expires_at,
        revoked_at=revoked_at,
        read_at=read_at,
    )


def _signing_keys(db: sqlite3.Connection) -> list[SigningKeyRow]:
    rows = _all(db, "signing_keys")
    return [SigningKeyRow(kid=kid, private_jwk=jwk, created_at=at) for kid, jwk, at in rows]
