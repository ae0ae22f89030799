"""The functions with which PostgreSQL writes, and room in its pages for rows that every append rewrites."""

from __future__ import annotations

from alembic import op

from runwire.storage.sql import load

revision = "0005_postgres"
down_revision = "0004_waits"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them; other databases have neither."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for text in load("postgres_functions.sql").values():
        op.get_bind().exec_driver_sql(text)
    for text in load("postgres_pages.sql").values():
        op.get_bind().exec_driver_sql(text)
