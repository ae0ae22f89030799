"""The auth tables in memory: for tests and trials. Same promises, no durability."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any

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

__all__ = ["MemoryAuthStore"]


class MemoryAuthStore:
    """An `AuthStore` of dictionaries; a lock makes each call one step for all event loops.

    Args:
        clock: the database's clock, ms UTC.
    """

    def __init__(self, *, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # held for dictionary work only, never across an await
        self._generation = secrets.token_hex(8)
        self._events: list[AuthEvent] = []
        self._users: dict[str, UserRow] = {}
        self._names: dict[str, str] = {}
        self._passwords: dict[str, str] = {}
        self._sessions: dict[str, SessionRow] = {}
        self._keys: dict[str, KeyRow] = {}
        self._signing_keys: list[SigningKeyRow] = []
        self._links: dict[bytes, tuple[str, int]] = {}
        self._tickets: dict[bytes, tuple[TicketRow, int]] = {}

    # Users

    async def create_user(
        self, name: str, *, roles: Sequence[str] = ("user",), password_hash: str | None = None
    ) -> UserRow:
        """Create an active user. Raises Conflict."""
        with self._lock:
            if name in self._names:
                raise Conflict(f"There is a user {name} already.", field="name")
            user = new_id("usr")
            self._names[name] = user
            if password_hash is not None:
                self._passwords[user] = password_hash
            row = UserRow(
                user=user,
                name=name,
                status="active",
                epoch=1,
                roles=tuple(sorted(set(roles))),
                created_at=self._clock(),
            )
            return self._changed(AuthKind.USER_CREATED, row)

    async def user_by_id(self, user: str) -> UserRow | None:
        """Return a user, if there is one."""
        with self._lock:
            return self._users.get(user)

    async def user_by_name(self, name: str) -> UserRow | None:
        """Return the user of that exact name, if there is one."""
        with self._lock:
            return self._users.get(self._names.get(name, ""))

    async def list_users(self, *, after: str | None = None, limit: int = 100) -> list[UserRow]:
        """List users by name."""
        with self._lock:
            names = sorted(name for name in self._names if name > (after or ""))[:limit]
            return [self._users[self._names[name]] for name in names]

    async def disable_user(self, user: str) -> UserRow:
        """Withdraw all access. Idempotent. Raises NotFound."""
        with self._lock:
            row = self._existing(user)
            if row.status == "disabled":
                return row
            at = self._clock()
            for key in [k for k in self._keys.values() if k.holder.user == user and k.revoked_at is None]:
                self._keys[key.key] = _with(key, revoked_at=at)
            return self._changed(AuthKind.USER_DISABLED, _with(row, status="disabled", epoch=row.epoch + 1))

    async def enable_user(self, user: str) -> UserRow:
        """Let a disabled user sign in again; revives nothing. Idempotent. Raises NotFound."""
        with self._lock:
            row = self._existing(user)
            return row if row.status == "active" else self._changed(AuthKind.USER_ENABLED, _with(row, status="active"))

    async def set_roles(self, user: str, roles: Sequence[str]) -> UserRow:
        """Replace the roles. Idempotent. Raises NotFound."""
        with self._lock:
            row = self._existing(user)
            wanted = tuple(sorted(set(roles)))
            return row if row.roles == wanted else self._changed(AuthKind.ROLES_CHANGED, _with(row, roles=wanted))

    async def password_hash(self, user: str) -> str | None:
        """Return the argon2 hash, None if there is none."""
        with self._lock:
            return self._passwords.get(user)

    async def set_password(self, user: str, password_hash: str, *, keep_session: str | None = None) -> UserRow:
        """Replace the password and revoke every other session. Raises NotFound."""
        with self._lock:
            row = self._existing(user)
            self._passwords[user] = password_hash
            for session in list(self._sessions.values()):
                if session.holder.user == user and session.session != keep_session:
                    self._revoke_session(session, reason="credential_changed")
            return self._changed(AuthKind.CREDENTIAL_CHANGED, row)

    # Sessions

    async def create_session(
        self, user: str, *, session: str, epoch: int, client: str, refresh_key: bytes, ttl_s: int
    ) -> SessionRow:
        """Create a session, iff the user is active and still in that epoch. Raises Conflict."""
        with self._lock:
            holder, at = self._users.get(user), self._clock()
            if holder is None or holder.status != "active" or holder.epoch != epoch:
                raise Conflict("Access was withdrawn meanwhile; sign in again.")
            row = SessionRow(
                session=session,
                holder=holder,
                client=client,
                epoch=epoch,
                refresh_key=refresh_key,
                counter=1,
                rotated_at=at,
                created_at=at,
                expires_at=at + ttl_s * 1000,
                revoked_at=None,
                read_at=at,
            )
            self._sessions[session] = row
            self._append(AuthKind.SESSION_CREATED, user=user, session=session)
            return row

    async def session(self, session: str) -> SessionRow | None:
        """Return a session with its holder, live or not."""
        with self._lock:
            return self._session(session)

    async def rotate_session(self, session: str, *, counter: int) -> bool:
        """Move the counter by one, iff it is there and the session is live."""
        with self._lock:
            row, at = self._session(session), self._clock()
            if row is None or row.counter != counter or row.revoked_at is not None or row.expires_at <= at:
                return False
            if row.holder.status != "active" or row.holder.epoch != row.epoch:
                return False
            self._sessions[session] = _with(row, counter=counter + 1, rotated_at=at)
            return True

    async def revoke_session(self, session: str, *, reason: str) -> bool:
        """End a session for good; returns whether it was live."""
        with self._lock:
            row = self._sessions.get(session)
            return row is not None and self._revoke_session(row, reason=reason)

    # API keys

    async def create_key(
        self, user: str, *, key: str, secret_hash: bytes, label: str = "", ttl_s: int | None = None
    ) -> KeyRow:
        """Create an API key. Raises NotFound, Conflict."""
        with self._lock:
            holder, at = self._existing(user), self._clock()
            if holder.status != "active":
                raise Conflict("This user is disabled; enable it first.")
            row = KeyRow(
                key=key,
                holder=holder,
                secret_hash=secret_hash,
                label=label,
                created_at=at,
                expires_at=None if ttl_s is None else at + ttl_s * 1000,
                revoked_at=None,
                read_at=at,
            )
            self._keys[key] = row
            self._append(AuthKind.KEY_CREATED, user=user, key=key)
            return row

    async def key(self, key: str) -> KeyRow | None:
        """Return an API key with its holder, live or not."""
        with self._lock:
            row = self._keys.get(key)
            return None if row is None else self._read(row)

    async def keys(self, keys: Sequence[str]) -> dict[str, KeyRow]:
        """Return those API keys that there are, by id, live or not."""
        with self._lock:
            return {key: self._read(self._keys[key]) for key in keys if key in self._keys}

    async def list_keys(self, user: str) -> list[KeyRow]:
        """List a user's API keys, newest first, revoked ones too."""
        with self._lock:
            rows = [self._read(row) for row in self._keys.values() if row.holder.user == user]
            return sorted(rows, key=lambda row: row.key, reverse=True)

    async def revoke_key(self, key: str, *, reason: str) -> bool:
        """End an API key for good; returns whether it was live."""
        with self._lock:
            row = self._keys.get(key)
            if row is None or row.revoked_at is not None:
                return False
            self._keys[key] = _with(row, revoked_at=self._clock())
            self._append(AuthKind.KEY_REVOKED, user=row.holder.user, key=key, reason=reason)
            return True

    # Signing keys

    async def create_signing_key(self, kid: str, private_jwk: bytes) -> list[SigningKeyRow]:
        """Create a signing key iff there is none, and return those there are."""
        with self._lock:
            if not self._signing_keys:
                self._signing_keys.append(SigningKeyRow(kid=kid, private_jwk=private_jwk, created_at=self._clock()))
                self._append(AuthKind.SIGNING_KEY_CREATED, kid=kid)
            return list(self._signing_keys)

    async def signing_keys(self) -> list[SigningKeyRow]:
        """Return the signing keys in force, oldest first."""
        with self._lock:
            return list(self._signing_keys)

    # One-time secrets

    async def create_link(self, user: str, *, secret_hash: bytes, ttl_s: int) -> None:
        """Keep the hash of a one-time sign-in link. Raises NotFound."""
        with self._lock:
            self._existing(user)
            at = self._clock()
            self._links = {known: held for known, held in self._links.items() if held[1] > at}
            self._links[secret_hash] = (user, at + ttl_s * 1000)

    async def consume_link(self, secret_hash: bytes) -> str | None:
        """Delete a link and return its user; None if unknown, used or over its time."""
        with self._lock:
            user, expires_at = self._links.pop(secret_hash, ("", 0))
            return user if expires_at > self._clock() else None

    async def create_ticket(self, ticket: TicketRow, *, secret_hash: bytes, ttl_s: int) -> None:
        """Keep the hash of a one-time ticket for a socket."""
        with self._lock:
            at = self._clock()
            self._tickets = {known: held for known, held in self._tickets.items() if held[1] > at}
            self._tickets[secret_hash] = (ticket, at + ttl_s * 1000)

    async def consume_ticket(self, secret_hash: bytes) -> TicketRow | None:
        """Delete a ticket and return it; None if unknown, used or over its time."""
        with self._lock:
            ticket, expires_at = self._tickets.pop(secret_hash, (None, 0))
            return ticket if expires_at > self._clock() else None

    # The log of changes

    async def events_after(self, cursor: int, *, limit: int = 500) -> AuthPage:
        """Read the log of changes with seq > cursor, oldest first, and where it ends."""
        with self._lock:
            return AuthPage(
                generation=self._generation,
                head=len(self._events),
                read_at=self._clock(),
                events=self._events[cursor : cursor + limit],
            )

    async def snapshot(self, *, revoked_within_s: int) -> AuthSnapshot:
        """Read the state that the log has led to."""
        with self._lock:
            at = self._clock()
            since = at - revoked_within_s * 1000
            sessions = [(s.session, s.revoked_at) for s in self._sessions.values() if s.revoked_at is not None]
            keys = [(k.key, k.revoked_at) for k in self._keys.values() if k.revoked_at is not None]
            return AuthSnapshot(
                generation=self._generation,
                head=len(self._events),
                read_at=at,
                users=[self._users[user] for user in sorted(self._users)],
                revoked_sessions=_recent(sessions, since),
                revoked_keys=_recent(keys, since),
            )

    # Below: only with the lock held

    def _existing(self, user: str) -> UserRow:
        row = self._users.get(user)
        if row is None:
            raise NotFound("There is no such user.", field="user")
        return row

    def _changed(self, kind: AuthKind, row: UserRow) -> UserRow:
        self._users[row.user] = row
        self._append(kind, user=row.user, holder=row)
        return row

    def _session(self, session: str) -> SessionRow | None:
        row = self._sessions.get(session)
        return None if row is None else self._read(row)

    def _read(self, row: Any) -> Any:
        """Return a session or key as a join would: with the holder and the clock of now."""
        return _with(row, holder=self._users[row.holder.user], read_at=self._clock())

    def _revoke_session(self, row: SessionRow, *, reason: str) -> bool:
        if row.revoked_at is not None:
            return False
        self._sessions[row.session] = _with(row, revoked_at=self._clock())
        self._append(AuthKind.SESSION_REVOKED, user=row.holder.user, session=row.session, reason=reason)
        return True

    def _append(self, kind: AuthKind, **fields: Any) -> None:
        self._events.append(AuthEvent(seq=len(self._events) + 1, kind=kind, at=self._clock(), **fields))


def _recent(revoked: list[tuple[str, int]], since: int) -> list[tuple[str, int]]:
    return sorted((entry for entry in revoked if entry[1] >= since), key=lambda entry: (entry[1], entry[0]))


def _with(row: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(row, **changes)
