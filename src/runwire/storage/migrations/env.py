"""Alembic's entry: runs the wanted migrations on the connection that `upgrade` hands over, in one transaction."""

from __future__ import annotations

from alembic import context

from runwire.storage.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
