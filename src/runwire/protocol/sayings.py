"""What a scope says, one saying at a time, and the events that tell it.

A *saying* is a message (from its first chunk), a thinking stream (from its first delta), a whole thought, or a
custom event. Pure values and their events; what was said where is in `journal`, what must be said in `replay`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec

from runwire.protocol.events import (
    AgentThinking,
    Custom,
    EventData,
    MessageCompleted,
    Superseded,
    TextDelta,
    ThinkingDelta,
)

__all__ = ["DELTA_CODE_POINTS", "Kind", "Saying", "completion", "deltas", "same_json", "same_words", "superseded"]

# A delta must stay below the 64 KiB at which a field becomes a `$ref`, or a replay could not read its text:
# 8,192 code points are at most 48 KiB of JSON (six bytes for an escaped control character).
DELTA_CODE_POINTS: Final = 8192

# Ids have at most 64 characters (PROTOCOL), so each list of a `superseded` stays below 64 KiB too.
_TAKEN_BACK_AT_ONCE: Final = 500


class Kind(StrEnum):
    """What sort of thing was said; sayings of two kinds are never equal."""

    MESSAGE = "message"
    STREAM = "stream"  # a thought, streamed
    THOUGHT = "thought"  # a thought, whole
    CUSTOM = "custom"


class Saying(msgspec.Struct, kw_only=True, eq=False, gc=False):
    """One thing that a scope said and that still stands.

    A run keeps what it said as long as it lasts; like events, sayings hold no cycle.
    """

    kind: Kind
    id: str = ""  # of the message or thinking stream; whole thoughts and custom events have none
    seq: int = 0  # of its first event; 0: not known to be stored yet
    last_seq: int = 0  # of the last event that added to it; 0: one of this attempt
    words: AgentThinking | Custom | None = None  # what says a whole thought or custom event
    is_ended: bool = False  # it may not go on
    length: int = 0  # code points of `text`
    pieces: list[str] | None = None  # of `text`; None before there is any

    @property
    def text(self) -> str:
        """Return the text of a message or stream as it stands."""
        if not self.pieces:
            return ""
        if len(self.pieces) > 1:
            # Joined once and kept: a replay compares chunk after chunk with the same logged text.
            self.pieces = ["".join(self.pieces)]
        return self.pieces[0]

    def put(self, offset: int, text: str) -> None:
        """Apply a delta: `text[:offset] + text`, offset in code points."""
        if offset < self.length or not self.pieces:
            self.pieces = [self.text[:offset]]
        self.pieces.append(text)
        self.length = min(offset, self.length) + len(text)

    def allows(self, text: str, *, at: int) -> bool:
        """Return whether an agent that has said `at` code points of this may go on with `text`.

        Logged text is compared by prefix; what is logged as ended does not go on.
        """
        logged = self.length - at
        if len(text) > logged and self.is_ended:
            return False
        # Past the logged text there is nothing to compare, and joining its pieces for each chunk would be quadratic.
        return logged == 0 or self.text.startswith(text[:logged], at)


def same_json(one: Any, other: Any) -> bool:
    """Return whether two plain JSON values are the same.

    The order of keys does not matter. Numbers are compared by value, so 1 is 1.0: JSON has one kind of number
    (RFC 8259 §6), and a difference that no reader can see must not take anything back or fail a run. Booleans
    are no numbers, though Python says so. A `$ref` is content-addressed: equal values have equal refs.
    """
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    return bool(one == other)


def same_words(one: EventData | None, other: EventData | None) -> bool:
    """Return whether two whole sayings say the same."""
    if one is None or type(one) is not type(other):
        return False
    return all(map(same_json, msgspec.structs.astuple(one), msgspec.structs.astuple(other)))


def deltas(saying: Saying, text: str) -> list[EventData]:
    """Append text to a message or stream and return its deltas; none for no text."""
    if 0 < len(text) <= DELTA_CODE_POINTS:  # most are a word
        return [_delta(saying, text)]
    pieces = [text[start : start + DELTA_CODE_POINTS] for start in range(0, len(text), DELTA_CODE_POINTS)]
    return [_delta(saying, piece) for piece in pieces]


def _delta(saying: Saying, piece: str) -> EventData:
    offset = saying.length
    saying.put(offset, piece)
    if saying.kind is Kind.MESSAGE:
        return TextDelta(message=saying.id, offset=offset, text=piece)
    return ThinkingDelta(thinking=saying.id, offset=offset, text=piece)


def completion(saying: Saying, *, complete: bool = True) -> EventData:
    """Return the event that ends a message or stream, with its whole text."""
    if saying.kind is Kind.MESSAGE:
        return MessageCompleted(message=saying.id, content=saying.text, complete=complete)
    return AgentThinking(thinking=saying.id, text=saying.text)


def superseded(taken: Sequence[Saying], reason: Literal["differs", "try_closed"]) -> list[Superseded]:
    """Name what is taken back: in one event, none for nothing, several for very much.

    Raises:
        ValueError: a whole saying whose seq is not known.
    """
    groups = [taken[at : at + _TAKEN_BACK_AT_ONCE] for at in range(0, len(taken), _TAKEN_BACK_AT_ONCE)]
    # The last said goes first, so that a crash in between leaves every other saying its address.
    return [_superseded(group, reason) for group in reversed(groups)]


def _superseded(taken: Sequence[Saying], reason: Literal["differs", "try_closed"]) -> Superseded:
    whole = [each for each in taken if not each.id]
    if not all(each.seq for each in whole):
        raise ValueError("A saying of this attempt is taken back before `learn` told its seq.")
    return Superseded(
        messages=[each.id for each in taken if each.kind is Kind.MESSAGE],
        thinking=[each.id for each in taken if each.kind is Kind.STREAM],
        events=[each.seq for each in whole],
        reason=reason,
    )
