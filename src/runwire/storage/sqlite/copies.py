"""Copies of a data file, and what makes each of them a history of its own.

A copy has no log (`meta.log` is empty) and none of the secrets that sign people in without their password or key.
Whoever opens it first gives it a log, so two servers that start from one copy have two logs, and a client's position
from before is answered with `reset`. Behind the last page stands the seal: a line with the length and the SHA-256 of
all before it. SQLite does not look there, so a copy that is put in the place of a data file just works; the first
start checks the seal and cuts it off.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from runwire.errors import ConfigurationError
from runwire.storage.base_upkeep import BackedUp
from runwire.storage.placing import placed, unwritable
from runwire.storage.sql import load

__all__ = ["Progress", "adopt", "begin_history", "copy_database", "foreign_code", "mark", "tables_of"]

Progress = Callable[[int, int], None]  # (done, in all); what it raises ends the work

STEP_INSTRUCTIONS: Final = 1_000  # of SQLite's machine, ms at most; between two steps the copy may be called off
SYNC_EVERY_PAGES: Final = 8_192  # 32 MiB: one great flush at the end would hold up the commits of a server beside it
_CHUNK: Final = 1 << 20
_SEAL: Final = re.compile(rb"\nrunwire-backup 1 sha256:([0-9a-f]{64}) bytes:([0-9]{20})\n")
_SEAL_BYTES: Final = 117
_TARGET_FAULTS: Final = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY")
_SIDES: Final = ("-wal", "-shm", "-journal")
_SECRETS: Final = {  # table to the block that empties it
    "auth_signing_key": "forget_signing_keys",
    "auth_session": "forget_sessions",
    "auth_link": "forget_links",
    "auth_ticket": "forget_tickets",
    "auth_invite": "forget_invites",
    "auth_reset": "forget_resets",
}

_SQL: Final = load("sqlite.sql")
_COPY_SQL: Final = load("sqlite_copies.sql")


def copy_database(
    source: sqlite3.Connection, target: Path, *, progress: Progress | None = None, replaces: bool = False
) -> BackedUp:
    """Copy a database as it is at one moment, while others write to it; blocks.

    Args:
        source: a connection in autocommit; it reads in one transaction meanwhile, which holds up no writer.
        target: where the copy shall stand, whole or not at all.
        progress: called every few ms.
        replaces: whether a file of this name gives way.

    Raises:
        Conflict: there is something of this name.
        Unavailable: the copy could not be written; nothing is left of it.
        sqlite3.Error: the source cannot be read.
    """
    with placed(target, replaces=replaces) as part:
        try:
            log = _copy(source, part, progress)
        except _TargetError as error:
            raise unwritable(target, str(error)) from error
        finally:
            for side in _SIDES:
                with suppress(OSError):
                    part.with_name(part.name + side).unlink(missing_ok=True)
        size_bytes = _seal(part)
    return BackedUp(path=str(target), size_bytes=size_bytes, log=log)


class _TargetError(Exception):
    """The copy, not what it is made of, cannot be used."""


def _copy(source: sqlite3.Connection, part: Path, progress: Progress | None) -> str:
    """Write every row anew: what was deleted is in no copy, neither in free pages nor between the rows."""
    (page_bytes,), (pages,), (free,) = (
        source.execute(block).fetchone() for block in (_SQL["page_size"], _COPY_SQL["pages"], _SQL["free_pages"])
    )
    failure: list[BaseException] = []
    with part.open("rb") as file:
        synced = 0

        def step() -> int:
            """Look after the copy while SQLite makes it; anything but 0 ends that."""
            nonlocal synced
            try:
                done = os.fstat(file.fileno()).st_size // page_bytes
                if done - synced >= SYNC_EVERY_PAGES:
                    os.fsync(file.fileno())
                    synced = done
                if progress is not None:
                    progress(min(done, pages - free), pages - free)
            except BaseException as error:  # through SQLite it would not come
                failure.append(error)
                return 1
            return 0

        source.set_progress_handler(step, STEP_INSTRUCTIONS)
        try:
            # One statement, and so one moment.
            source.execute(_COPY_SQL["copy_into"], (str(part.absolute()),))
        except sqlite3.Error as error:
            if failure:
                raise failure[0] from None
            if error.sqlite_errorname.startswith(_TARGET_FAULTS):
                raise _TargetError(str(error)) from error
            raise
        finally:
            source.set_progress_handler(None, 0)
    try:
        with closing(sqlite3.connect(part)) as copy:
            row = copy.execute(_COPY_SQL["log"]).fetchone()
        mark(part)
    except sqlite3.Error as error:
        raise _TargetError(str(error)) from error
    return row[0] if row else ""


def mark(path: Path) -> None:
    """Take log and sign-in secrets out of a file that nobody else uses, and leave it without a write-ahead log."""
    with closing(sqlite3.connect(path, isolation_level=None)) as copy:
        for setting in ("alone", "no_sync", "plain_journal", "quick_journal", "secure_delete"):
            copy.execute(_COPY_SQL[setting]).fetchall()
        copy.execute(_SQL["begin_write"])
        copy.execute(_COPY_SQL["take_log_away"])
        _forget_secrets(copy)
        copy.execute(_SQL["commit"])


def begin_history(connection: sqlite3.Connection) -> None:
    """Give a copy that is opened for the first time a log of its own; any other file stays as it is."""
    row = connection.execute(_COPY_SQL["log"]).fetchone()
    if row is None or row[0]:
        return
    # One transaction: a process killed in it leaves a copy, for the next start to begin with.
    connection.execute(_SQL["begin_write"])
    _forget_secrets(connection)  # again: a copy of an older release may have been made without
    connection.execute(_COPY_SQL["give_generation"], (secrets.token_hex(8),))
    connection.execute(_COPY_SQL["give_log"], (secrets.token_hex(6),))
    connection.execute(_SQL["commit"])


def _forget_secrets(connection: sqlite3.Connection) -> None:
    for table in tables_of(connection).intersection(_SECRETS):  # an older revision may not have them all
        connection.execute(_COPY_SQL[_SECRETS[table]])


def foreign_code(connection: sqlite3.Connection) -> str | None:
    """Name a trigger, view or virtual table, of which a database of ours has none; ask before any other statement."""
    row = connection.execute(_COPY_SQL["foreign_code"]).fetchone()
    return None if row is None else ascii(row[0])


def tables_of(connection: sqlite3.Connection) -> set[str]:
    """Return the names of all tables."""
    return {name for (name,) in connection.execute(_SQL["tables"])}


def _seal(path: Path) -> int:
    """Append the seal; returns the size of the whole file."""
    with path.open("r+b") as file:
        digest, size = _digest(file.fileno(), path.stat().st_size)
        seal = b"\nrunwire-backup 1 sha256:%s bytes:%020d\n" % (digest.encode(), size)
        file.seek(0, os.SEEK_END)
        file.write(seal)
    return size + len(seal)


def _find_seal(path: Path) -> bool:
    """Check the seal of a copy; returns whether there is one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(100)
        file.seek(max(0, size - _SEAL_BYTES))
        found = _SEAL.fullmatch(file.read())
        page_bytes = int.from_bytes(header[16:18], "big") or 1
        # A data file is whole pages: text that somebody sent, at its very end, is no seal.
        if found is None or (page_bytes > 1 and size % page_bytes == 0):
            return False
        digest, counted = _digest(file.fileno(), size - _SEAL_BYTES)
    if (digest.encode(), counted) != (found[1], int(found[2])):
        raise ConfigurationError([f"{path} is a damaged backup: it is not what was written. Use another copy of it."])
    return True


def adopt(path: Path) -> bool:
    """Check a copy that is to be used and cut off its seal; returns whether there was one. Nobody may have it open.

    Raises:
        ConfigurationError: the copy is damaged.
        OSError: the file cannot be read.
    """
    if not _find_seal(path):
        return False
    # What a killed server left beside the file that stood here is not of this one: SQLite would mix the two.
    for side in _SIDES:
        path.with_name(path.name + side).unlink(missing_ok=True)
    # Last, and before SQLite writes its first byte, after which the seal does not fit any more.
    os.truncate(path, path.stat().st_size - _SEAL_BYTES)
    return True


def _digest(descriptor: int, size: int) -> tuple[str, int]:
    """Return the SHA-256 of a file's first bytes, and how many there were."""
    digest, at = hashlib.sha256(), 0
    while chunk := os.pread(descriptor, min(_CHUNK, size - at), at):
        digest.update(chunk)
        at += len(chunk)
    return digest.hexdigest(), at
