"""JSON shapes of what people do to their own account over HTTP. Times are ms UTC."""

from __future__ import annotations

from typing import Annotated

import msgspec

from runwire.auth.service.admin_shapes import ShownSession
from runwire.storage.base import SessionRow

__all__ = ["OwnSession", "OwnSessionPage", "PasswordBody", "PasswordResetBody", "own_session_of"]

_Secret = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_Password = Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is sent: nothing that is not known is passed over."""


class PasswordBody(_Body, frozen=True):
    """`POST /auth/password`."""

    old: _Password
    new: _Password


class PasswordResetBody(_Body, frozen=True):
    """`POST /auth/password/reset`."""

    token: _Secret
    password: _Password


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
