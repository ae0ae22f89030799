"""The file of the tables that all migrations together make on SQLite: `python -m runwire.storage.migrations.tables`.

A new data file is made by it, for Alembic and SQLAlchemy take half a second to import; every other one is migrated.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from runwire.storage import sql
from runwire.storage.migrations.upgrade import upgrade

__all__ = ["FILE", "main", "text"]

FILE: Final = Path(sql.__file__).with_name("sqlite_tables.sql")
_HEAD: Final = """\
-- The tables of a new data file, in the order in which they are made. Generated from the migrations, do not edit:
-- `python -m runwire.storage.migrations.tables --write`.
"""
_SQL: Final = sql.load("sqlite.sql")


def text() -> str:
    """Return what the file should say: a named block for each table and index."""
    with tempfile.TemporaryDirectory(prefix="runwire-tables-") as folder:
        path = Path(folder) / "runwire.db"
        upgrade(path)
        with closing(sqlite3.connect(path)) as connection:
            made = connection.execute(_SQL["definitions"]).fetchall()
    blocks = (f"\n-- name: {name}\n" + "\n".join(line.strip() for line in told.splitlines()) for name, told in made)
    return _HEAD + "\n".join(blocks) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the file, or check it. Returns the exit status."""
    if list(arguments) not in (["--write"], ["--check"]):
        sys.stderr.write("usage: python -m runwire.storage.migrations.tables --write | --check\n")
        return 2
    is_stale = not FILE.exists() or FILE.read_text(encoding="utf-8") != text()
    if is_stale and arguments[0] == "--check":
        sys.stderr.write(f"out of date: {FILE}; run `python -m runwire.storage.migrations.tables --write`\n")
        return 1
    if is_stale:
        FILE.write_text(text(), encoding="utf-8")
        sys.stdout.write(f"wrote {FILE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
