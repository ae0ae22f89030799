"""Leases, parked runs, and what they wait for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_waits"
down_revision = "0003_upkeep"
branch_labels = None
depends_on = None

_WHOLE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add columns, a table and small indexes; no row is rewritten."""
    op.add_column("run", sa.Column("lease_until", _WHOLE, nullable=True))
    op.add_column("run", sa.Column("lost", sa.Text, nullable=False, server_default=sa.text("''")))
    op.add_column("run", sa.Column("woken_at", _WHOLE, nullable=True))
    op.add_column("run", sa.Column("closing", sa.LargeBinary, nullable=True))
    woken = sa.text("status = 'waiting' AND woken_at IS NOT NULL")
    op.create_index("run_woken", "run", ["user_key", "woken_at", "key"], sqlite_where=woken, postgresql_where=woken)
    op.create_table(
        "wait",
        sa.Column("key", _WHOLE, primary_key=True),
        sa.Column("run_key", _WHOLE, sa.ForeignKey("run.key", name="wait_run_key_fkey"), nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("due_at", _WHOLE, nullable=True),
        sa.Column("by", sa.Text, nullable=True),
        sa.Column("value", sa.LargeBinary, nullable=True),
        sa.UniqueConstraint("id", name="wait_id_unique"),
        sa.CheckConstraint("kind IN ('approval', 'input', 'timer')", name="kind"),
        sqlite_strict=True,
    )
    op.create_index("wait_of_run", "wait", ["run_key"])
    due = sa.text('"by" IS NULL AND due_at IS NOT NULL')
    op.create_index("wait_due", "wait", ["due_at"], sqlite_where=due, postgresql_where=due)
