"""The port of the auth service's tables: users, sessions, keys, one-time secrets, and the log of changes.

Every change is one write and appends its `auth_event` rows in it, numbered from one counter row that the
write locks: numbers are commit-ordered, so a reader with a cursor never skips a late commit.
What no reader's view depends on appends nothing: a live session's next refresh token, links, tickets.

Times are the database's clock (ms UTC): methods take lifetimes, rows carry `read_at`, so that two
processes with different clocks decide alike. Secrets never come here: only their SHA-256, or a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal, Protocol

import msgspec

__all__ = [
    "AuthEvent",
    "AuthKind",
    "AuthPage",
    "AuthSnapshot",
    "AuthStore",
    "KeyRow",
    "SessionRow",
    "SigningKeyRow",
    "TicketRow",
    "UserRow",
    "UserStatus",
]

UserStatus = Literal["active", "disabled"]


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable record of the port."""


class AuthKind(StrEnum):
    """What happened, as a fact. The names follow OpenID CAEP 1.0 where it has one."""

    USER_CREATED = "user_created"
    USER_DISABLED = "user_disabled"
    USER_ENABLED = "user_enabled"
    ROLES_CHANGED = "roles_changed"  # CAEP token-claims-change
    CREDENTIAL_CHANGED = "credential_changed"  # CAEP credential-change
    SESSION_CREATED = "session_created"  # CAEP session-established
    SESSION_REVOKED = "session_revoked"  # CAEP session-revoked
    KEY_CREATED = "key_created"
    KEY_REVOKED = "key_revoked"
    SIGNING_KEY_CREATED = "signing_key_created"


class UserRow(_Value, frozen=True):
    """A user as everybody must see it now."""

    user: str  # "usr_…"; never reused
    name: str  # unique; what a person signs in with
    status: UserStatus
    epoch: int  # from 1; tokens of an earlier epoch are dead for good
    roles: tuple[str, ...]  # sorted
    created_at: int


class SessionRow(_Value, frozen=True):
    """A sign-in and the state of its refresh tokens: one row, no token table."""

    session: str  # "ses_…"
    holder: UserRow  # as read in the same instant
    client: str
    epoch: int  # of the user when it was made
    refresh_key: bytes  # HMAC key of this session's refresh tokens
    counter: int  # number of the only refresh token that may rotate
    rotated_at: int
    created_at: int
    expires_at: int  # absolute end
    revoked_at: int | None
    read_at: int  # the database's clock when this was read

    def __repr__(self) -> str:
        """Show no key."""
        return f"SessionRow(session={self.session!r}, user={self.holder.user!r}, counter={self.counter})"


class KeyRow(_Value, frozen=True):
    """An API key; its secret exists only with its owner."""

    key: str  # "key_…"
    holder: UserRow
    secret_hash: bytes  # SHA-256
    label: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    read_at: int


class SigningKeyRow(_Value, frozen=True):
    """A key that signs access tokens."""

    kid: str
    private_jwk: bytes  # JSON; stays in the auth service
    created_at: int

    def __repr__(self) -> str:
        """Show no key."""
        return f"SigningKeyRow(kid={self.kid!r})"


class TicketRow(_Value, frozen=True):
    """An identity that waits for one socket, bound to the Origin that asked."""

    user: str
    session: str | None
    key: str | None
    epoch: int
    origin: str | None
    ends_at: int | None  # when the identity itself ends, ms UTC


class AuthEvent(_Value, frozen=True):
    """One fact of the log. It carries the whole state it leads to, so applying it twice is harmless."""

    seq: int  # from 1, dense, commit-ordered
    kind: AuthKind
    at: int
    user: str | None = None
    session: str | None = None
    key: str | None = None
    kid: str | None = None
    holder: UserRow | None = None  # the user after the change, for kinds that change one
    reason: str | None = None  # a stable word, e.g. "signed_out", "refresh_reused"


class AuthPage(_Value, frozen=True):
    """A stretch of the log."""

    generation: str  # of the auth tables; another one than known: take a snapshot
    head: int  # last seq when the page was read; below the reader's cursor: take a snapshot
    read_at: int
    events: list[AuthEvent]  # seq ascending, first one > cursor


class AuthSnapshot(_Value, frozen=True):
    """All a view needs, read in one instant; events after `head` continue it."""

    generation: str
    head: int
    read_at: int
    users: list[UserRow]
    revoked_sessions: list[tuple[str, int]]  # (session, revoked_at), oldest first
    revoked_keys: list[tuple[str, int]]  # (key, revoked_at), oldest first


class AuthStore(Protocol):
    """What the auth service keeps. Each change appends to `auth_event` in the same write."""

    async def create_user(
        self, name: str, *, roles: Sequence[str] = ("user",), password_hash: str | None = None
    ) -> UserRow:
        """Create an active user.

        Raises:
            Conflict: the name is taken.
        """
        ...

    async def user_by_id(self, user: str) -> UserRow | None:
        """Return a user, if there is one."""
        ...

    async def user_by_name(self, name: str) -> UserRow | None:
        """Return the user of that exact name, if there is one."""
        ...

    async def list_users(self, *, after: str | None = None, limit: int = 100) -> list[UserRow]:
        """List users by name; `after` is the last name of the previous page."""
        ...

    async def disable_user(self, user: str) -> UserRow:
        """Withdraw all access: status disabled, epoch moved, API keys revoked. Idempotent; a repeat writes nothing.

        Raises:
            NotFound: no such user.

        Promises: sessions, tokens and API keys made before this stay dead after `enable_user`.
        """
        ...

    async def enable_user(self, user: str) -> UserRow:
        """Let a disabled user sign in again; revives nothing. Idempotent. Raises NotFound."""
        ...

    async def set_roles(self, user: str, roles: Sequence[str]) -> UserRow:
        """Replace the roles; the epoch stays, views show the new roles. Idempotent. Raises NotFound."""
        ...

    async def password_hash(self, user: str) -> str | None:
        """Return the argon2 hash, None if the user has no password or does not exist."""
        ...

    async def set_password(self, user: str, password_hash: str, *, keep_session: str | None = None) -> UserRow:
        """Replace the password and revoke every other session of the user (ASVS 7.4.3). Raises NotFound."""
        ...

    async def create_session(
        self, user: str, *, session: str, epoch: int, client: str, refresh_key: bytes, ttl_s: int
    ) -> SessionRow:
        """Create a session, iff the user is active and still in that epoch.

        Raises:
            Conflict: access was withdrawn between the check of the credential and this write.
        """
        ...

    async def session(self, session: str) -> SessionRow | None:
        """Return a session with its holder, live or not."""
        ...

    async def rotate_session(self, session: str, *, counter: int) -> bool:
        """Move the counter from `counter` to `counter + 1`, iff it is there and the session is live.

        Returns:
            Whether this call moved it. At most one of any number of concurrent calls does.
        """
        ...

    async def revoke_session(self, session: str, *, reason: str) -> bool:
        """End a session for good. Returns whether it was live; a repeat writes nothing."""
        ...

    async def create_key(
        self, user: str, *, key: str, secret_hash: bytes, label: str = "", ttl_s: int | None = None
    ) -> KeyRow:
        """Create an API key.

        Raises:
            NotFound: no such user.
            Conflict: the user is disabled.
        """
        ...

    async def key(self, key: str) -> KeyRow | None:
        """Return an API key with its holder, live or not."""
        ...

    async def keys(self, keys: Sequence[str]) -> dict[str, KeyRow]:
        """Return those of 0..1,000 API keys that there are, by id, live or not, in one read.

        Promises: all are as of one instant; a crowd that comes at once costs one read, not one each.
        """
        ...

    async def list_keys(self, user: str) -> list[KeyRow]:
        """List a user's API keys, newest first, revoked ones too."""
        ...

    async def revoke_key(self, key: str, *, reason: str) -> bool:
        """End an API key for good. Returns whether it was live; a repeat writes nothing."""
        ...

    async def create_signing_key(self, kid: str, private_jwk: bytes) -> list[SigningKeyRow]:
        """Create a signing key iff there is none, and return those there are, oldest first.

        Any number of processes may start at once: they end up with the same key.
        """
        ...

    async def signing_keys(self) -> list[SigningKeyRow]:
        """Return the signing keys in force, oldest first."""
        ...

    async def create_link(self, user: str, *, secret_hash: bytes, ttl_s: int) -> None:
        """Keep the hash of a one-time sign-in link. Raises NotFound."""
        ...

    async def consume_link(self, secret_hash: bytes) -> str | None:
        """Delete a link and return its user; None if unknown, used or over its time. One winner."""
        ...

    async def create_ticket(self, ticket: TicketRow, *, secret_hash: bytes, ttl_s: int) -> None:
        """Keep the hash of a one-time ticket for a socket."""
        ...

    async def consume_ticket(self, secret_hash: bytes) -> TicketRow | None:
        """Delete a ticket and return it; None if unknown, used or over its time. One winner."""
        ...

    async def events_after(self, cursor: int, *, limit: int = 500) -> AuthPage:
        """Read the log of changes with seq > cursor, oldest first, and where it ends."""
        ...

    async def snapshot(self, *, revoked_within_s: int) -> AuthSnapshot:
        """Read the state that the log has led to; revocations only of the last `revoked_within_s`."""
        ...
