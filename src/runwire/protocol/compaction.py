"""Compaction of an ended run: which of its deltas may go, and how what stays is packed again.

A delta may go once the log has what completes its stream: the full content, or word that it was taken back. All
of one stream go together, or a reader in its middle would wait for what never comes. Everything else keeps its seq.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from runwire.protocol.events import (
    DELTA_TYPES,
    TERMINAL_TYPES,
    EventType,
    StoredEvent,
    decode_data,
    pack_stored,
    unpack,
)

__all__ = ["Compaction", "Condensed", "Piece"]

PIECE_EVENTS: Final = 500  # that pieces are put together up to: one page of a reader
PIECE_BYTES: Final = 65_536  # likewise
_EVENT_BYTES: Final = 60  # of a packed event besides its data

_COMPLETING: Final = frozenset(
    {EventType.MESSAGE_COMPLETED, EventType.AGENT_THINKING, EventType.TOOL_EXECUTING, EventType.SUPERSEDED}
)

Stream = tuple[str, str]  # what its deltas are of, and its id: ("message", "msg_…")


class Piece(NamedTuple):
    """A packed stretch of one run's events, as the log stores it."""

    first_seq: int
    last_seq: int
    attempt: int
    flags: int  # of the storage; those of pieces put together are put together
    packed: bytes


class Condensed(NamedTuple):
    """What becomes of a stretch of pieces."""

    pieces: list[Piece]  # in their place; they cover the same seqs
    deltas: int  # that are gone
    freed_bytes: int  # of packed events


class Compaction:
    """One run's compaction: first `survey` every piece in order, then `condense` each of the `stretches`.

    It keeps no event, so that a run of any length fits: the pieces are read twice.
    """

    def __init__(self) -> None:
        self._complete: set[Stream] = set()
        self._where: dict[Stream, list[int]] = {}  # streams with deltas: numbers of their first and their last piece
        self._spans: list[tuple[int, int, int]] = []  # of each piece: first seq, last seq, bytes
        self._is_over = False

    def survey(self, piece: Piece, *, run: str) -> None:
        """Learn of a piece which streams have deltas in it, and which are complete."""
        number = len(self._spans)
        self._spans.append((piece.first_seq, piece.last_seq, len(piece.packed)))
        for event in _events(piece, run):
            stream = _stream(event)
            if stream is None:
                self._complete.update(_completed(event))
                self._is_over = self._is_over or event.type in TERMINAL_TYPES
            elif stream in self._where:
                self._where[stream][1] = number
            else:
                self._where[stream] = [number, number]

    def stretches(self, *, pieces: int, size_bytes: int) -> Iterator[tuple[int, int, int]]:
        """Yield (first seq, last seq, pieces) of stretches of about that size, cut between streams.

        A stretch is larger only if a single stream is, or several that overlap.
        """
        reach = {first: 0 for first, _ in self._where.values()}
        for stream, (first, last) in self._where.items():
            if self._is_spare(stream):
                reach[first] = max(reach[first], last)
        start = size = furthest = 0
        for number, (_, last_seq, packed_bytes) in enumerate(self._spans):
            size += packed_bytes
            furthest = max(furthest, reach.get(number, 0))
            is_full = number + 1 - start >= pieces or size >= size_bytes or number + 1 == len(self._spans)
            if is_full and furthest <= number:
                yield self._spans[start][0], last_seq, number + 1 - start
                start, size = number + 1, 0

    def condense(self, pieces: Sequence[Piece], *, run: str) -> Condensed:
        """Drop the deltas that may go, and put small neighbours of one attempt together."""
        return _repacked(pieces, run, self._is_spare)

    def merge(self, pieces: Sequence[Piece], *, run: str) -> Condensed:
        """Only put small neighbours together, which may be done with any part of a stretch."""
        return _repacked(pieces, run, lambda _: False)

    def _is_spare(self, stream: Stream) -> bool:
        # The arguments of a call that was never made are complete with the run: its end closes them in every view.
        return stream in self._complete or (stream[0] == "call" and self._is_over)


def _repacked(pieces: Sequence[Piece], run: str, is_spare: Callable[[Stream], bool]) -> Condensed:
    deltas = 0
    grown: list[_Growing] = []
    for piece in pieces:
        kept: list[StoredEvent] = []
        for event in _events(piece, run):
            stream = _stream(event)
            if stream is not None and is_spare(stream):
                deltas += 1
            else:
                kept.append(event)
        if not (grown and grown[-1].takes(piece, kept)):
            grown.append(_Growing(piece, kept))
    if not deltas and len(grown) == len(pieces):
        return Condensed(list(pieces), 0, 0)
    made = [each.piece() for each in grown]
    freed = sum(len(piece.packed) for piece in pieces) - sum(len(piece.packed) for piece in made)
    # Offsets in a longer piece have more digits: without deltas it may grow, by less than the rows that go.
    return Condensed(made, deltas, max(0, freed))


class _Growing:
    """A piece that takes in its neighbours."""

    def __init__(self, piece: Piece, events: list[StoredEvent]) -> None:
        self._first = piece
        self._events = events
        self._size = _size(events)
        self._last_seq, self._flags = piece.last_seq, piece.flags

    def takes(self, piece: Piece, events: list[StoredEvent]) -> bool:
        """Take in the next piece of the run; return False if it must stay its own."""
        size = self._size + _size(events)
        # Between two pieces may lie another run's message; and a piece has one attempt.
        is_next = piece.first_seq == self._last_seq + 1 and piece.attempt == self._first.attempt
        if not is_next or size > PIECE_BYTES or len(self._events) + len(events) > PIECE_EVENTS:
            return False
        self._events += events
        self._size = size
        self._last_seq = piece.last_seq
        self._flags |= piece.flags
        return True

    def piece(self) -> Piece:
        """Return it packed; it may cover seqs of which it has no event any more."""
        first_seq = self._first.first_seq
        packed = pack_stored(self._events, first_seq=first_seq)
        return Piece(first_seq, self._last_seq, self._first.attempt, self._flags, packed)


def _events(piece: Piece, run: str) -> Iterator[StoredEvent]:
    yield from unpack(piece.packed, first_seq=piece.first_seq, run=run, attempt=piece.attempt)


def _size(events: Sequence[StoredEvent]) -> int:
    return sum(len(event.data) + _EVENT_BYTES for event in events)


def _stream(event: StoredEvent) -> Stream | None:
    """Return the stream whose delta an event is; None: it is no delta."""
    if event.type not in DELTA_TYPES or (data := _data(event)) is None:
        return None
    if event.type == EventType.TEXT_DELTA:
        return "message", data.message
    return ("thinking", data.thinking) if event.type == EventType.THINKING_DELTA else ("call", data.call)


def _completed(event: StoredEvent) -> Iterator[Stream]:
    """Yield the streams that need their deltas no more after this event."""
    if event.type not in _COMPLETING or (data := _data(event)) is None:
        return
    if event.type == EventType.MESSAGE_COMPLETED:
        yield "message", data.message
    elif event.type == EventType.TOOL_EXECUTING:
        yield "call", data.call
    elif event.type == EventType.SUPERSEDED:
        yield from (("message", message) for message in data.messages)
        yield from (("thinking", thinking) for thinking in data.thinking)
    elif data.thinking is not None:
        yield "thinking", data.thinking


def _data(event: StoredEvent) -> Any:
    try:
        return decode_data(event)
    except msgspec.ValidationError:  # a shape of a newer version: it stays, and completes nothing
        return None
