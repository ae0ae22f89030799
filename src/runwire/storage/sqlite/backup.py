"""Backups: a whole copy of a data file that is in use."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

from runwire.errors import NotFound, Unavailable
from runwire.storage.base_upkeep import BackedUp
from runwire.storage.sqlite.copies import Progress, copy_database, tables_of
from runwire.storage.sqlite.database import SqliteDatabase
from runwire.storage.sqlite.prepare import connect_reader

__all__ = ["back_up", "back_up_file", "reading"]

_CALL_OFF_S: Final = 5.0  # one step takes ms; the checksum at the end of a large copy may take longer


async def back_up(database: SqliteDatabase, path: Path) -> BackedUp:
    """Copy an open database as it is at one moment; see `Upkeep.backup`.

    It has a thread and a connection of its own: no reader and no writer waits for it. A cancelled caller leaves the
    copy whole, done or not done.
    """
    is_off = threading.Event()

    def progress(_done: int, _total: int) -> None:
        if is_off.is_set():
            raise _CalledOff

    work = partial(back_up_file, database.path, path, progress=progress)
    copying = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(copying)
    except asyncio.CancelledError:
        is_off.set()
        await asyncio.wait([copying], timeout=_CALL_OFF_S)
        raise


class _CalledOff(Exception):
    """Nobody waits for the copy any more."""


def back_up_file(source: Path, target: Path, *, progress: Progress | None = None) -> BackedUp:
    """Copy a data file, whether a server uses it or not; blocks. It needs no lock: it only reads.

    Raises:
        NotFound: there is no database of ours.
        Conflict: there is something of the target's name.
        Unavailable: it could not be read, or the copy could not be written; nothing is left of it.
    """
    with reading(source) as connection:
        try:
            return copy_database(connection, target, progress=progress)
        except sqlite3.Error as error:
            raise Unavailable(f"{source} cannot be read ({error}).") from error


def reading(path: Path) -> closing[sqlite3.Connection]:
    """Open a data file of ours to read from it, beside whoever owns it.

    Raises:
        NotFound: there is none, or it is something else.
        Unavailable: it cannot be opened.
    """
    if not path.is_file():
        raise NotFound(f"There is no database {path}; name the server's data folder.", field="--data-dir")
    try:
        connection = connect_reader(path)
    except sqlite3.Error as error:
        raise Unavailable(f"{path} cannot be opened ({error}).") from error
    try:
        tables = tables_of(connection)
    except sqlite3.Error as error:
        connection.close()
        raise Unavailable(f"{path} cannot be read ({error}).") from error
    if "meta" not in tables or "alembic_version" not in tables:
        connection.close()
        raise NotFound(f"{path} is not a database of Runwire, or its server has yet to start.", field="--data-dir")
    return closing(connection)
