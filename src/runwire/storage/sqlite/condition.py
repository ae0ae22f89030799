"""Looking at a data file without owning it: beside a running server, or where none runs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from runwire.errors import ConfigurationError
from runwire.storage.condition import Condition
from runwire.storage.sql import load
from runwire.storage.sqlite.prepare import check_library, check_revision, connect_reader

__all__ = ["look"]

_SQL: Final = load("sqlite.sql")


def look(path: Path) -> Condition:
    """Look at a data file; one that is not there yet is made by the first start. Blocks, call it in a thread.

    Raises:
        ConfigurationError: it cannot be opened; or this Python's SQLite is too old.
    """
    check_library(sqlite3.sqlite_version_info)
    server = f"SQLite {sqlite3.sqlite_version}"
    revision: str | None = None
    refused: tuple[str, ...] = ()
    if path.exists():
        try:
            # Without its log nobody has it open; a reader would make one, maybe one that no server may use.
            has_log = path.with_name(f"{path.name}-wal").exists()
            with closing(connect_reader(path, is_alone=not has_log)) as connection:
                tables = {name for (name,) in connection.execute(_SQL["tables"])}
                row = connection.execute(_SQL["revision"]).fetchone() if "alembic_version" in tables else None
        except sqlite3.Error as error:
            raise ConfigurationError([f"{path} cannot be opened: {error}."]) from error
        revision = None if row is None else str(row[0])
        try:
            check_revision(path, tables, revision)
        except ConfigurationError as error:
            refused = tuple(error.faults)
    return Condition(server=server, revision=revision, refused=refused)
