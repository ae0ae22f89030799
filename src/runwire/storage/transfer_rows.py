"""Lines of an export as rows of a database, and back: the columns are the same in every adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from runwire.protocol.events import TERMINAL_TYPES, EventType, StoredEvent, pack_stored, unpack
from runwire.storage.batches import FLAG_STARTED, FLAG_TERMINAL
from runwire.storage.transfer import (
    Account,
    ApiKey,
    AuditLine,
    Blob,
    Event,
    External,
    Record,
    Run,
    Segment,
    Thread,
    User,
    Wait,
)

__all__ = ["BLOCKS", "Blocks", "Row", "record_of", "row_of"]

Row = tuple[Any, ...]


class Blocks(NamedTuple):
    """The names of the statements of a kind."""

    counting: str
    reading: str
    adding: str


BLOCKS: Final[Mapping[type[Record], Blocks]] = MappingProxyType(
    {
        Account: Blocks("count_account", "account", "add_account"),
        ApiKey: Blocks("count_api_key", "api_key", "add_api_key"),
        External: Blocks("count_external", "external", "add_external"),
        AuditLine: Blocks("count_audit", "audit", "add_audit"),
        User: Blocks("count_user", "user", "add_user"),
        Thread: Blocks("count_thread", "thread", "add_thread"),
        Run: Blocks("count_run", "run", "add_run"),
        Wait: Blocks("count_wait", "wait", "add_wait"),
        Segment: Blocks("count_segment", "segment", "add_segment"),
        Blob: Blocks("count_blob", "blob", "add_blob"),
    }
)


def record_of(kind: type[Record], row: Row) -> Record:
    """Return the line for a row of that kind."""
    return _RECORDS[kind](row)


def row_of(record: Record) -> Row:
    """Return the row for a line; what it names is named by ids."""
    if isinstance(record, Account):
        user, name, status, epoch, _, *rest = msgspec.structs.astuple(record)
        return (user, name, status, epoch, _listed(record.roles), *rest)
    if isinstance(record, ApiKey):
        key, user, secret_hash, *rest, _, last_used_at = msgspec.structs.astuple(record)
        return (key, user, bytes.fromhex(secret_hash), *rest, _listed(record.scopes), last_used_at)
    if isinstance(record, External):
        return (bytes.fromhex(record.subject_hash), record.issuer, record.subject, record.user)
    if isinstance(record, AuditLine):
        return (*msgspec.structs.astuple(record)[:-1], msgspec.json.encode(record.detail).decode())
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


def _named(kind: type[Record], row: Row) -> Record:
    return kind(**dict(zip(kind.__struct_fields__, row, strict=True)))


def _account(row: Row) -> Record:
    user, name, status, epoch, roles, *rest = row
    return _named(Account, (user, name, status, epoch, msgspec.json.decode(roles, type=list[str]), *rest))


def _api_key(row: Row) -> Record:
    key, user, secret_hash, *rest, scopes, last_used_at = row
    words = msgspec.json.decode(scopes, type=list[str])
    return _named(ApiKey, (key, user, secret_hash.hex(), *rest, words, last_used_at))


def _listed(words: Sequence[str]) -> str:
    return msgspec.json.encode(sorted(words)).decode()


def _segment(row: Row) -> Segment:
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


_RECORDS: Final[Mapping[type[Record], Callable[[Row], Record]]] = MappingProxyType(
    {
        Account: _account,
        ApiKey: _api_key,
        External: lambda row: _named(External, (row[0].hex(), *row[1:])),
        AuditLine: lambda row: _named(AuditLine, (*row[:-1], msgspec.json.decode(row[-1], type=dict[str, str]))),
        User: lambda row: _named(User, row),
        Thread: lambda row: _named(Thread, row),
        Run: lambda row: _named(Run, (*row[:-2], *map(_decoded, row[-2:]))),
        Wait: lambda row: _named(Wait, (*row[:-1], _decoded(row[-1]))),
        Segment: _segment,
        Blob: lambda row: Blob(run=row[0], ref=row[1], data=row[2].decode()),
    }
)


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
