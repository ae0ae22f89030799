"""Tombstones, external identities, invitations, resets, scopes, the life of signing keys, and the audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from runwire.storage.sql import load

revision = "0009_identity"
down_revision = "0008_places"
branch_labels = None
depends_on = None

_WHOLE = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_HOLDER = sa.text("holder IS NOT NULL")
_STATUS = "status IN ('active', 'disabled', 'deleted')"


def upgrade() -> None:
    """Add tables, and columns with values for the rows there are; on PostgreSQL functions are others from now on."""
    _widen_status()
    for table, column in (
        ("auth_user", _whole("valid_from", zero=True)),
        ("auth_session", sa.Column("address", sa.Text, nullable=False, server_default=sa.text("''"))),
        ("auth_key", sa.Column("scopes", sa.Text, nullable=False, server_default=sa.text("'[\"runwire\"]'"))),
        ("auth_key", _whole("last_used_at", null=True)),
        ("auth_signing_key", _whole("activates_at", zero=True)),
        ("auth_signing_key", _whole("retires_at", null=True)),
        ("auth_signing_key", _whole("revoked_at", null=True)),
        ("user", _whole("quarantined_at", null=True)),
    ):
        op.add_column(table, column)
    op.create_index("auth_event_of_holder", "auth_event", ["user_id"], sqlite_where=_HOLDER, postgresql_where=_HOLDER)
    _create_tables()
    if op.get_bind().dialect.name == "postgresql":
        for file in ("postgres_auth_functions.sql", "postgres_people_functions.sql"):
            for text in load(file).values():
                op.get_bind().exec_driver_sql(text)


def _whole(name: str, *, null: bool = False, zero: bool = False) -> sa.Column[int]:
    return sa.Column(name, _WHOLE, nullable=null, server_default=sa.text("0") if zero else None)


def _widen_status() -> None:
    """Let a user be deleted. SQLite changes no constraint: the table is made anew."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(op.f("auth_user_status"), "auth_user", type_="check")
        op.create_check_constraint(op.f("auth_user_status"), "auth_user", _STATUS)
        return
    columns = ["id", "name", "status", "epoch", "roles", "password_hash", "created_at"]
    op.execute("CREATE TABLE auth_user_kept AS SELECT * FROM auth_user")
    # The references of other tables are to the name; whoever migrates does not check them meanwhile.
    op.drop_table("auth_user")
    op.create_table(
        "auth_user",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        _whole("epoch"),
        sa.Column("roles", sa.Text, nullable=False),
        sa.Column("password_hash", sa.Text, nullable=True),
        _whole("created_at"),
        sa.CheckConstraint(_STATUS, name=op.f("auth_user_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("auth_user_pkey")),
        sa.UniqueConstraint("name", name=op.f("auth_user_name_unique")),
        sqlite_strict=True,
    )
    old, new = (sa.table(name, *map(sa.column, columns)) for name in ("auth_user_kept", "auth_user"))
    op.execute(new.insert().from_select(columns, sa.select(*old.c)))
    op.drop_table("auth_user_kept")


def _create_tables() -> None:
    op.create_table(
        "auth_audit",
        _whole("seq"),
        _whole("at"),
        sa.Column("actor", sa.Text, nullable=True),
        sa.Column("actor_kind", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=True),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("auth_audit_pkey")),
        sqlite_strict=True,
    )
    op.create_table(
        "auth_external",
        sa.Column("subject_hash", sa.LargeBinary, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["auth_user.id"], name=op.f("auth_external_user_id_fkey")),
        sa.PrimaryKeyConstraint("subject_hash", name=op.f("auth_external_pkey")),
        sqlite_strict=True,
    )
    op.create_index(op.f("auth_external_user_id"), "auth_external", ["user_id"])
    op.create_table(
        "auth_invite",
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("roles", sa.Text, nullable=False),
        sa.Column("created_by", sa.Text, nullable=True),
        _whole("created_at"),
        _whole("ends_at"),
        sa.PrimaryKeyConstraint("secret_hash", name=op.f("auth_invite_pkey")),
        sqlite_strict=True,
    )
    op.create_table(
        "auth_reset",
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        _whole("expires_at"),
        sa.ForeignKeyConstraint(["user_id"], ["auth_user.id"], name=op.f("auth_reset_user_id_fkey")),
        sa.PrimaryKeyConstraint("secret_hash", name=op.f("auth_reset_pkey")),
        sqlite_strict=True,
    )
