"""An export of a data file, and a data file out of an export or a backup."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from runwire.errors import ConfigurationError, Conflict, NotFound, ProtocolError, Unavailable
from runwire.storage.clock import now_ms
from runwire.storage.migrations import REVISIONS
from runwire.storage.placing import sync, unwritable
from runwire.storage.sql import load
from runwire.storage.sqlite.backup import reading
from runwire.storage.sqlite.copies import Progress, adopt, foreign_code, mark, tables_of
from runwire.storage.sqlite.lock import OwnerLock
from runwire.storage.sqlite.transfer import count, dump, fill
from runwire.storage.transfer import FORMAT, Header, read_export, write_export

__all__ = ["export_file", "import_file"]

T = TypeVar("T")

_SQLITE: Final = b"SQLite format 3\0"
_SQL: Final = load("sqlite.sql")
_COPY_SQL: Final = load("sqlite_copies.sql")
_TRANSFER_SQL: Final = load("sqlite_transfer.sql")


def export_file(
    source: Path, out: BinaryIO, *, release: str, user_name: str | None = None, progress: Progress | None = None
) -> Header:
    """Write an export of a data file as it is at one moment, whether a server uses it or not; blocks.

    Args:
        source: the data file. It is only read, so no lock is needed.
        out: where the lines go, one at a time.
        release: of this program, for the header.
        user_name: only what belongs to the user of this name.
        progress: called now and then.

    Raises:
        NotFound: no database of ours, or no such user.
        Unavailable: it cannot be read, or is of another release.
        OSError: `out` does not take it.
    """
    with reading(source) as connection:
        try:
            connection.execute(_SQL["begin_read"])
            _check_revision(source, connection)
            user = None if user_name is None else _user(connection, user_name)
            counts = count(connection, user)
            row = connection.execute(_COPY_SQL["log"]).fetchone()  # none: it was imported, and never started
            header = Header(
                format=FORMAT,
                release=release,
                log=row[0] if row else "",
                created_at=now_ms(),
                user=user_name,
                counts=counts,
            )
            write_export(out, header, _watched(dump(connection, user), sum(counts.values()), progress))
        except sqlite3.Error as error:
            raise Unavailable(f"{source} cannot be read ({error}).") from error
    return header


def import_file(target: Path, source: Path, *, progress: Progress | None = None) -> Counter[str]:
    """Make a data file out of an export or a backup, whole or not at all; blocks.

    Returns:
        How many of each kind it has.

    Raises:
        OwnedElsewhere: a server runs on the target.
        Conflict: the target has something in it.
        ProtocolError: the source is damaged, or is something else.
        Unavailable: it cannot be read or written; the target is as it was.
    """
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = OwnerLock(target)
    except OSError as error:
        raise ConfigurationError([f"The data folder {target.parent} cannot be used: {error.strerror}."]) from error
    part = target.with_name(f"{target.name}.importing")  # the lock makes it ours, and what is left of a killed one
    try:
        _check_empty(target)
        _remove(part)
        with _opened(source) as file:
            done = _build(part, source, file, progress)
        sync(part)
        part.replace(target)  # the old one is empty, and the lock is ours
        sync(target.parent)
    except OSError as error:
        raise unwritable(target, error.strerror or type(error).__name__) from error
    except sqlite3.Error as error:
        raise unwritable(target, str(error)) from error
    finally:
        with suppress(OSError):
            _remove(part)
        lock.release()
    return done


def _check_revision(path: Path, connection: sqlite3.Connection) -> None:
    revision = connection.execute(_SQL["revision"]).fetchone()[0]
    if revision not in REVISIONS:
        raise Unavailable(f"{path} is of a newer release (revision {revision}): upgrade Runwire.")
    if revision != REVISIONS[-1]:
        raise Unavailable(f"{path} is of an older release (revision {revision}): run `runwire migrate` first.")


def _user(connection: sqlite3.Connection, name: str) -> str:
    row = connection.execute(_TRANSFER_SQL["account_of_name"], (name,)).fetchone()
    if row is None:
        raise NotFound(f"There is no user {name}; `runwire user list` shows who there is.", field="--user")
    user: str = row[0]
    return user


def _watched(items: Iterator[T], total: int, progress: Progress | None) -> Iterator[T]:
    for done, item in enumerate(items):
        if progress is not None and done % 256 == 0:
            progress(done, total)
        yield item


@contextmanager
def _opened(source: Path) -> Iterator[BinaryIO]:
    try:
        file = source.open("rb")
    except OSError as error:
        raise Unavailable(f"{source} cannot be read ({error.strerror}).", field="FILE") from error
    with file:
        if not file.seekable():
            raise Unavailable(f"{source} is a pipe: write it to a file, and import that.", field="FILE")
        yield file


def _check_empty(target: Path) -> None:
    """Refuse to import over something; an empty database is one that was made and never used."""
    if not target.exists() or target.stat().st_size == 0:
        _check_nothing_left(target)
        return
    with closing(sqlite3.connect(target, isolation_level=None)) as connection:
        try:
            tables = tables_of(connection)
            held = connection.execute(_TRANSFER_SQL["contents"]).fetchone() if "auth_user" in tables else None
            has_audit = "auth_audit" in tables  # not in one of an older release
            noted = connection.execute(_TRANSFER_SQL["count_audit"], (None,)).fetchone()[0] if has_audit else 0
        except sqlite3.Error as error:
            raise Conflict(f"{target} is there and cannot be read ({error}). {_MOVE_AWAY}") from error
        if tables and held is None:
            raise Conflict(f"{target} is there and has other tables. {_MOVE_AWAY}")
        if held is not None and any((*held, noted)):
            accounts, threads, runs, people = held
            has = f"{max(accounts, people)} users, {threads} threads and {runs} runs, and {noted} lines of audit"
            raise Conflict(f"{target} is not empty: it has {has}. {_MOVE_AWAY}")
        connection.execute(_COPY_SQL["plain_journal"]).fetchall()  # so that nothing of it is left beside the file


def _check_nothing_left(target: Path) -> None:
    """Refuse the log of a database that was moved away without it: SQLite would play it into what is imported."""
    for side in ("-wal", "-journal"):
        left = target.with_name(target.name + side)
        if left.exists() and left.stat().st_size:
            raise Conflict(f"{left} belongs to a database that is not here; it has its last writes. {_MOVE_AWAY}")


_MOVE_AWAY: Final = "An import needs an empty data folder: name another with --data-dir, or move this one away."


def _build(part: Path, source: Path, file: BinaryIO, progress: Progress | None) -> Counter[str]:
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    is_database = file.read(len(_SQLITE)) == _SQLITE
    file.seek(0)
    if is_database:
        return _take_backup(part, source, file)
    return _take_export(part, file, progress)


def _take_backup(part: Path, source: Path, file: BinaryIO) -> Counter[str]:
    log_beside = source.with_name(source.name + "-wal")
    if log_beside.exists() and log_beside.stat().st_size:
        raise ProtocolError(f"{source} is a database in use, not a backup of it: `runwire storage backup` makes one.")
    with part.open("wb") as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
    try:
        is_sealed = adopt(part)
    except ConfigurationError:
        raise _damaged(source, "it is not what was written") from None
    try:
        revision = _check_backup(part, source, is_sealed=is_sealed)
        mark(part)  # what somebody copied by other means is none the less a copy
        if revision != REVISIONS[-1]:
            _upgrade(part)
        with closing(sqlite3.connect(part)) as connection:
            return Counter(count(connection, None))
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise _damaged(source, str(error)) from error
        raise


def _check_backup(part: Path, source: Path, *, is_sealed: bool) -> str:
    """Return the revision of a backup that can be used."""
    with closing(sqlite3.connect(part, isolation_level=None)) as connection:
        if "alembic_version" not in tables_of(connection):
            raise ProtocolError(f"{source} is a database, but not one of Runwire.")
        if (code := foreign_code(connection)) is not None:
            raise ProtocolError(f"{source} is no backup of Runwire: it has code of its own ({code}).")
        revision: str = connection.execute(_SQL["revision"]).fetchone()[0]
        if revision not in REVISIONS:
            raise ProtocolError(f"{source} is of a newer release (revision {revision}): upgrade Runwire.")
        row = connection.execute(_COPY_SQL["log"]).fetchone()
        if row and not row[0] and not is_sealed:
            raise _damaged(source, "its end is missing: it was cut off or changed")
        (found,) = connection.execute(_COPY_SQL["integrity"]).fetchone()
        if found != "ok":
            raise _damaged(source, found)
    return revision


def _damaged(source: Path, why: str) -> ProtocolError:
    return ProtocolError(f"{source} is a damaged backup ({why}). Use another copy of it.")


def _take_export(part: Path, file: BinaryIO, progress: Progress | None) -> Counter[str]:
    lines = read_export(file)
    _, header = next(lines)  # before a database is made for it
    assert isinstance(header, Header)  # the first line is one, or `read_export` says that it is not
    _upgrade(part)
    with closing(sqlite3.connect(part, isolation_level=None)) as connection:
        for setting in ("alone", "no_sync", "quick_journal"):
            connection.execute(_COPY_SQL[setting]).fetchall()
        connection.execute(_SQL["foreign_keys"])
        connection.execute(_SQL["begin_write"])
        done = fill(connection, _watched(lines, sum(header.counts.values()), progress))
        connection.execute(_SQL["commit"])
    return done


def _upgrade(part: Path) -> None:
    from runwire.storage.migrations.upgrade import upgrade

    upgrade(part)


def _remove(part: Path) -> None:
    for side in ("", "-journal", "-wal", "-shm"):
        part.with_name(part.name + side).unlink(missing_ok=True)
