"""The small index in which every process finds what operators have said of circuit breakers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010_breakers"
down_revision = "0009_identity"
branch_labels = None
depends_on = None

_ORDERS = sa.text("action IN ('breaker.reset', 'breaker.force-open', 'breaker.disable')")


def upgrade() -> None:
    """Add an index; nobody has given an order yet, so that it is empty."""
    op.create_index("auth_audit_breaker", "auth_audit", ["seq"], sqlite_where=_ORDERS, postgresql_where=_ORDERS)
