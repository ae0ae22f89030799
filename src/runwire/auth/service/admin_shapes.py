"""JSON shapes of administration over HTTP: what is sent, and what is answered. Times are ms UTC."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from runwire.auth.service.accounts import INVITE_TTL_S, RESET_TTL_S, Profile, ShownSigningKey
from runwire.storage.base import AuditRow, InviteRow, SessionRow, UserRow, UserStatus

__all__ = [
    "AuditedPage",
    "InviteBody",
    "InvitePage",
    "MadeInvite",
    "MadeUser",
    "Reset",
    "ResetBody",
    "RolesBody",
    "SessionPage",
    "SignOutBody",
    "SignedOut",
    "SigningKeyPage",
    "User",
    "UserBody",
    "UserPage",
    "UserProfile",
]

MAX_TTL_S = 30 * 86_400  # of a one-time secret
_TTL = Annotated[int, msgspec.Meta(ge=60, le=MAX_TTL_S)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Role = Literal["user", "operator", "admin", "service"]
_Roles = Annotated[tuple[_Role, ...], msgspec.Meta(max_length=4)]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is sent: nothing that is not known is passed over."""


class _Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What is answered."""


class UserBody(_Body, frozen=True):
    """`POST /auth/users`. There is no password in it: nobody types that of another person."""

    name: _Name
    roles: _Roles = ("user",)
    reset_ttl_s: _TTL = RESET_TTL_S


class RolesBody(_Body, frozen=True):
    """`POST /auth/users/{user}/roles`: all roles from now on."""

    roles: _Roles


class ResetBody(_Body, frozen=True):
    """`POST /auth/users/{user}/reset`."""

    ttl_s: _TTL = RESET_TTL_S


class SignOutBody(_Body, frozen=True):
    """`POST /auth/users/{user}/sign-out`."""

    with_keys: bool = False  # the API keys, too
    before: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None = None  # what was made at that time or later stays


class InviteBody(_Body, frozen=True):
    """`POST /auth/invites`."""

    roles: _Roles = ("user",)
    ttl_s: _TTL = INVITE_TTL_S


class User(_Shown, frozen=True):
    """A user."""

    user: str
    name: str
    status: UserStatus
    roles: list[str]
    created_at: int


class UserPage(_Shown, frozen=True):
    """`GET /auth/users`, by name."""

    items: list[User]
    next_cursor: str | None


UserProfile = Profile


class Reset(_Shown, frozen=True):
    """A one-time secret for `POST /auth/password/reset`: this is the only time it is to be had."""

    secret: str
    expires_in: int  # s


class MadeUser(User, frozen=True):
    """A new user, and by what the person sets their password."""

    reset: Reset


class ShownSession(_Shown, frozen=True):
    """A live session."""

    session: str
    client: str
    address: str
    created_at: int
    rotated_at: int
    expires_at: int


class SessionPage(_Shown, frozen=True):
    """`GET /auth/users/{user}/sessions`, newest first."""

    items: list[ShownSession]
    next_cursor: str | None


class SignedOut(_Shown, frozen=True):
    """How many sessions ended."""

    sessions: int


class Invite(_Shown, frozen=True):
    """Leave to register once."""

    invite: str
    roles: list[str]
    created_by: str | None
    created_at: int
    ends_at: int


class MadeInvite(Invite, frozen=True):
    """A new invitation and its secret: this is the only time it is to be had."""

    secret: str


class InvitePage(_Shown, frozen=True):
    """`GET /auth/invites`, newest first."""

    items: list[Invite]
    next_cursor: str | None


class SigningKeyPage(_Shown, frozen=True):
    """`GET /auth/signing-keys`."""

    items: list[ShownSigningKey]
    next_cursor: None


class Audited(_Shown, frozen=True):
    """A line of the audit."""

    seq: int
    at: int
    actor: str | None
    actor_kind: str
    action: str
    subject: str | None
    address: str
    detail: dict[str, str]


class AuditedPage(_Shown, frozen=True):
    """`GET /auth/audit`, oldest first."""

    items: list[Audited]
    head: int  # seq of the last line there is; below your `after`: the database was restored, begin again
    next_cursor: int | None  # `after` of the next request; null: this was all


def user_of(row: UserRow) -> User:
    """Show a user."""
    return User(user=row.user, name=row.name, status=row.status, roles=list(row.roles), created_at=row.created_at)


def session_of(row: SessionRow) -> ShownSession:
    """Show a session."""
    return msgspec.convert(row, ShownSession, from_attributes=True)


def invite_of(row: InviteRow) -> Invite:
    """Show an invitation."""
    return msgspec.convert(row, Invite, from_attributes=True)


def audited_of(row: AuditRow) -> Audited:
    """Show a line of the audit."""
    return Audited(seq=row.seq, at=row.at, **msgspec.structs.asdict(row.entry))
