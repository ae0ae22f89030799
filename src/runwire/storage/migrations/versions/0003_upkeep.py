"""What compaction and retention remember, and the small indexes in which they find their work."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_upkeep"
down_revision = "0002_auth"
branch_labels = None
depends_on = None

_WHOLE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add columns and indexes; no row is rewritten."""
    op.add_column("thread", sa.Column("purged_at", _WHOLE, nullable=True))
    op.add_column("run", sa.Column("compacted_at", _WHOLE, nullable=True))
    for name, table, column, where in (
        ("thread_to_purge", "thread", "deleted_at", "deleted_at IS NOT NULL AND purged_at IS NULL"),
        ("run_to_compact", "run", "ended_at", "ended_at IS NOT NULL AND compacted_at IS NULL"),
    ):
        condition = sa.text(where)
        op.create_index(name, table, [column], sqlite_where=condition, postgresql_where=condition)
