"""Which of several databases, with users placed on them by hash, this one is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008_places"
down_revision = "0007_members"
branch_labels = None
depends_on = None

_WHOLE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add three columns to a table of one row; they stay empty where there is one database."""
    op.add_column("meta", sa.Column("place_set", sa.Text, nullable=True))
    op.add_column("meta", sa.Column("place", _WHOLE, nullable=True))
    op.add_column("meta", sa.Column("places", _WHOLE, nullable=True))
