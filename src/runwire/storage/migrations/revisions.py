"""The names of all migrations, in order: what start compares with the data file, without importing Alembic.

Add a name here together with its file in `versions/`; a test compares the two.
"""

from __future__ import annotations

from typing import Final

__all__ = ["REVISIONS"]

REVISIONS: Final = (
    "0001_initial",
    "0002_auth",
    "0003_upkeep",
    "0004_waits",
    "0005_postgres",
    "0006_postgres_auth",
    "0007_members",
    "0008_places",
    "0009_identity",
    "0010_breakers",
)
