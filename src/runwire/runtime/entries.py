"""What waits in a run's buffer: encoded events, and adjacent deltas that are one event by the time they are sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from runwire.agents.payload import MAX_FIELD_BYTES, put_aside
from runwire.protocol.events import (
    AgentResumed,
    AgentThinking,
    AgentWaiting,
    EmittedEvent,
    EventData,
    MessageCompleted,
    TextDelta,
    ThinkingDelta,
    emitted,
)
from runwire.protocol.replay import Emit
from runwire.protocol.sayings import DELTA_CODE_POINTS
from runwire.storage.base import OpenedWait

__all__ = ["Entry", "OpenDelta", "entries_of"]

_EVENT_BYTES: Final = 96  # what an event weighs beside its text: ids, type, time


class OpenDelta(msgspec.Struct, eq=False, gc=False):
    """Adjacent deltas of one stream: one event as soon as they are frozen."""

    first: TextDelta | ThinkingDelta
    stream: str
    scope: str
    ts: int
    end: int  # where the next one begins, in code points
    texts: list[str]

    def take(self, later: OpenDelta) -> bool:
        """Merge a delta that goes on where this one ends; return whether it did."""
        is_next = self.end == later.first.offset and self.stream == later.stream and self.scope == later.scope
        # Longer, its text could pass 64 KiB of JSON and would have to be put aside.
        if not is_next or later.end - self.first.offset > DELTA_CODE_POINTS:
            return False
        self.texts += later.texts
        self.end = later.end
        return True

    def seal(self) -> EmittedEvent:
        """Encode what was merged."""
        whole = msgspec.structs.replace(self.first, text="".join(self.texts))
        return emitted(whole, ts=self.ts, scope=self.scope)


class Entry(msgspec.Struct, eq=False, gc=False):
    """An event that waits, and what it weighs."""

    event: EmittedEvent | OpenDelta
    size_bytes: int
    blobs: Mapping[str, bytes] | None = None  # that it names
    wait: OpenedWait | str | None = None  # that it begins, or the id of the one that it closes


def entries_of(emits: Iterable[Emit], ts: int, blobs: Mapping[str, bytes] | None) -> list[Entry]:
    """Return what is to be stored and what each weighs; encoding happens here, outside of every lock."""
    entries: list[Entry] = []
    for emit in emits:
        data = emit.data
        if isinstance(data, TextDelta):
            entries.append(_open(data, data.message, ts=ts, scope=emit.scope))
        elif isinstance(data, ThinkingDelta):
            entries.append(_open(data, data.thinking, ts=ts, scope=emit.scope))
        else:
            event = emitted(data, ts=ts, scope=emit.scope)
            size = len(event.data)
            if size > MAX_FIELD_BYTES:
                event, blobs = _put_aside(event, data, blobs or {})
                size = len(event.data)
            entry = Entry(event, size + _EVENT_BYTES)
            if isinstance(data, AgentWaiting):
                entry.wait = OpenedWait(wait=data.wait, kind=data.kind, due_at=data.due_at)
            elif isinstance(data, AgentResumed):
                entry.wait = data.wait
            if blobs:
                entry.blobs = blobs
                entry.size_bytes += sum(map(len, blobs.values()))
                blobs = None  # with the first event of the list: never later than the one that names them
            entries.append(entry)
    return entries


def _open(delta: TextDelta | ThinkingDelta, stream: str, *, ts: int, scope: str) -> Entry:
    text = delta.text
    size = len(text) if text.isascii() else len(text.encode())
    return Entry(OpenDelta(delta, stream, scope, ts, delta.offset + len(text), [text]), size + _EVENT_BYTES)


def _put_aside(
    event: EmittedEvent, data: EventData, blobs: Mapping[str, bytes]
) -> tuple[EmittedEvent, Mapping[str, bytes]]:
    """Put the whole text of a stream aside, if this is its completion: nobody else knows how long it is."""
    more = dict(blobs)
    # Its pieces were checked when they were said, so no limit can be passed here.
    if isinstance(data, MessageCompleted) and isinstance(data.content, str):
        data = msgspec.structs.replace(data, content=put_aside(data.content, more, limit_bytes=len(event.data)))
    elif isinstance(data, AgentThinking) and isinstance(data.text, str):
        data = msgspec.structs.replace(data, text=put_aside(data.text, more, limit_bytes=len(event.data)))
    else:
        return event, blobs
    return emitted(data, ts=event.ts, scope=event.scope), more
