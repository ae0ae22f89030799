"""A subscription is a cursor: over the ring while that has what is next, else over the log.

Live, resume, second tab, SSE and long poll are this one thing with another starting position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import msgspec

from runwire.errors import NotFound
from runwire.gateway.ring import Ring
from runwire.gateway.tail import Tail
from runwire.protocol import events, frames
from runwire.protocol.events import StoredEvent, View
from runwire.storage.base import Page, Storage

__all__ = ["Opened", "Subscription", "Subscriptions", "Taken"]

_PAGE_EVENTS: Final = 500  # of one read of the log
_FIRST_EVENTS: Final = 50  # of a subscription's first one: who waits for a history sees that it begins
_RING_EVENTS: Final = 500  # who is no further behind is served from the ring, which the tail fills for many at once


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What comes next in a subscription. Nothing has happened until `Subscription.advance` is given it."""

    through: int  # the cursor after it
    position: int  # seq of the last event of this view up to there
    events: list[StoredEvent] = []  # of this view, in order
    encoded: list[bytes] = []  # their frames
    reset: frames.Reset | None = None  # the history is not to be had: what follows begins after its `from`
    is_deleted: bool = False  # the thread is gone: nothing follows


class Subscription:
    """Events of one thread in one view, from a position on.

    Args:
        storage: the log.
        ring: of the thread.
        listener: what the ring calls for this subscription.
        view: which events.
        position: the reader has everything of this view up to this seq.
        log: the history that this position is about.
    """

    def __init__(
        self, *, storage: Storage, ring: Ring, listener: Callable[[], None], view: View, position: int, log: str
    ) -> None:
        self.thread = ring.thread
        self.view: View = view
        self.log = log
        self._storage = storage
        self._ring = ring
        self._listener = listener
        self._sent_seq = position
        self._last_seq: int | None = None if position else 0  # of this view up to `_sent_seq`; None: not looked up yet
        self._bare_from = position  # while it is looked up: after this seq there is none
        self._page_events = _FIRST_EVENTS
        self._next_page: Page | None = None  # what comes next, if looking back has read it along

    @property
    def through(self) -> int:
        """Return the seq up to which everything has been looked at."""
        return self._sent_seq

    @property
    def has_more(self) -> bool:
        """Return whether `take` has something now."""
        ring = self._ring
        return ring.is_deleted or ring.log != self.log or self._sent_seq < ring.through

    @property
    def is_behind(self) -> bool:
        """Return whether there is something that `take` has not got yet: it is being read, and a wake-up follows."""
        return self._ring.has_hole

    def take_kept(self, *, size_bytes: int) -> Taken | None:
        """Return what `take` would if the ring has it, as a rule, and nothing is to be waited for; else None."""
        ring = self._ring
        if ring.is_deleted or ring.log != self.log or not ring.start <= self._sent_seq < ring.through:
            return None
        if self._last_seq is None:
            self._last_seq = ring.last_before(self._sent_seq, self.view)
        return None if self._last_seq is None else self._take_from_ring(size_bytes, self._last_seq)

    async def take(self, *, size_bytes: int) -> Taken | None:
        """Return what comes next, about so many bytes of it; None: nothing yet.

        Raises:
            Unavailable: the database does not answer; ask again.
        """
        if not self.has_more:
            return None
        ring = self._ring
        if ring.is_deleted:
            return self._gone()
        try:
            last = self._last_seq
            if last is None:
                # Before the ring is looked at: it may move while this reads the log.
                last = self._last_seq = await self._look_back()
            if ring.log != self.log:
                return await self._reset(log=ring.log, reason="log_changed")
            if self._sent_seq >= ring.start:
                return self._take_from_ring(size_bytes, last)
            return await self._take_from_log(size_bytes, last)
        except NotFound:
            return self._gone()

    def leave(self, tail: Tail) -> None:
        """End it. Idempotent."""
        tail.leave(self._ring, self._listener)

    def advance(self, taken: Taken) -> None:
        """Move the cursor behind what was taken."""
        self._sent_seq = taken.through
        self._next_page = None  # it was about what came next before
        self._last_seq = taken.position
        if taken.reset:
            self.log = taken.reset.log
            self._last_seq = None if taken.through else 0
            self._bare_from = taken.through

    def _gone(self) -> Taken:
        return Taken(through=self._sent_seq, position=self._sent_seq, is_deleted=True)

    async def _look_back(self) -> int:
        """Return the seq of the last event of this view up to the cursor, or the floor if that is higher.

        `prev` belongs to the event and its view, not to where a reader began: one that keeps the seq of its
        last event and one that keeps `through` must both see no gap (PROTOCOL §1).
        """
        known = self._ring.last_before(self._sent_seq, self.view)
        if known is not None:
            return known
        if self._ring.start < self._bare_from <= self._ring.through:
            self._bare_from = self._ring.start
        floor = 0
        while self._bare_from > floor:
            # Mostly the first one looked at is it. How far this came is kept: who waits for it may give up.
            end = self._bare_from
            is_first = end == self._sent_seq
            start = max(0, end - (1 if is_first else _PAGE_EVENTS))
            through, found = start, 0
            while through < end:
                # Behind the ring what comes next is wanted too: one read brings both.
                limit = self._page_events if is_first and end < self._ring.start else end - through
                page = await self._storage.events.read(self.thread, after=through, limit=limit)
                if is_first:
                    self._next_page = page
                if page.log != self.log or page.head < end:
                    return self._sent_seq  # of another history: what is read next finds that out
                seqs = [e.seq for e in page.events if e.seq <= end and events.view_has(self.view, e.type)]
                through, floor, found = page.through, page.floor, seqs[-1] if seqs else found
            if found:
                return found
            self._bare_from = start
        return min(floor, self._sent_seq)

    def _take_from_ring(self, size_bytes: int, position: int) -> Taken:
        through, size = self._sent_seq, 0
        shown: list[StoredEvent] = []
        encoded: list[bytes] = []
        thread, view, is_shared = self.thread, self.view, self._ring.is_shared
        for entry in self._ring.after(self._sent_seq):
            if size >= size_bytes:
                return Taken(through=through, position=position, events=shown, encoded=encoded)
            event = entry.event
            through = event.seq
            if entry.is_in(view):
                frame = entry.frame(thread, view, position, keep=is_shared)
                position = through
                size += len(frame)
                shown.append(event)
                encoded.append(frame)
        return Taken(through=self._ring.through, position=position, events=shown, encoded=encoded)

    async def _take_from_log(self, size_bytes: int, position: int) -> Taken:
        limit, self._page_events = self._page_events, _PAGE_EVENTS
        page, self._next_page = self._next_page, None
        if page is None or page.log != self.log or page.through <= self._sent_seq:
            after = self._sent_seq
            page = await self._storage.events.read(self.thread, after=after, limit=limit, size_bytes=size_bytes)
        if page.log != self.log:
            # Before the tail has noticed. The ring must not stay behind, or it would lead back to what is over.
            self._ring.move(at=page.head, log=page.log)
            return await self._reset(log=page.log, reason="log_changed")
        if page.floor > self._sent_seq:
            return await self._reset(log=page.log, reason="trimmed")
        through, size = self._sent_seq, 0
        shown: list[StoredEvent] = []
        encoded: list[bytes] = []
        for event in page.events:
            # A page ends with a whole segment, which may be far more than one message may carry.
            if size >= size_bytes:
                return Taken(through=through, position=position, events=shown, encoded=encoded)
            if event.seq <= self._sent_seq:
                continue  # read along
            through = event.seq
            if events.view_has(self.view, event.type):
                frame = frames.encode_event(self.thread, event, position)
                position = through
                size += len(frame)
                shown.append(event)
                encoded.append(frame)
        return Taken(through=page.through, position=position, events=shown, encoded=encoded)

    async def _reset(self, *, log: str, reason: Literal["log_changed", "too_far_behind", "trimmed"]) -> Taken:
        start = await self._storage.threads.reset_from(self.thread)
        reset = frames.Reset(thread=self.thread, log=log, from_=start, reason=reason)
        return Taken(through=start, position=start, reset=reset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A subscription that has begun."""

    subscription: Subscription
    after: int  # where it was asked to begin, -1 resolved
    head: int  # of the thread at that moment
    reset: frames.Reset | None  # it begins elsewhere


class Subscriptions:
    """Begin and end subscriptions of this node.

    Args:
        storage: the log.
        tail: its rings.
        replay_events: a position further behind the head gets a reset.
    """

    def __init__(self, storage: Storage, tail: Tail, *, replay_events: int) -> None:
        self._storage = storage
        self._tail = tail
        self._replay_events = replay_events

    async def open(
        self, *, user: str, thread: str, after: int, log: str | None, view: View, wake: Callable[[str], None]
    ) -> Opened:
        """Begin after a position of the user's own thread: every missing event follows, or a reset.

        Raises:
            NotFound: unknown or foreign thread.
            Unavailable: the database does not answer.
        """
        # Listen before the head is read: what is committed in between is heard of.
        listener = partial(wake, thread)  # its own, so that ending an older subscription leaves this one awake
        ring = self._tail.listen(user=user, thread=thread, wake=listener)
        try:
            row, current = await self._tail.look_up(user=user, thread=thread)
            start = row.head if after == -1 else after
            ring.open(at=_ring_start(start, head=row.head, floor=row.floor), log=current)
            self._tail.complete(ring, head=row.head)
            subscription = Subscription(
                storage=self._storage, ring=ring, listener=listener, view=view, position=start, log=current
            )
            asked = log if after != -1 else None
            reason = self._reason_to_reset(start, log=asked, current=current, head=row.head, floor=row.floor)
            reset = None
            if reason:
                start_again = await self._storage.threads.reset_from(thread)
                reset = frames.Reset(thread=thread, log=current, from_=start_again, reason=reason)
                subscription.advance(Taken(through=start_again, position=start_again, reset=reset))
        except BaseException:
            self._tail.leave(ring, listener)
            raise
        return Opened(subscription=subscription, after=start, head=row.head, reset=reset)

    def open_after_send(
        self, *, user: str, thread: str, after: int, log: str, view: View, wake: Callable[[str], None]
    ) -> Subscription:
        """Begin from before the first event of a send of this user."""
        listener = partial(wake, thread)
        ring = self._tail.listen(user=user, thread=thread, wake=listener)
        ring.open(at=max(0, after - 1), log=log)
        # A worker may have been quicker than this line, and the send may have been an old one.
        self._tail.complete(ring)
        return Subscription(storage=self._storage, ring=ring, listener=listener, view=view, position=after, log=log)

    def close(self, subscription: Subscription) -> None:
        """End a subscription. Idempotent."""
        subscription.leave(self._tail)

    def _reason_to_reset(
        self, after: int, *, log: str | None, current: str, head: int, floor: int
    ) -> Literal["log_changed", "too_far_behind", "trimmed"] | None:
        if after > head or (log is not None and log != current):
            return "log_changed"
        if after < floor:
            return "trimmed"
        return "too_far_behind" if head - after > self._replay_events else None


def _ring_start(after: int, *, head: int, floor: int) -> int:
    """Return where the ring of a thread begins whose first reader is at this position.

    One event before it, as a rule: the filled ring then knows `prev` of what follows, and one read was all.
    """
    if head - _RING_EVENTS <= after <= head:
        return max(0, floor, after - 1)
    return head
