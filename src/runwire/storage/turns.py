"""Read several threads at once, in turns, for adapters that step through segments one by one."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from runwire.protocol.events import StoredEvent, unpack
from runwire.storage.base_log import Page

__all__ = ["Behind", "read_in_turns"]

# first seq, last seq, run, attempt, packed events
Row = tuple[int, int, str, int, bytes]


class Behind(NamedTuple):
    """What one thread has after a seq."""

    head: int
    floor: int
    start: int  # events up to this seq are not wanted, or gone
    rows: Iterator[Row]  # its segments from there on, first seq ascending; the first ones may end before it


def read_in_turns(asked: Mapping[str, Behind], *, log: str, limit: int, size_bytes: int) -> dict[str, Page]:
    """Take segments until one of the limits is passed, always next of the thread that has got least so far.

    Args:
        asked: by thread; of no thread more is stepped through than is taken, and one segment.
        log: identity of the history.
        limit: of events in all.
        size_bytes: of packed events in all.
    """
    found: dict[str, list[StoredEvent]] = {thread: [] for thread in asked}
    through = {thread: one.head for thread, one in asked.items()}
    turns: list[tuple[int, int, str, Row]] = []  # what the thread has got, its place, its next segment
    for place, (thread, one) in enumerate(asked.items()):
        row = _next(one)
        if row is not None:
            turns.append((0, place, thread, row))
    heapq.heapify(turns)
    count = size = 0
    while turns and count < limit and size < size_bytes:
        got, place, thread, (first, last, run, attempt, packed) = turns[0]
        start = asked[thread].start
        events = unpack(packed, first_seq=first, run=run, attempt=attempt)
        found[thread].extend(event for event in events if event.seq > start)
        taken = last - max(first - 1, start)
        count, size = count + taken, size + len(packed)
        row = _next(asked[thread])
        if row is None:
            heapq.heappop(turns)
        else:
            heapq.heapreplace(turns, (got + taken, place, thread, row))
    for _, _, thread, row in turns:  # these have more
        through[thread] = max(asked[thread].start, row[0] - 1)
    return {
        thread: Page(log=log, head=one.head, floor=one.floor, events=found[thread], through=through[thread])
        for thread, one in asked.items()
    }


def _next(one: Behind) -> Row | None:
    """Return the next segment with something that is wanted."""
    for row in one.rows:
        if row[1] > one.start:
            return row
    return None
