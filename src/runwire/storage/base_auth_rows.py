"""What the auth tables say: the records of the port in `base_auth.py`. Times are the database's clock, ms UTC."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

__all__ = [
    "AuthEvent",
    "AuthKind",
    "AuthPage",
    "AuthSnapshot",
    "InviteRow",
    "KeyRow",
    "SessionRow",
    "SigningKeyRow",
    "TicketRow",
    "UserRow",
    "UserStatus",
]

UserStatus = Literal["active", "disabled", "deleted"]  # deleted: a tombstone; its id is never used again


class _Value(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An immutable record of the port; it holds no cycle, which spares the garbage collector (`events.EventData`)."""


class AuthKind(StrEnum):
    """What happened, as a fact. The names follow OpenID CAEP 1.0 where it has one."""

    USER_CREATED = "user_created"
    USER_DISABLED = "user_disabled"
    USER_ENABLED = "user_enabled"
    USER_DELETED = "user_deleted"  # RISC account-purged
    SIGNED_OUT_EVERYWHERE = "signed_out_everywhere"  # the epoch moved
    ROLES_CHANGED = "roles_changed"  # CAEP token-claims-change
    CREDENTIAL_CHANGED = "credential_changed"  # CAEP credential-change
    SESSION_CREATED = "session_created"  # CAEP session-established
    SESSION_REVOKED = "session_revoked"  # CAEP session-revoked
    KEY_CREATED = "key_created"
    KEY_REVOKED = "key_revoked"
    SIGNING_KEY_CREATED = "signing_key_created"
    SIGNING_KEY_REVOKED = "signing_key_revoked"  # whatever it signed is dead


class UserRow(_Value, frozen=True):
    """A user as everybody must see it now."""

    user: str  # "usr_…"; never reused
    name: str  # unique; what a person signs in with. Of a deleted user the id
    status: UserStatus
    epoch: int  # from 1; tokens of an earlier epoch are dead for good
    roles: tuple[str, ...]  # sorted
    created_at: int
    valid_from: int = 0  # when the epoch last moved, 0: never; a foreign token issued before it is dead


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
    address: str = ""  # where the sign-in came from; "": not known

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
    scopes: tuple[str, ...] = ("runwire",)  # sorted
    last_used_at: int | None = None  # coarse: a minute late at most


class SigningKeyRow(_Value, frozen=True):
    """A key that signs access tokens."""

    kid: str
    private_jwk: bytes  # JSON; stays in the auth service. Empty once revoked
    created_at: int
    activates_at: int = 0  # shown in the JWKS before, signs from then on
    retires_at: int | None = None  # in no JWKS from then on
    revoked_at: int | None = None

    def __repr__(self) -> str:
        """Show no key."""
        return f"SigningKeyRow(kid={self.kid!r})"


class InviteRow(_Value, frozen=True):
    """Leave to register once; whoever has its secret may."""

    invite: str  # the first 16 hex digits of the secret's hash
    roles: tuple[str, ...]  # that the new user gets, sorted
    created_by: str | None  # a user's id; None: on the machine
    created_at: int
    ends_at: int


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
    revoked_kids: list[str] = []  # all that ever were
