"""Export and import of a SQLite file: its rows as lines of `storage/transfer.py`, and back."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from runwire.protocol.events import TERMINAL_TYPES, EventType, StoredEvent, pack_stored, unpack
from runwire.storage.batches import FLAG_STARTED, FLAG_TERMINAL
from runwire.storage.sql import load
from runwire.storage.transfer import (
    KINDS,
    Account,
    ApiKey,
    Blob,
    Damaged,
    Event,
    Header,
    Record,
    Run,
    Segment,
    Thread,
    User,
    Wait,
    kind_of,
)

__all__ = ["count", "dump", "fill"]

_SQL: Final = load("sqlite_transfer.sql")

_Row = tuple[Any, ...]


class _Blocks(NamedTuple):
    """The statements of a kind."""

    counting: str
    reading: str
    adding: str


_BLOCKS: Final[Mapping[type[Record], _Blocks]] = MappingProxyType(
    {
        Account: _Blocks("count_account", "account", "add_account"),
        ApiKey: _Blocks("count_api_key", "api_key", "add_api_key"),
        User: _Blocks("count_user", "user", "add_user"),
        Thread: _Blocks("count_thread", "thread", "add_thread"),
        Run: _Blocks("count_run", "run", "add_run"),
        Wait: _Blocks("count_wait", "wait", "add_wait"),
        Segment: _Blocks("count_segment", "segment", "add_segment"),
        Blob: _Blocks("count_blob", "blob", "add_blob"),
    }
)


def count(connection: sqlite3.Connection, user: str | None) -> dict[str, int]:
    """Return how many lines of each kind `dump` yields; call both in one read transaction."""
    return {kind_of(kind): connection.execute(_SQL[_BLOCKS[kind].counting], (user,)).fetchone()[0] for kind in KINDS}


def dump(connection: sqlite3.Connection, user: str | None) -> Iterator[Record]:
    """Yield everything that is exported, or what belongs to one user; holds one row at a time.

    Not among it: deleted threads, sessions, links, tickets, signing keys, the log of auth changes, who holds a run.
    """
    for kind in KINDS:
        make = _RECORDS[kind]
        for row in connection.execute(_SQL[_BLOCKS[kind].reading], (user,)):
            yield make(row)


def _named(kind: type[Record], row: _Row) -> Record:
    return kind(**dict(zip(kind.__struct_fields__, row, strict=True)))


def _account(row: _Row) -> Account:
    user, name, status, epoch, roles, password_hash, created_at = row
    return Account(
        user=user,
        name=name,
        status=status,
        epoch=epoch,
        roles=msgspec.json.decode(roles, type=list[str]),
        password_hash=password_hash,
        created_at=created_at,
    )


def _segment(row: _Row) -> Segment:
    thread, run, first_seq, last_seq, attempt, ordinal, packed = row
    events = unpack(packed, first_seq=first_seq, run=run, attempt=attempt)
    return Segment(
        thread=thread,
        run=run,
        first_seq=first_seq,
        last_seq=last_seq,
        attempt=attempt,
        ordinal=ordinal,
        events=[Event(seq=e.seq, type=e.type, ts=e.ts, data=e.data, scope=e.scope) for e in events],
    )


def _decoded(data: bytes | None) -> str | None:
    return None if data is None else data.decode()


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


_RECORDS: Final[Mapping[type[Record], Callable[[_Row], Record]]] = MappingProxyType(
    {
        Account: _account,
        ApiKey: lambda row: _named(ApiKey, (*row[:2], row[2].hex(), *row[3:])),
        User: lambda row: _named(User, row),
        Thread: lambda row: _named(Thread, row),
        Run: lambda row: _named(Run, (*row[:-2], *map(_decoded, row[-2:]))),
        Wait: lambda row: _named(Wait, (*row[:-1], _decoded(row[-1]))),
        Segment: _segment,
        Blob: lambda row: Blob(run=row[0], ref=row[1], data=row[2].decode()),
    }
)


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
    done = connection.execute(_SQL[_BLOCKS[type(record)].adding], _values(record)).rowcount
    if done != 1:
        raise Damaged(f"Line {number}: this {kind_of(record)} names something that no line before it has.")
    if isinstance(record, Run) and record.pinned is not None:
        connection.execute(_SQL["add_pinned"], (record.run, record.pinned.encode()))


def _values(record: Record) -> _Row:
    if isinstance(record, Account):
        roles = msgspec.json.encode(sorted(record.roles)).decode()
        return (*msgspec.structs.astuple(record)[:4], roles, record.password_hash, record.created_at)
    if isinstance(record, ApiKey):
        key, user, secret_hash, *rest = msgspec.structs.astuple(record)
        return (key, user, bytes.fromhex(secret_hash), *rest)
    if isinstance(record, Run):
        return (*msgspec.structs.astuple(record)[:-2], _encoded(record.closing))
    if isinstance(record, Wait):
        return (*msgspec.structs.astuple(record)[:-1], _encoded(record.value))
    if isinstance(record, Segment):
        flags, packed = _packed(record)
        *rest, _ = msgspec.structs.astuple(record)
        return (*rest, flags, packed)
    if isinstance(record, Blob):
        return (record.run, record.ref, record.data.encode())
    return msgspec.structs.astuple(record)


def _packed(segment: Segment) -> tuple[int, bytes]:
    types = {event.type for event in segment.events}
    flags = (FLAG_STARTED if EventType.AGENT_STARTED in types else 0) | (
        FLAG_TERMINAL if types & set(TERMINAL_TYPES) else 0
    )
    events = [
        StoredEvent(
            seq=event.seq,
            run=segment.run,
            attempt=segment.attempt,
            type=event.type,
            ts=event.ts,
            data=event.data,
            scope=event.scope,
        )
        for event in segment.events
    ]
    return flags, pack_stored(events, first_seq=segment.first_seq)
