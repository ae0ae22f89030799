"""The tables of the auth service, on the same `metadata`; the promises are in `base_auth.py`.

Ids here are the wire's own text ids: these tables are small and read by id. Another service or a user
of the database sees no password and no usable secret, except `private_jwk` and `refresh_key`.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, LargeBinary, Table, Text, UniqueConstraint, text

from runwire.storage.schema import Whole, metadata

__all__ = [
    "auth_audit",
    "auth_counter",
    "auth_event",
    "auth_external",
    "auth_invite",
    "auth_key",
    "auth_link",
    "auth_reset",
    "auth_session",
    "auth_signing_key",
    "auth_ticket",
    "auth_user",
]


def _text(
    name: str, *arguments: Any, null: bool = False, primary: bool = False, default: str | None = None
) -> Column[str]:
    server_default = None if default is None else text(f"'{default}'")
    return Column(name, Text, *arguments, nullable=null, primary_key=primary, server_default=server_default)


def _whole(name: str, *, null: bool = False, primary: bool = False, zero: bool = False) -> Column[int]:
    server_default = text("0") if zero else None
    return Column(name, Whole, nullable=null, primary_key=primary, autoincrement=False, server_default=server_default)


def _bytes(name: str, *, primary: bool = False) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=False, primary_key=primary)


auth_counter: Final = Table(
    "auth_counter",  # one row; every change locks it, so numbers are commit-ordered
    metadata,
    Column("key", Whole, primary_key=True),
    _text("generation"),  # of these tables; another one after a restore
    _whole("seq"),  # last number given
    CheckConstraint("key = 1", name="one_row"),
    sqlite_strict=True,
)

auth_event: Final = Table(
    "auth_event",  # the log that gateways and workers follow
    metadata,
    Column("seq", Whole, primary_key=True, autoincrement=False),
    _text("kind"),
    _whole("at"),
    _text("user_id", null=True),
    _text("session_id", null=True),
    _text("key_id", null=True),
    _text("kid", null=True),
    _text("holder", null=True),  # UserRow after the change, JSON
    _text("reason", null=True),
    sqlite_strict=True,
)
_HOLDER: Final = text("holder IS NOT NULL")
# To take a deleted user's name out of the log.
Index("auth_event_of_holder", auth_event.c.user_id, sqlite_where=_HOLDER, postgresql_where=_HOLDER)

auth_audit: Final = Table(
    "auth_audit",  # who did what to whom; rows are appended, and made unreadable when a person is erased
    metadata,
    Column("seq", Whole, primary_key=True, autoincrement=False),
    _whole("at"),
    _text("actor", null=True),
    _text("actor_kind"),
    _text("action"),
    _text("subject", null=True),
    _text("address"),
    _text("detail"),  # JSON object of texts
    sqlite_strict=True,
)
# Of the orders to circuit breakers, which every process follows.
_ORDERS: Final = text("action IN ('breaker.reset', 'breaker.force-open', 'breaker.disable')")
Index("auth_audit_breaker", auth_audit.c.seq, sqlite_where=_ORDERS, postgresql_where=_ORDERS)

auth_user: Final = Table(
    "auth_user",
    metadata,
    _text("id", primary=True),
    _text("name"),
    _text("status"),
    _whole("epoch"),
    _text("roles"),  # JSON list, sorted
    _text("password_hash", null=True),  # argon2id
    _whole("created_at"),
    _whole("valid_from", zero=True),  # when the epoch last moved
    UniqueConstraint("name"),
    CheckConstraint("status IN ('active', 'disabled', 'deleted')", name="status"),
    sqlite_strict=True,
)

auth_session: Final = Table(
    "auth_session",  # one row per sign-in; its refresh tokens are numbers, not rows
    metadata,
    _text("id", primary=True),
    _text("user_id", ForeignKey("auth_user.id")),
    _text("client"),
    _whole("epoch"),
    _bytes("refresh_key"),
    _whole("counter"),
    _whole("rotated_at"),
    _whole("created_at"),
    _whole("expires_at"),
    _whole("revoked_at", null=True),
    _text("reason", null=True),
    _text("address", default=""),  # where the sign-in came from
    Index(None, "user_id"),
    sqlite_strict=True,
)

auth_key: Final = Table(
    "auth_key",  # API keys
    metadata,
    _text("id", primary=True),
    _text("user_id", ForeignKey("auth_user.id")),
    _bytes("secret_hash"),
    _text("label"),
    _whole("created_at"),
    _whole("expires_at", null=True),
    _whole("revoked_at", null=True),
    _text("reason", null=True),
    _text("scopes", default='["runwire"]'),  # JSON list, sorted
    _whole("last_used_at", null=True),
    Index(None, "user_id"),
    sqlite_strict=True,
)
_REVOKED: Final = text("revoked_at IS NOT NULL")
Index("auth_session_revoked", auth_session.c.revoked_at, sqlite_where=_REVOKED, postgresql_where=_REVOKED)
Index("auth_key_revoked", auth_key.c.revoked_at, sqlite_where=_REVOKED, postgresql_where=_REVOKED)

auth_signing_key: Final = Table(
    "auth_signing_key",
    metadata,
    _text("kid", primary=True),
    _bytes("private_jwk"),  # empty once revoked
    _whole("created_at"),
    _whole("activates_at", zero=True),
    _whole("retires_at", null=True),
    _whole("revoked_at", null=True),
    sqlite_strict=True,
)

auth_external: Final = Table(
    "auth_external",  # whom other issuers know; never by e-mail
    metadata,
    _bytes("subject_hash", primary=True),  # of issuer and subject; it stays when the subject is erased
    _text("issuer"),
    _text("subject", null=True),
    _text("user_id", ForeignKey("auth_user.id")),
    Index(None, "user_id"),
    sqlite_strict=True,
)

auth_invite: Final = Table(
    "auth_invite",  # leave to register; consumed with the user that it makes
    metadata,
    _bytes("secret_hash", primary=True),
    _text("id"),
    _text("roles"),  # JSON list, sorted
    _text("created_by", null=True),
    _whole("created_at"),
    _whole("ends_at"),
    sqlite_strict=True,
)

auth_reset: Final = Table(
    "auth_reset",  # password resets; consumed with the new password
    metadata,
    _bytes("secret_hash", primary=True),
    _text("user_id", ForeignKey("auth_user.id")),
    _whole("expires_at"),
    sqlite_strict=True,
)

auth_link: Final = Table(
    "auth_link",  # sign-in links; consumed by DELETE … RETURNING
    metadata,
    _bytes("secret_hash", primary=True),
    _text("user_id", ForeignKey("auth_user.id")),
    _whole("expires_at"),
    Index(None, "expires_at"),
    sqlite_strict=True,
)

auth_ticket: Final = Table(
    "auth_ticket",  # an identity that waits for one socket; consumed by DELETE … RETURNING
    metadata,
    _bytes("secret_hash", primary=True),
    _text("ticket"),  # TicketRow, JSON
    _whole("expires_at"),
    Index(None, "expires_at"),
    sqlite_strict=True,
)
