"""The client's half of the protocol over all connections of its life. Pure: frames in, frames out.

Commands that have no reply yet are sent again on the next connection (a `send` has its key), and each thread with a
reader is subscribed again from the earliest position that a reader needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from runwire.client.feed import Feed
from runwire.client.refusal import refusal
from runwire.errors import NotFound, ProtocolError, RunwireError, Unavailable
from runwire.protocol import frames
from runwire.protocol.view import Apply, Ask, Cursor, Ended, NotSubscribed

__all__ = ["Pending", "Session"]

_WAITING: Final = 1000  # commands of the caller without a reply


@dataclass(slots=True, eq=False)
class Pending:
    """A command and, once it came, its answer. `wake` is called then."""

    frame: frames.Command
    wake: Callable[[], None] = lambda: None
    feed_wake: Callable[[], None] | None = None  # of a send: open a feed of its run at once, so that nothing passes
    data: object = None  # of an ok reply
    error: RunwireError | None = None
    feed: Feed | None = None
    is_done: bool = False
    is_ours: bool = False  # made here (subscribe, unsubscribe): not repeated, but made anew

    def finish(self, *, data: object = None, error: RunwireError | None = None) -> None:
        """Take the answer."""
        self.data, self.error, self.is_done = data, error, True
        self.wake()


@dataclass(slots=True, eq=False)
class _Thread:
    """A thread with readers."""

    cursor: Cursor
    feeds: list[Feed] = field(default_factory=list)
    is_followed: bool = False  # this socket has a subscription of it, whether its events count yet or not
    before: tuple[int | None, str | None] | None = None  # the cursor's position before a restart that may be refused
    leaving: str | None = None  # id of the unsubscribe under way


class Session:
    """Say what to send for what comes in.

    After every call, take `frames_to_send()`. At most 1,000 commands of the caller wait for a reply; the next is
    refused with `Unavailable`. Of them, as many are on the wire as the server's `commands_in_flight` allows.

    Args:
        new_id: makes command ids.
    """

    def __init__(self, *, new_id: Callable[[], str]) -> None:
        self.welcome: frames.Welcome | None = None  # of the present connection
        self.new_id = new_id
        self._threads: dict[str, _Thread] = {}
        self._waiting: deque[Pending] = deque()
        self._in_flight: dict[str, Pending] = {}
        self._out: list[frames.ClientFrame] = []

    # Inputs from the connection.

    def opened(self, welcome: frames.Welcome) -> None:
        """Take the welcome of a new connection."""
        self.welcome = welcome
        for thread in [*self._threads.values()]:
            self._settle(thread)

    def lost(self) -> None:
        """Note that the connection is gone: its commands wait for the next one, in their order."""
        self.welcome = None
        self._out.clear()
        again = [pending for pending in self._in_flight.values() if not pending.is_ours]
        self._in_flight.clear()
        self._waiting = deque([*again, *(pending for pending in self._waiting if not pending.is_ours)])
        for thread in self._threads.values():
            thread.cursor.disconnect()
            thread.is_followed, thread.before, thread.leaving = False, None, None

    def fail(self, error: RunwireError) -> None:
        """End everything that waits: there will be no other connection."""
        self.lost()
        for pending in self._waiting:
            pending.finish(error=error)
        self._waiting.clear()
        for thread in self._threads.values():
            _end_all(thread.feeds, error)
        self._threads.clear()

    def receive(self, frame: frames.ServerFrame | frames.UnknownFrame) -> None:
        """Take one frame of the present connection."""
        match frame:
            case frames.Ping():
                self._out.append(frames.Pong())
            case frames.Reply() | frames.Subscribed() | frames.Unsubscribed():
                self._answered(frame)
            case frames.Event() | frames.Position() | frames.Reset():
                if thread := self._threads.get(frame.thread):
                    self._follow(thread, frame)

    # Inputs from the caller.

    def command(self, pending: Pending) -> None:
        """Send a command, now or when there is a connection and room.

        Raises:
            Unavailable: 1,000 commands wait already.
            ProtocolError: it is larger than the server takes.
        """
        if len(self._waiting) >= _WAITING:
            raise Unavailable(f"{_WAITING} commands wait for the server; wait for their replies.")
        limits = self.welcome.limits if self.welcome else frames.Limits()
        if len(frames.encode(pending.frame)) > limits.frame_bytes:
            raise ProtocolError(f"The command is over {limits.frame_bytes} bytes.", code="too_large")
        self._waiting.append(pending)

    def forget(self, pending: Pending) -> None:
        """Note that nobody waits for a reply any more; the command is not repeated."""
        if pending in self._waiting:
            self._waiting.remove(pending)
        pending.is_ours = True
        pending.feed_wake = None
        if pending.feed is not None:
            self.close(pending.feed)

    def open(self, feed: Feed) -> None:
        """Begin to read a thread after the feed's position."""
        thread = self._threads.get(feed.thread)
        if thread is None:
            thread = self._threads[feed.thread] = _Thread(Cursor(feed.thread, new_id=self.new_id))
        feed.is_behind = _is_past(thread, feed)
        thread.feeds.append(feed)
        self._settle(thread)

    def close(self, feed: Feed) -> None:
        """Read no more."""
        thread = self._threads.get(feed.thread)
        if thread and feed in thread.feeds:
            thread.feeds.remove(feed)
            self._settle(thread)

    def drained(self, feed: Feed) -> None:
        """Note that the reader took items: a feed that paused may go on."""
        thread = self._threads.get(feed.thread)
        if thread and feed.is_behind and feed.has_room:
            self._settle(thread)

    # Output.

    def frames_to_send(self) -> list[frames.ClientFrame]:
        """Take what is to be sent now, in order."""
        if self.welcome is None:
            return []
        while self._waiting and len(self._in_flight) < self.welcome.limits.commands_in_flight:
            pending = self._waiting.popleft()
            self._in_flight[pending.frame.id] = pending
            self._out.append(pending.frame)
        out, self._out = self._out, []
        return out

    # Inside.

    def _ask(self, frame: frames.Command) -> None:
        self._waiting.append(Pending(frame, is_ours=True))

    def _answered(self, frame: frames.Reply | frames.Subscribed | frames.Unsubscribed) -> None:
        pending = self._in_flight.pop(frame.id, None) if frame.id is not None else None
        if not isinstance(frame, frames.Reply):
            if thread := self._threads.get(frame.thread):
                self._follow(thread, frame)
        elif pending and isinstance(pending.frame, frames.Subscribe):
            if thread := self._threads.get(pending.frame.thread):
                self._follow(thread, frame)
        elif pending and isinstance(pending.frame, frames.Unsubscribe):
            if thread := self._threads.get(pending.frame.thread):
                thread.cursor.disconnect()  # refused: then it is no subscription of ours
                thread.is_followed, thread.leaving = False, None
                self._settle(thread)
        elif pending:
            self._replied(pending, frame)

    def _replied(self, pending: Pending, reply: frames.Reply) -> None:
        if not reply.ok:
            body = reply.error or frames.ErrorBody(code="internal", message="The server refused without a reason.")
            pending.finish(error=refusal(body))
            return
        if not isinstance(pending.frame, frames.Send):
            pending.finish(data=reply.data)
            return
        try:
            data = msgspec.convert(reply.data, frames.SendData)
        except msgspec.ValidationError as error:
            pending.finish(error=ProtocolError(f"The server's reply to send cannot be read: {error}."))
            return
        self._sent(pending, data)
        pending.finish(data=data)

    def _sent(self, pending: Pending, data: frames.SendData) -> None:
        """Follow the thread that a send has subscribed, if somebody reads or will."""
        thread = self._threads.get(data.thread)
        if thread is None:
            thread = self._threads[data.thread] = _Thread(Cursor(data.thread, new_id=self.new_id))
        thread.is_followed = True
        actions = thread.cursor.sent(data)
        if pending.feed_wake is not None:
            pending.feed = Feed(
                data.thread, last=data.after, log=data.log, run=data.run, run_seq=data.seq, wake=pending.feed_wake
            )
            # The stream may be past its beginning: another reader's position, or a repeated send.
            pending.feed.is_behind = _is_past(thread, pending.feed)
            thread.feeds.append(pending.feed)
        self._act(thread, actions)
        self._settle(thread)

    def _follow(self, thread: _Thread, frame: frames.ServerFrame) -> None:
        actions = thread.cursor.receive(frame)
        self._act(thread, actions)
        match frame:
            case frames.Subscribed() if not thread.cursor.is_asking:
                thread.is_followed, thread.before = True, None
                for feed in thread.feeds:
                    feed.begin(head=frame.head, log=frame.log)
            case frames.Reset() if actions:
                for feed in thread.feeds:
                    feed.reset(frame)
            case frames.Unsubscribed():
                thread.is_followed = False
                thread.leaving = None if frame.id == thread.leaving else thread.leaving
        self._settle(thread)

    def _act(self, thread: _Thread, actions: Iterable[object]) -> None:
        """Carry out what the cursor says; feeds are told of resets in `_follow`."""
        for action in actions:
            match action:
                case Apply(event=event):
                    for feed in thread.feeds:
                        feed.offer(event)
                case Ask(frame=frame):
                    self._ask(frame)
                case NotSubscribed(error=body):
                    self._refuse(thread, refusal(body))
                case Ended(reason="deleted"):
                    _end_all(thread.feeds, NotFound("The thread was deleted."))

    def _refuse(self, thread: _Thread, error: RunwireError) -> None:
        """End the readers that the refused subscription was for; an older one goes on under its position."""
        if thread.is_followed and thread.before is not None:
            thread.cursor.last, thread.cursor.log = thread.before
        unserved = [feed for feed in thread.feeds if not thread.is_followed or _is_past(thread, feed)]
        thread.before = None
        _end_all(unserved, error)

    def _settle(self, thread: _Thread) -> None:
        """Subscribe, subscribe again or unsubscribe, as the readers need; nothing while an answer is awaited."""
        thread.feeds = [feed for feed in thread.feeds if not feed.is_ended]
        if self.welcome is None or thread.leaving is not None or thread.cursor.is_asking:
            return
        if not thread.feeds:
            self._leave(thread)
            return
        able = [feed for feed in thread.feeds if feed.has_room or not feed.is_behind]
        if not able or (thread.is_followed and not any(feed.is_behind for feed in able)):
            return
        cursor = thread.cursor
        foreign = next((feed for feed in able if feed.log and cursor.log and feed.log != cursor.log), None)
        positions = [feed.last for feed in able if feed.last is not None]
        after = min(positions, default=-1) if foreign is None or foreign.last is None else foreign.last
        log = foreign.log if foreign else cursor.log or next((feed.log for feed in able if feed.log), None)
        for feed in able:
            feed.is_behind = False
        thread.before = (cursor.last, cursor.log)
        self._act(thread, cursor.restart(after=after, log=log))

    def _leave(self, thread: _Thread) -> None:
        if not thread.is_followed:
            del self._threads[thread.cursor.thread]
            return
        thread.leaving = self.new_id()
        self._ask(frames.Unsubscribe(id=thread.leaving, thread=thread.cursor.thread))


def _end_all(feeds: Iterable[Feed], error: RunwireError) -> None:
    for feed in feeds:
        feed.end(error)


def _is_past(thread: _Thread, feed: Feed) -> bool:
    """Return whether the thread's stream has passed a feed's position, or may have when its answer comes."""
    cursor = thread.cursor
    if cursor.is_asking:
        return True
    if not thread.is_followed:
        return False  # the next subscription takes the feed into account
    is_known = feed.log is None or cursor.log is None or feed.log == cursor.log
    return not is_known or feed.last is None or cursor.last is None or feed.last < cursor.last
