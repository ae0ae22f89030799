"""Making a data file ready at start: owner, tables, identity. Everything wrong with it is said here, once."""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from runwire.errors import ConfigurationError, Unavailable
from runwire.storage.migrations import REVISIONS
from runwire.storage.sql import load
from runwire.storage.sqlite.copies import adopt, begin_history, copy_database, foreign_code
from runwire.storage.sqlite.lock import OwnerLock

__all__ = ["Prepared", "check_library", "check_revision", "connect_reader", "found_revision", "prepare"]

_OLDEST_SQLITE: Final = (3, 38, 0)  # `->>`, RETURNING and UPDATE … FROM, which `sqlite.sql` is written in
BUSY_TIMEOUT_S: Final = 2.0  # for somebody's `sqlite3` shell: no process of ours competes for the file

_SQL: Final = load("sqlite.sql")


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A data file that this process owns, with the newest tables."""

    path: Path
    lock: OwnerLock
    connection: sqlite3.Connection  # the one that writes
    log: str
    incarnation: int  # greater than that of every process that owned the file before


def prepare(path: Path) -> Prepared:
    """Own, create, migrate and open a data file; blocks, call it in a thread.

    Raises:
        ConfigurationError: owned by another process (`OwnedElsewhere`), not a file of ours, of a newer
            release, or not to be opened.
    """
    check_library(sqlite3.sqlite_version_info)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = OwnerLock(path)
    except OSError as error:
        raise ConfigurationError([f"The data folder {path.parent} cannot be used: {error.strerror}."]) from error
    try:
        return _open(path, lock)
    except sqlite3.Error as error:
        lock.release()
        raise ConfigurationError([f"{path} cannot be opened: {error}."]) from error
    except BaseException:
        lock.release()
        raise


def check_library(version: tuple[int, int, int]) -> None:
    """Refuse a SQLite that lacks what the statements are written in. Raises ConfigurationError."""
    if version < _OLDEST_SQLITE:
        have, need = (".".join(map(str, each)) for each in (version, _OLDEST_SQLITE))
        raise ConfigurationError([f"This Python has SQLite {have}; Runwire needs {need} or newer: use another Python."])


def connect_reader(path: Path, *, is_alone: bool = False) -> sqlite3.Connection:
    """Open a connection that cannot write; `is_alone`: nobody else does, so that no file is made beside it."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if is_alone else ''}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT_S,
        cached_statements=256,
    )


def found_revision(path: Path) -> str | None:
    """Return the revision of a data file; None: there is none yet, or `prepare` will say what is wrong with it."""
    if not path.exists():
        return None
    try:
        with closing(connect_reader(path)) as connection:
            tables = {name for (name,) in connection.execute(_SQL["tables"])}
            row = connection.execute(_SQL["revision"]).fetchone() if "alembic_version" in tables else None
    except sqlite3.Error:
        return None
    return None if row is None else str(row[0])


def _open(path: Path, lock: OwnerLock) -> Prepared:
    try:
        # Before SQLite does it: the log and index beside the file take over its mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        is_copy = adopt(path)
    except OSError as error:
        raise ConfigurationError([f"{path} cannot be opened: {error.strerror}."]) from error
    connection = _connect_writer(path)
    try:
        if is_copy:
            _refuse_code(path, connection)
        _migrate(path, connection)
        begin_history(connection)
        connection.execute(_SQL["make_meta"], (secrets.token_hex(6),))
        log, incarnation = connection.execute(_SQL["become_owner"]).fetchall()[0]
        connection.execute(_SQL["forget_members"])
    except BaseException:
        connection.close()
        raise
    return Prepared(path=path, lock=lock, connection=connection, log=log, incarnation=incarnation)


def _connect_writer(path: Path) -> sqlite3.Connection:
    # Autocommit: transactions are ours, statement by statement. The thread that uses it is another one.
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S, cached_statements=256
    )
    mode = connection.execute(_SQL["journal_mode"]).fetchone()[0]
    if mode != "wal":
        connection.close()
        raise ConfigurationError([f"{path} cannot use a write-ahead log (it says {mode}): choose a local disk."])
    for setting in ("synchronous", "foreign_keys", "cache_size", "journal_size_limit"):
        connection.execute(_SQL[setting]).fetchall()
    return connection


def _refuse_code(path: Path, connection: sqlite3.Connection) -> None:
    code = foreign_code(connection)
    if code is not None:
        raise ConfigurationError([f"{path} is no backup of Runwire: it has code of its own ({code})."])


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    """Bring the tables to the newest revision; start imports Alembic only if there is something to go on from."""
    tables = {name for (name,) in connection.execute(_SQL["tables"])}
    revision = connection.execute(_SQL["revision"]).fetchone()[0] if "alembic_version" in tables else None
    check_revision(path, tables, revision)
    if revision == REVISIONS[-1]:
        return
    if revision is None:
        _create(connection)
        return
    _back_up(path, connection, revision)
    from runwire.storage.migrations.upgrade import upgrade

    upgrade(path)


def _create(connection: sqlite3.Connection) -> None:
    """Make all tables at once, as the migrations would have (`migrations/tables.py`); whole or not at all."""
    connection.execute(_SQL["begin_write"])
    try:
        for statement in load("sqlite_tables.sql").values():
            connection.execute(statement)
        connection.execute(_SQL["stamp_revision"], (REVISIONS[-1],))
        connection.execute(_SQL["begin_generation"], (secrets.token_hex(8),))
        connection.execute(_SQL["commit"])
    except BaseException:
        connection.execute(_SQL["rollback"])
        raise


def check_revision(path: Path, tables: set[str], revision: str | None) -> None:
    """Refuse tables that no migration of this release can go on from. Raises ConfigurationError."""
    if tables and revision is None:
        raise ConfigurationError([f"{path} is a database, but not one of Runwire: choose another data folder."])
    if revision is not None and revision not in REVISIONS:
        raise ConfigurationError(
            [f"{path} is of a newer release (revision {revision}, this one knows {REVISIONS[-1]}): upgrade Runwire."]
        )


def _back_up(path: Path, connection: sqlite3.Connection, revision: str) -> None:
    """Keep the file as it was before its tables change; a copy of an earlier try gives way."""
    target = path.with_name(f"{path.name}.{revision}.backup")
    try:
        copy_database(connection, target, replaces=True)
    except Unavailable as error:
        raise ConfigurationError([f"{path} is not migrated without a copy. {error.message}"]) from error
