"""The functions with which PostgreSQL changes the auth tables, compacts and trims."""

from __future__ import annotations

from alembic import op

from runwire.storage.sql import load

revision = "0006_postgres_auth"
down_revision = "0005_postgres"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them; other databases have none."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for file in ("postgres_auth_functions.sql", "postgres_upkeep_functions.sql"):
        for text in load(file).values():
            op.get_bind().exec_driver_sql(text)
