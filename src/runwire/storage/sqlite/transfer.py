"""Export and import of a SQLite file: its rows as lines of `storage/transfer.py`, and back."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from runwire.storage.sql import load
from runwire.storage.transfer import KINDS, Damaged, Header, Record, Run, kind_of
from runwire.storage.transfer_rows import BLOCKS, record_of, row_of

__all__ = ["count", "dump", "fill"]

_SQL: Final = load("sqlite_transfer.sql")


def count(connection: sqlite3.Connection, user: str | None) -> dict[str, int]:
    """Return how many lines of each kind `dump` yields; call both in one read transaction."""
    return {kind_of(kind): connection.execute(_SQL[BLOCKS[kind].counting], (user,)).fetchone()[0] for kind in KINDS}


def dump(connection: sqlite3.Connection, user: str | None) -> Iterator[Record]:
    """Yield everything that is exported, or what belongs to one user; holds one row at a time.

    Not among it: deleted threads, sessions, links, tickets, invitations, resets, signing keys, the log of auth changes,
    who holds a run.
    """
    for kind in KINDS:
        for row in connection.execute(_SQL[BLOCKS[kind].reading], (user,)):
            yield record_of(kind, row)


def fill(connection: sqlite3.Connection, lines: Iterable[tuple[int, Header | Record]]) -> Counter[str]:
    """Insert everything into an empty database, in the caller's transaction; returns how many of each kind.

    Raises:
        Damaged: a line names what is not there, or is there twice; the caller gives the database up.
    """
    counts: Counter[str] = Counter()
    for number, record in lines:
        if isinstance(record, Header):
            continue
        try:
            _insert(connection, record, number)
        except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, ValueError) as error:
            raise Damaged(f"Line {number}: the database refuses it ({error}).") from error
        counts[kind_of(record)] += 1
    gap = connection.execute(_SQL["gaps"]).fetchone()
    if gap is not None:
        raise Damaged(f"The events of thread {gap[0]} have a gap, or do not end at its head.")
    misplaced = connection.execute(_SQL["misplaced"]).fetchone()
    if misplaced is not None:
        raise Damaged(f"The message, start or end of run {misplaced[0]} is not where it says.")
    return counts


def _insert(connection: sqlite3.Connection, record: Record, number: int) -> None:
    done = connection.execute(_SQL[BLOCKS[type(record)].adding], row_of(record)).rowcount
    if done != 1:
        raise Damaged(f"Line {number}: this {kind_of(record)} names something that no line before it has.")
    if isinstance(record, Run) and record.pinned is not None:
        connection.execute(_SQL["add_pinned"], (record.run, record.pinned.encode()))
