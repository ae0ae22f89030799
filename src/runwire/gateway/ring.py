"""Recent events of one thread with a listener: what all its subscriptions on this node share."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from runwire.protocol import events, frames
from runwire.protocol.events import StoredEvent, View
from runwire.storage.base import Head, Page

__all__ = ["Budget", "Entry", "Ring"]

# Memory besides the data itself, measured: an event with its ids and objects, a frame with its names and ids.
_EVENT_BYTES: Final = 450
_FRAME_BYTES: Final = 250
# Per type: whether view `all` has it, and `lifecycle`. What is unknown is in both, opaque.
_IN_VIEWS: Final = {
    str(kind): (events.view_has("all", kind), events.view_has("lifecycle", kind)) for kind in events.EventType
}
_IN_BOTH: Final = (True, True)
_BEGINS_OR_ENDS_RUN: Final = frozenset({str(events.EventType.USER_MESSAGE), *map(str, events.TERMINAL_TYPES)})


class Entry(msgspec.Struct, gc=False):
    """An event in a ring, with its frame per view, encoded when first asked for."""

    event: StoredEvent
    in_all: bool
    in_lifecycle: bool
    prev_all: int | None  # seq before it in view `all`; None: not known
    prev_lifecycle: int | None
    encoded_all: bytes | None = None  # frame for who has just read the event before it
    encoded_lifecycle: bytes | None = None

    @property
    def size_bytes(self) -> int:
        """Return how much memory it takes. The frames count from the start: when they come, nobody looks at limits."""
        size = len(self.event.data)
        # The segment that the data is a part of was encoded into a buffer half as large again.
        return _EVENT_BYTES + size * 3 // 2 + (self.in_all + self.in_lifecycle) * (_FRAME_BYTES + size)

    def is_in(self, view: View) -> bool:
        """Return whether the event is in the view."""
        return self.in_all if view == "all" else self.in_lifecycle

    def frame(self, thread: str, view: View, prev: int, *, keep: bool = True) -> bytes:
        """Return the event's frame; if kept, the same bytes for all whose last event was the one before it."""
        is_all = view == "all"
        if not keep or (self.prev_all if is_all else self.prev_lifecycle) != prev:
            return frames.encode_event(thread, self.event, prev)
        encoded = self.encoded_all if is_all else self.encoded_lifecycle
        if encoded is None:
            # Copied: the encoder's own buffer is larger than what it holds, and this stays.
            encoded = bytes(memoryview(frames.encode_event(thread, self.event, prev)))
            if is_all:
                self.encoded_all = encoded
            else:
                self.encoded_lifecycle = encoded
        return encoded


class Ring:
    """The last events of a thread, without a hole from `start` to `through`.

    Bounded by number and bytes; at the limit the oldest go, and a subscription that still wants them
    reads the log. Used by one event loop.

    Args:
        user: owner of the thread; what the bus says about another's is not taken.
        thread: id of the thread.
        limit_events: how many events are kept.
        limit_bytes: how much memory they take, frames included.
    """

    def __init__(self, *, user: str, thread: str, limit_events: int, limit_bytes: int) -> None:
        self.user = user
        self.thread = thread
        self.log = ""
        self.is_open = False  # `start` is known
        self.is_deleted = False
        self.is_filling = False  # somebody reads the log for it, or is about to
        self.wants_fill = False  # asked for since that read began
        self.start = 0  # events after this seq and up to `through` are here
        self.through = 0
        self.seen = 0  # the highest seq heard of; beyond `through` there is something to be filled
        self.activity: bool | None = None  # whether a run goes on, at `through`; None: not known
        self.listeners: set[Callable[[], None]] = set()
        self.size_bytes = 0  # memory that the events here take
        self._entries: list[Entry] = []
        self._last_all: int | None = None  # last seq in view `all`; None: not known
        self._last_lifecycle: int | None = None
        self._limit_events = limit_events
        self._limit_bytes = limit_bytes

    @property
    def is_active(self) -> bool:
        """Return whether the thread has an unfinished run, or may have one."""
        return self.activity is not False

    @property
    def has_hole(self) -> bool:
        """Return whether events are known to exist that are not here."""
        return self.is_open and not self.is_deleted and self.seen > self.through

    def open(self, *, at: int, log: str) -> None:
        """Begin after this seq, unless the ring has begun already."""
        if not self.is_open:
            self.is_open = True
            self.restart(at=at, log=log)

    def restart(self, *, at: int, log: str) -> None:
        """Forget what is here and begin after this seq; subscriptions behind it read the log."""
        if log != self.log:
            self.seen = 0
            self.log = log
        self.start = self.through = at
        self.seen = max(self.seen, at)
        self.activity = None  # a run may have begun or ended in between
        self._entries.clear()
        self.size_bytes = 0
        self._last_all = self._last_lifecycle = 0 if at == 0 else None

    def move(self, *, at: int, log: str) -> None:
        """Begin anew in another history; each subscription then tells its reader so, once."""
        if log != self.log:
            self.restart(at=at, log=log)
            self.wake()

    def extend(self, stored: Iterable[StoredEvent], *, through: int) -> None:
        """Take events that continue the ring; those already here are skipped."""
        for event in stored:
            if event.seq > self.through:
                self._append(event)
        self.through = max(self.through, through)
        self.seen = max(self.seen, self.through)
        self._trim()

    def take(self, page: Page) -> bool:
        """Take what was read from the log beyond the ring; return whether that is all there is, and was heard of."""
        if page.log != self.log:
            self.move(at=page.head, log=page.log)
        elif page.floor > self.through:
            self.restart(at=page.floor, log=page.log)
        self.extend(page.events, through=page.through)
        return self.through >= max(page.head, self.seen) or page.through >= page.head

    def empty(self) -> None:
        """Give up the events kept; the ring goes on from where it is, and readers behind that read the log."""
        self.start = self.through
        self._entries.clear()
        self.size_bytes = 0

    def learn(self, head: Head) -> None:
        """Take what the log says about runs. It holds at one seq: a ring that is elsewhere must ask again."""
        if head.seq == self.through:
            self.activity = head.is_active

    def after(self, seq: int) -> Sequence[Entry]:
        """Return the entries after this seq, which must not be before `start`."""
        return self._entries[self._index_after(seq) :]

    def last_before(self, seq: int, view: View) -> int | None:
        """Return the seq of the view's last event up to this one; None: the log knows."""
        if not self.start <= seq <= self.through:
            return None
        for entry in reversed(self._entries[: self._index_after(seq)]):
            if entry.is_in(view):
                return entry.event.seq
        return 0 if self.start == 0 else None

    @property
    def is_shared(self) -> bool:
        """Return whether several subscriptions read it: a frame is then worth keeping."""
        return len(self.listeners) > 1

    def wake(self) -> None:
        """Tell all listeners to look."""
        for listener in tuple(self.listeners):
            listener()

    def _index_after(self, seq: int) -> int:
        # Without a hole up to the end, which is the rule, the distance to the end says where; it is proven by a look.
        entries = self._entries
        at = len(entries) - (self.through - seq)
        if 0 <= at < len(entries) and entries[at].event.seq == seq + 1:
            return at
        return bisect_right(entries, seq, key=lambda entry: entry.event.seq)

    def _append(self, event: StoredEvent) -> None:
        in_all, in_lifecycle = _IN_VIEWS.get(event.type, _IN_BOTH)
        entry = Entry(event, in_all, in_lifecycle, self._last_all, self._last_lifecycle)
        if in_all:
            self._last_all = event.seq
        if in_lifecycle:
            self._last_lifecycle = event.seq
        self._entries.append(entry)
        self.size_bytes += entry.size_bytes
        if event.type in _BEGINS_OR_ENDS_RUN:
            # At an end it is not known: another run may be queued.
            self.activity = True if event.type == events.EventType.USER_MESSAGE else None

    def _trim(self) -> None:
        if len(self._entries) <= self._limit_events and self.size_bytes <= self._limit_bytes:
            return
        # A quarter more than needed: cutting the front of a list costs its length.
        gone = 0
        while gone < len(self._entries) and (
            len(self._entries) - gone > self._limit_events * 3 // 4 or self.size_bytes > self._limit_bytes * 3 // 4
        ):
            self.size_bytes -= self._entries[gone].size_bytes
            gone += 1
        self.start = self._entries[gone - 1].event.seq
        del self._entries[:gone]


class Budget:
    """What all rings of a node may keep together.

    At the limit the ring that was fed longest ago is emptied, then the next one.

    Args:
        limit_bytes: memory of all rings.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.kept_bytes = 0
        self._limit_bytes = limit_bytes
        self._sizes: dict[Ring, int] = {}  # rings that keep something, in the order in which they were last fed

    def keep(self, ring: Ring) -> None:
        """Count what a ring has after it was fed, and empty others, or itself at last, until all fit."""
        self.release(ring)
        if ring.size_bytes:
            self._sizes[ring] = ring.size_bytes
            self.kept_bytes += ring.size_bytes
        while self.kept_bytes > self._limit_bytes:
            idle = next(iter(self._sizes))
            self.release(idle)
            idle.empty()

    def release(self, ring: Ring) -> None:
        """Count a ring no more. Idempotent."""
        self.kept_bytes -= self._sizes.pop(ring, 0)
