"""JSON shapes of what people do to their own account over HTTP. Times are ms UTC."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from runwire.auth.service.accounts import KeyState, key_state
from runwire.auth.service.admin_shapes import ShownSession
from runwire.storage.base import KeyRow, SessionRow

__all__ = [
    "KeyBody",
    "KeyPage",
    "MadeKey",
    "OwnSession",
    "OwnSessionPage",
    "PasswordBody",
    "PasswordResetBody",
    "RegisterBody",
    "ShownKey",
    "key_of",
    "own_session_of",
]

_Secret = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_Scope = Literal["runwire", "runwire:read"]
_Password = Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is sent: nothing that is not known is passed over."""


class RegisterBody(_Body, frozen=True):
    """`POST /auth/register`."""

    user: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]  # the name
    password: _Password
    invite: _Secret | None = None


class PasswordBody(_Body, frozen=True):
    """`POST /auth/password`."""

    old: _Password
    new: _Password


class PasswordResetBody(_Body, frozen=True):
    """`POST /auth/password/reset`."""

    token: _Secret
    password: _Password


class KeyBody(_Body, frozen=True):
    """`POST /auth/keys`."""

    label: Annotated[str, msgspec.Meta(max_length=128)] = ""  # to know it again by
    # runwire: everything; runwire:read: sees, and sends nothing
    scopes: Annotated[tuple[_Scope, ...], msgspec.Meta(min_length=1, max_length=2)] = ("runwire",)
    ttl_s: Annotated[int, msgspec.Meta(ge=60, le=10 * 366 * 86_400)] | None = None  # null: until it is revoked


class ShownKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key, without what it is proved by."""

    key: str
    label: str
    scopes: list[str]
    state: KeyState
    created_at: int
    expires_at: int | None
    last_used_at: int | None  # a minute late at most


class MadeKey(ShownKey, frozen=True):
    """A new API key and its text: this is the only time it is to be had."""

    secret: str


class KeyPage(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /auth/keys`, newest first; those that have ended, too."""

    items: list[ShownKey]
    next_cursor: str | None


class OwnSession(ShownSession, frozen=True):
    """A live session of one's own."""

    is_current: bool  # the one that asks


class OwnSessionPage(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /auth/sessions`, newest first."""

    items: list[OwnSession]
    next_cursor: str | None


def own_session_of(row: SessionRow, *, current: str | None) -> OwnSession:
    """Show a session to whose it is."""
    return OwnSession(
        session=row.session,
        client=row.client,
        address=row.address,
        created_at=row.created_at,
        rotated_at=row.rotated_at,
        expires_at=row.expires_at,
        is_current=row.session == current,
    )


def key_of(row: KeyRow) -> ShownKey:
    """Show an API key to whose it is."""
    return ShownKey(
        key=row.key,
        label=row.label,
        scopes=list(row.scopes),
        state=key_state(row),
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )
