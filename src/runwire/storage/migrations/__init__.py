"""How a data file becomes what this release needs. Reading `REVISIONS` imports neither Alembic nor SQLAlchemy."""

from runwire.storage.migrations.revisions import REVISIONS

__all__ = ["REVISIONS"]
