"""The portable form of a database: JSON lines that any adapter writes and reads (docs/reference/export-format.md).

Each line is one JSON object; its first member `crc` is the CRC-32 of the rest, so that damage is found in its line. The
first is the `Header`, the last the `End`, without which the file is not whole. Things name each other by the ids of
the wire, and come after what they name; the order of lines of one kind is the order in which things were made.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, pairwise
from typing import Annotated, Any, BinaryIO, Final, Literal, Protocol

import msgspec

from runwire.errors import ProtocolError
from runwire.protocol.events import TERMINAL_TYPES, unpack
from runwire.protocol.ids import ID_PATTERN
from runwire.storage.base_audit import AuditEntry, storable
from runwire.storage.external import subject_hash

__all__ = [
    "FORMAT",
    "KINDS",
    "MAX_LINE_BYTES",
    "Account",
    "ApiKey",
    "AuditLine",
    "Blob",
    "Damaged",
    "End",
    "Event",
    "External",
    "Header",
    "Readable",
    "Record",
    "Run",
    "Segment",
    "Thread",
    "User",
    "Wait",
    "kind_of",
    "read_export",
    "write_export",
]

FORMAT: Final = 2
_READABLE: Final = (1, FORMAT)  # format 1 has neither external identities nor the audit
_Whole = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # that every database has room for

MAX_LINE_BYTES: Final = 64 * 1024 * 1024  # the longest holds one segment, pinned history or stored value


class _Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """A line of an export."""


class Header(_Line, frozen=True, tag="export"):
    """The first line: what this is."""

    format: int  # another number than FORMAT is another format
    release: str  # of Runwire that wrote it
    log: str  # the history it was taken of; who imports it begins another
    created_at: _Whole  # ms UTC, like all times
    user: str | None  # the name of the only user in it; None: everybody
    counts: Mapping[str, int]  # how many lines of each kind follow


class Account(_Line, frozen=True, tag="account"):
    """A user of the built-in auth service."""

    user: str
    name: str
    status: Literal["active", "disabled", "deleted"]
    epoch: _Whole
    roles: list[str]
    password_hash: str | None  # argon2id
    created_at: _Whole
    valid_from: _Whole = 0  # when the epoch last moved


class ApiKey(_Line, frozen=True, tag="api_key"):
    """An API key; its secret exists only with its owner."""

    key: str
    user: str
    secret_hash: str  # SHA-256, hexadecimal
    label: str
    created_at: _Whole
    expires_at: _Whole | None
    revoked_at: _Whole | None
    reason: str | None
    scopes: list[str] = msgspec.field(default_factory=lambda: ["runwire"])
    last_used_at: _Whole | None = None


class External(_Line, frozen=True, tag="external"):
    """Whom another issuer knows as an account."""

    subject_hash: str  # of issuer and subject, hexadecimal; `storage/external.py` makes it
    issuer: str
    subject: str | None  # None: erased
    user: str


class AuditLine(_Line, frozen=True, tag="audit"):
    """Who did what to whom."""

    seq: _Whole
    at: _Whole
    actor: str | None
    actor_kind: Literal["user", "key", "service", "operator", "system"]
    action: str
    subject: str | None
    address: str
    detail: dict[str, str]


class User(_Line, frozen=True, tag="user"):
    """Somebody who has talked to the server."""

    user: str
    iss: str
    sub: str
    created_at: _Whole
    quarantined_at: _Whole | None = None


class Thread(_Line, frozen=True, tag="thread"):
    """A conversation that was not deleted."""

    thread: str
    user: str
    title: str | None
    head: _Whole
    floor: _Whole
    created_at: _Whole
    updated_at: _Whole


class Run(_Line, frozen=True, tag="run"):
    """A run, ended or not."""

    run: str
    thread: str
    agent: str
    message: str
    after: _Whole
    seq: _Whole
    status: Literal["queued", "running", "waiting", "completed", "failed", "cancelled"]
    attempt: _Whole
    ordinal: _Whole
    handed_over: str | None
    cancel_by: str | None
    cancel_reason: str | None
    error: str | None  # JSON
    started_seq: _Whole | None
    terminal_seq: _Whole | None
    idempotency_key: str | None
    fingerprint: str | None
    created_at: _Whole
    ended_at: _Whole | None
    compacted_at: _Whole | None
    lost: str = ""  # attempts whose worker was lost: "1,3,"
    woken_at: _Whole | None = None  # since when a parked run is to be claimed
    closing: str | None = None  # what ends a parked run, should it be cancelled: packed events, JSON
    pinned: str | None = None  # what a replay reads again: JSON


class Wait(_Line, frozen=True, tag="wait"):
    """What a run waits, or waited, for."""

    run: str
    wait: str
    waits_for: Literal["approval", "input", "timer"]
    due_at: _Whole | None
    by: str | None  # who or what ended it; None: it is open
    value: str | None  # of an answer, JSON


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event of a segment."""

    seq: _Whole
    type: str
    ts: _Whole
    data: msgspec.Raw
    scope: str


class Segment(_Line, frozen=True, tag="segment"):
    """A stretch of a thread's log, all of one run. Compaction leaves out events, but covers their seqs."""

    thread: str
    run: str
    first_seq: _Whole
    last_seq: _Whole
    attempt: _Whole
    ordinal: _Whole | None
    events: list[Event]  # seq ascending


class Blob(_Line, frozen=True, tag="blob"):
    """A large value that `$ref` in an event of the run names."""

    run: str
    ref: str
    data: str  # JSON


class End(_Line, frozen=True, tag="end"):
    """The last line: all is there."""

    lines: int  # before this one
    sha256: str  # of all of them, with their line ends


Record = Account | ApiKey | External | AuditLine | User | Thread | Run | Wait | Segment | Blob
# In this order: each thing comes after what it names.
KINDS: Final[tuple[type[Record], ...]] = (Account, ApiKey, External, AuditLine, User, Thread, Run, Wait, Segment, Blob)

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Header | Record | End)
_LINE: Final = re.compile(rb'\{"crc":"([0-9a-f]{8})",(.*)\n', re.DOTALL)
_ID: Final = re.compile(ID_PATTERN)
_NAME: Final = re.compile(r"[\w.@+-]{1,128}")
_PASSWORD_HASH: Final = re.compile(r"\$argon2id\$(?:v=\d+\$)?m=(\d{1,7}),t=(\d{1,3}),p=(\d{1,2})\$[!-~]{1,512}")
_HASH_MEMORY_KIB: Final = 1_048_576  # who signs in spends what the hash says
_ROLES: Final = 64  # or scopes
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_LOST: Final = re.compile(r"([1-9]\d{0,17},)*")
_PLACE: Final = {kind: place for place, kind in enumerate(KINDS)}


class Damaged(ProtocolError):
    """Refuse a file that is not what was written; the sentence names the line."""


def kind_of(record: Record | type[Record]) -> str:
    """Return the word for a record's kind."""
    tag = record.__struct_config__.tag
    assert isinstance(tag, str)  # each class above has one
    return tag


def write_export(out: BinaryIO, header: Header, records: Iterable[Record]) -> None:
    """Write an export. It holds one line at a time."""
    digest, lines = hashlib.sha256(), 0
    for lines, record in enumerate(chain((header,), records), start=1):  # noqa: B007 - the number is used after it
        line = _encoded(record)
        digest.update(line)
        out.write(line)
    out.write(_encoded(End(lines=lines, sha256=digest.hexdigest())))


def _encoded(record: Header | Record | End) -> bytes:
    body = _encoder.encode(record)[1:]
    return b'{"crc":"%08x",%s\n' % (zlib.crc32(body), body)


class Readable(Protocol):
    """What an export is read from."""

    def readline(self, limit: int, /) -> bytes:
        """Return a line with its end, or so many bytes of it."""
        ...

    def read(self, size: int, /) -> bytes:
        """Return up to so many bytes."""
        ...


def read_export(file: Readable) -> Iterator[tuple[int, Header | Record]]:
    """Yield (line number, record) of an export, the header first; only who takes the last one has a whole file.

    It holds one line at a time.

    Raises:
        Damaged: a line is not what was written, or the end is missing. What was yielded before must be undone.
    """
    digest, number = hashlib.sha256(), 0
    counts: Counter[str] = Counter()
    header: Header | None = None
    place = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        record = _decoded(line, number)
        if isinstance(record, End):
            _check_end(record, number, header, counts, digest.hexdigest())
            if file.read(1):
                raise Damaged(f"Line {number + 1}: there is more after the last line.")
            return
        digest.update(line)
        if isinstance(record, Header):
            if header is not None:
                raise Damaged(f"Line {number}: a second header; these are two exports in one file.")
            header = record
        else:
            if header is None:
                raise Damaged("Line 1: this is no export of Runwire: it has no header.")
            if _PLACE[type(record)] < place:
                raise Damaged(f"Line {number}: a line of kind {kind_of(record)} is out of order.")
            place = _PLACE[type(record)]
            counts[kind_of(record)] += 1
        yield number, record
    raise Damaged(f"The export ends after line {number}, before its last line: it was cut off. Use a whole copy of it.")


def _decoded(line: bytes, number: int) -> Header | Record | End:
    found = _LINE.fullmatch(line)
    if found is None:
        if number == 1:
            raise Damaged("Line 1: this is neither an export nor a backup of Runwire.")
        is_cut = not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES
        raise Damaged(
            f"Line {number}: the export was cut off in it. Use a whole copy of it."
            if is_cut
            else f"Line {number}: this is no line of an export."
        )
    if zlib.crc32(found[2]) != int(found[1], 16):
        raise Damaged(f"Line {number}: it is not what was written (its checksum differs). Use another copy.")
    try:
        record: Header | Record | End = _decoder.decode(b"{" + found[2])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Damaged(f"Line {number}: {error}.") from error
    except RecursionError:
        raise Damaged(f"Line {number}: it is nested too deeply.") from None
    _check(record, number)
    return record


def _check(record: Header | Record | End, number: int) -> None:
    """Check what a type does not say; what it names is checked by who stores it."""
    if isinstance(record, Header):
        if record.format not in _READABLE:
            raise Damaged(f"The export has format {record.format}; this release reads {FORMAT}: upgrade Runwire.")
        return
    for name in ("user", "key", "thread", "run", "message", "wait", "ref"):
        ident = getattr(record, name, None)
        if ident is not None and not _ID.fullmatch(ident):
            raise Damaged(f"Line {number}: `{name}` is no id.")
    check = _FAULTS.get(type(record))
    fault = check(record) if check else None
    if fault is not None:
        raise Damaged(f"Line {number}: {fault}.")


def _fault_of_account(account: Account) -> str | None:
    if not _NAME.fullmatch(account.name):
        return "`name` is no name of a user"
    if len(account.roles) > _ROLES or not all(_ID.fullmatch(role) for role in account.roles):
        return "`roles` are none"
    if account.password_hash is not None:
        found = _PASSWORD_HASH.fullmatch(account.password_hash)
        if found is None or int(found[1]) > _HASH_MEMORY_KIB or int(found[2]) > 100:
            return "`password_hash` is no argon2id hash, or costs too much to check"
    if account.status == "deleted" and (account.roles or account.password_hash is not None):
        return "a deleted user has neither roles nor a password"
    return None


def _fault_of_key(key: ApiKey) -> str | None:
    if len(key.scopes) > _ROLES or not all(_ID.fullmatch(scope) for scope in key.scopes):
        return "`scopes` are none"
    return None


def _fault_of_external(external: External) -> str | None:
    if _HASH.fullmatch(external.subject_hash) is None:
        return "`subject_hash` is no hash"
    if external.subject is None:
        return None
    is_of_it = subject_hash(external.issuer, external.subject).hex() == external.subject_hash
    return None if is_of_it else "`subject_hash` is of another subject"


def _fault_of_audit(line: AuditLine) -> str | None:
    entry = AuditEntry(
        actor=line.actor,
        actor_kind=line.actor_kind,
        action=line.action,
        subject=line.subject,
        address=line.address,
        detail=line.detail,
    )
    return None if storable(entry) == entry else "it is longer than the audit allows, or has control characters"


def _fault_of_run(run: Run) -> str | None:
    is_over = run.status in ("completed", "failed", "cancelled")
    if (run.terminal_seq is not None, run.ended_at is not None) != (is_over, is_over):
        return "its end does not fit its status"
    if not all(text is None or _is_json(text, dict[str, Any]) for text in (run.error, run.pinned)):
        return "`error` or `pinned` is no JSON object"
    if not _LOST.fullmatch(run.lost):
        return "`lost` is no list of attempts"
    if (run.closing is not None) != (run.status == "waiting") or not (run.woken_at is None or run.closing is not None):
        return "what a parked run has does not fit its status"
    return None if run.closing is None else _fault_of_closing(run.closing)


def _fault_of_closing(closing: str) -> str | None:
    try:
        types = {event.type for event in unpack(closing.encode(), first_seq=1, run="", attempt=0)}
    except (msgspec.MsgspecError, RecursionError):
        return "`closing` has no events"
    return "`closing` has an end" if types & set(TERMINAL_TYPES) else None


def _fault_of_wait(wait: Wait) -> str | None:
    if wait.value is not None and (wait.by is None or not _is_json(wait.value, msgspec.Raw)):
        return "its value is no answer"
    return None


def _fault_of_segment(segment: Segment) -> str | None:
    seqs = [event.seq for event in segment.events]
    is_within = not seqs or (segment.first_seq <= seqs[0] and seqs[-1] <= segment.last_seq)
    is_rising = all(before < seq for before, seq in pairwise(seqs))
    if not (1 <= segment.first_seq <= segment.last_seq and is_within and is_rising):
        return "the seqs of its events do not fit"
    if not all(_ID.fullmatch(event.type) and bytes(event.data).startswith(b"{") for event in segment.events):
        return "an event has no type, or its data is no JSON object"
    ends = [event.seq for event in segment.events if event.type in TERMINAL_TYPES]
    return None if ends in ([], [segment.last_seq]) else "a run goes on after its end"


_FAULTS: Final[Mapping[type[Any], Callable[[Any], str | None]]] = {
    Account: _fault_of_account,
    ApiKey: _fault_of_key,
    External: _fault_of_external,
    AuditLine: _fault_of_audit,
    Thread: lambda thread: None if thread.floor <= thread.head else "its floor lies above its head",
    Run: _fault_of_run,
    Wait: _fault_of_wait,
    Segment: _fault_of_segment,
    Blob: lambda blob: None if _is_json(blob.data, msgspec.Raw) else "its data is no JSON",
}


def _is_json(text: str, kind: Any) -> bool:
    try:
        msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def _check_end(end: End, number: int, header: Header | None, counts: Counter[str], sha256: str) -> None:
    if header is None:
        raise Damaged("Line 1: this is no export of Runwire: it has no header.")
    if end.lines != number - 1 or Counter(header.counts) != counts:
        raise Damaged(f"Line {number}: lines are missing, or there are more than were written. Use another copy.")
    if end.sha256 != sha256:
        raise Damaged(f"Line {number}: the checksum of the whole differs: lines were changed. Use another copy.")
