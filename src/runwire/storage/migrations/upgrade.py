"""Running the migrations. Imported only when there is something to migrate."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from runwire.storage.sql import load

__all__ = ["upgrade", "upgrade_on"]

_SQL: Final = load("sqlite.sql")


def upgrade(path: Path, *, revision: str = "head") -> None:
    """Bring a data file to a revision, whole or not at all; only its owner may call.

    Raises:
        sqlite3.Error: nothing was changed.
    """
    # Autocommit plus an explicit BEGIN: the driver's own transactions would leave DDL outside, and a process
    # killed here would leave half a schema.
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(path, isolation_level=None), poolclass=NullPool)
    event.listen(engine, "begin", _begin)
    try:
        with engine.begin() as connection:
            upgrade_on(connection, revision=revision)
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise error.orig from error
        raise


def upgrade_on(connection: Connection, *, revision: str = "head") -> None:
    """Run the migrations in the transaction of a connection, which the caller commits."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(_SQL["begin_write"])
