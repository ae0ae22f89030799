"""The tables of the auth service and its log of changes."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002_auth"
down_revision = "0001_initial"
branch_labels = None
depends_on = None

_WHOLE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables of `storage/schema_auth.py` and their counter row."""
    _create_log()
    _create_people()
    _create_secrets()


def _create_log() -> None:
    counter = op.create_table(
        "auth_counter",
        sa.Column("key", _WHOLE, nullable=False),
        sa.Column("generation", sa.Text, nullable=False),
        sa.Column("seq", _WHOLE, nullable=False),
        sa.CheckConstraint("key = 1", name=op.f("auth_counter_one_row")),
        sa.PrimaryKeyConstraint("key", name=op.f("auth_counter_pkey")),
        sqlite_strict=True,
    )
    op.bulk_insert(counter, [{"key": 1, "generation": secrets.token_hex(8), "seq": 0}])
    op.create_table(
        "auth_event",
        sa.Column("seq", _WHOLE, autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("at", _WHOLE, nullable=False),
        sa.Column("user_id", sa.Text, nullable=True),
        sa.Column("session_id", sa.Text, nullable=True),
        sa.Column("key_id", sa.Text, nullable=True),
        sa.Column("kid", sa.Text, nullable=True),
        sa.Column("holder", sa.Text, nullable=True),
        sa.Column("reason", sa.Text, nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("auth_event_pkey")),
        sqlite_strict=True,
    )


def _create_people() -> None:
    op.create_table(
        "auth_user",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("epoch", _WHOLE, nullable=False),
        sa.Column("roles", sa.Text, nullable=False),
        sa.Column("password_hash", sa.Text, nullable=True),
        sa.Column("created_at", _WHOLE, nullable=False),
        sa.CheckConstraint("status IN ('active', 'disabled')", name=op.f("auth_user_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("auth_user_pkey")),
        sa.UniqueConstraint("name", name=op.f("auth_user_name_unique")),
        sqlite_strict=True,
    )
    op.create_table(
        "auth_session",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("epoch", _WHOLE, nullable=False),
        sa.Column("refresh_key", sa.LargeBinary, nullable=False),
        sa.Column("counter", _WHOLE, nullable=False),
        sa.Column("rotated_at", _WHOLE, nullable=False),
        sa.Column("created_at", _WHOLE, nullable=False),
        sa.Column("expires_at", _WHOLE, nullable=False),
        sa.Column("revoked_at", _WHOLE, nullable=True),
        sa.Column("reason", sa.Text, nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["auth_user.id"], name=op.f("auth_session_user_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("auth_session_pkey")),
        sqlite_strict=True,
    )
    op.create_table(
        "auth_key",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("created_at", _WHOLE, nullable=False),
        sa.Column("expires_at", _WHOLE, nullable=True),
        sa.Column("revoked_at", _WHOLE, nullable=True),
        sa.Column("reason", sa.Text, nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["auth_user.id"], name=op.f("auth_key_user_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("auth_key_pkey")),
        sqlite_strict=True,
    )
    is_revoked = sa.text("revoked_at IS NOT NULL")
    for table in ("auth_session", "auth_key"):
        op.create_index(op.f(f"{table}_user_id"), table, ["user_id"])
        op.create_index(f"{table}_revoked", table, ["revoked_at"], sqlite_where=is_revoked, postgresql_where=is_revoked)


def _create_secrets() -> None:
    op.create_table(
        "auth_signing_key",
        sa.Column("kid", sa.Text, nullable=False),
        sa.Column("private_jwk", sa.LargeBinary, nullable=False),
        sa.Column("created_at", _WHOLE, nullable=False),
        sa.PrimaryKeyConstraint("kid", name=op.f("auth_signing_key_pkey")),
        sqlite_strict=True,
    )
    op.create_table(
        "auth_link",
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("expires_at", _WHOLE, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["auth_user.id"], name=op.f("auth_link_user_id_fkey")),
        sa.PrimaryKeyConstraint("secret_hash", name=op.f("auth_link_pkey")),
        sqlite_strict=True,
    )
    op.create_table(
        "auth_ticket",
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("ticket", sa.Text, nullable=False),
        sa.Column("expires_at", _WHOLE, nullable=False),
        sa.PrimaryKeyConstraint("secret_hash", name=op.f("auth_ticket_pkey")),
        sqlite_strict=True,
    )
    for table in ("auth_link", "auth_ticket"):
        op.create_index(op.f(f"{table}_expires_at"), table, ["expires_at"])
