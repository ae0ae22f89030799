"""`runwire user export`: all that is kept of one person, in one archive that they can read without us.

::

    profile.json     who they are to this server: account, sessions, API keys, when the backend met them
    threads.jsonl    one JSON object in each line, as in the other files
    runs.jsonl       what was asked of which agent, and how it ended
    events.jsonl     everything that was said and done in these runs, in the order of each thread
    waits.jsonl      what agents asked them, and their answers
    blobs.jsonl      large values that events name by `$ref`
    audit.jsonl      what they did here, and what was done to their account
    manifest.json    what this is: when, by which release, how many of each
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby
from typing import Any, BinaryIO, Final

import msgspec

from runwire.app.erasing import find_account
from runwire.storage.base import AuditEntry, Storage
from runwire.storage.clock import now_ms
from runwire.storage.placed import Placed
from runwire.storage.sqlite.control import Verb
from runwire.storage.transfer import Blob, Record, Run, Segment, Thread, Wait

__all__ = ["FILES", "PortraitVerbs", "write_portrait"]

FILES: Final[Mapping[type[Record], str]] = {
    Thread: "threads.jsonl",
    Run: "runs.jsonl",
    Wait: "waits.jsonl",
    Segment: "events.jsonl",
    Blob: "blobs.jsonl",
}
# How runs are kept alive is about the server, and what only lets a replay go on is not about the person.
_OF_SERVER: Final = frozenset(
    {"kind", "attempt", "ordinal", "handed_over", "compacted_at", "lost", "woken_at", "fingerprint"}
)

_AUDIT_ROWS: Final = 1_000  # looked at in one go

_encoder: Final = msgspec.json.Encoder()


class PortraitVerbs:
    """What whoever owns the databases tells of a person, besides what is in the tables of runs.

    Args:
        storages: the databases; accounts are in the first one.
    """

    def __init__(self, storages: Placed[Storage]) -> None:
        self._storages = storages

    def table(self) -> dict[str, Verb]:
        """Return verb → what does it."""
        return {"person_profile": self.profile, "person_audit": self.audit, "person_told": self.told}

    async def profile(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Say who somebody is. Neither a secret nor what one could be guessed from."""
        auth = self._storages.first.auth
        row = await find_account(self._storages.first, arguments["name"])
        external = await auth.external_of(row.user)
        person = await self._storages.of(row.user).people.get(row.user)
        sessions = await auth.list_sessions(row.user)
        keys = await auth.list_keys(row.user)
        return {
            **msgspec.to_builtins(row),
            "external": None if external is None else dict(zip(("issuer", "subject"), external, strict=True)),
            "met": None if person is None else msgspec.to_builtins(person),
            "sessions": [_chosen(one, "session", "client", "address", "created_at", "expires_at") for one in sessions],
            "api_keys": [
                _chosen(one, "key", "label", "scopes", "created_at", "expires_at", "revoked_at", "last_used_at")
                for one in keys
            ],
        }

    async def audit(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Look through a stretch of the audit for what somebody did, or was done to them."""
        words, cursor = set(arguments["words"]), arguments["cursor"]
        page = await self._storages.first.auth.audit_after(cursor, limit=_AUDIT_ROWS)
        return {
            "rows": [msgspec.to_builtins(row) for row in page.rows if {row.entry.actor, row.entry.subject} & words],
            "cursor": page.rows[-1].seq if page.rows else cursor,
            "has_more": len(page.rows) == _AUDIT_ROWS,
        }

    async def told(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Write down that all this was handed over."""
        entry = AuditEntry(actor=None, actor_kind="operator", action="user.export", subject=arguments["user"])
        await self._storages.first.auth.record(entry)
        return {}


def _chosen(row: msgspec.Struct, *names: str) -> dict[str, Any]:
    return {name: msgspec.to_builtins(getattr(row, name)) for name in names}


def write_portrait(
    out: BinaryIO, *, profile: dict[str, Any], records: Iterable[Record], audit: Iterable[Any], release: str
) -> dict[str, int]:
    """Write the archive; it holds one line at a time.

    Args:
        out: where it goes.
        profile: `profile.json`.
        records: of one user, as `read_export` gives them: each kind by itself.
        audit: rows of the audit, JSON each.
        release: of this program.

    Returns:
        How many lines each file has.
    """
    counts: Counter[str] = Counter()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("profile.json", msgspec.json.format(_encoder.encode(profile)))
        for name, theirs in groupby(filter(_is_told, records), key=lambda record: FILES[type(record)]):
            with archive.open(name, "w", force_zip64=True) as file:
                for line in chain.from_iterable(map(_lines, theirs)):
                    file.write(_encoder.encode(line) + b"\n")
                    counts[name] += 1
        for missing in sorted({*FILES.values()} - set(counts)):
            archive.writestr(missing, b"")
        with archive.open("audit.jsonl", "w", force_zip64=True) as file:
            for row in audit:
                file.write(_encoder.encode(row) + b"\n")
                counts["audit.jsonl"] += 1
        manifest = {
            "format": "runwire-person",
            "version": 1,
            "release": release,
            "created_at": now_ms(),
            "user": profile["user"],
            "lines": dict(sorted(counts.items())),
        }
        archive.writestr("manifest.json", msgspec.json.format(_encoder.encode(manifest)))
    return dict(counts)


def _is_told(record: Record) -> bool:
    """Return whether a record has a file: the account is in the profile, without what leads to a secret."""
    return type(record) in FILES


def _lines(record: Record) -> Iterator[dict[str, Any]]:
    """Return a record as lines for a person; a segment is as many as it has events."""
    if isinstance(record, Segment):
        for event in record.events:
            yield {
                "thread": record.thread,
                "run": record.run,
                "seq": event.seq,
                "type": event.type,
                "ts": event.ts,
                "data": event.data,
            }
        return
    line: dict[str, Any] = {
        name: value for name, value in msgspec.structs.asdict(record).items() if name not in _OF_SERVER
    }
    for name in ("error", "pinned", "closing", "value", "data"):
        if isinstance(line.get(name), str):
            line[name] = msgspec.Raw(line[name].encode())  # JSON already
    yield line
