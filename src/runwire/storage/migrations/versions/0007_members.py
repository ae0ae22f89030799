"""Who serves a database with which agents, and claims that look at it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from runwire.storage.sql import load

revision = "0007_members"
down_revision = "0006_postgres_auth"
branch_labels = None
depends_on = None

_WHOLE = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_QUEUED = sa.text("status = 'queued'")
_WOKEN = sa.text("status = 'waiting' AND woken_at IS NOT NULL")


def upgrade() -> None:
    """Add a table and two indexes; on PostgreSQL a claim is another function from now on."""
    op.create_table(
        "member",
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("roles", sa.Text, nullable=False),
        sa.Column("agents", sa.Text, nullable=False),
        sa.Column("default_agent", sa.Text, nullable=True),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=True),
        sa.Column("since", _WHOLE, nullable=False),
        sa.Column("seen_at", _WHOLE, nullable=False),
        sa.Column("good_until", _WHOLE, nullable=False),
        sa.Column("left_at", _WHOLE, nullable=True),
        sa.PrimaryKeyConstraint("node", name=op.f("member_pkey")),
        sqlite_strict=True,
    )
    op.create_index("member_by_age", "member", ["seen_at"])
    for name, columns, where in (
        ("run_queued_of_agent", ["agent", "user_key", "key"], _QUEUED),
        ("run_woken_of_agent", ["agent", "user_key", "woken_at", "key"], _WOKEN),
    ):
        op.create_index(name, "run", columns, sqlite_where=where, postgresql_where=where)
    if op.get_bind().dialect.name == "postgresql":
        for text in load("postgres_claim_functions.sql").values():
            op.get_bind().exec_driver_sql(text)
