"""What one reader of a thread gets: its own position over the connection's stream, and a bounded queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from runwire.errors import LogReset, RunwireError
from runwire.protocol import frames
from runwire.protocol.events import TERMINAL_TYPES, View, view_has

__all__ = ["Event", "Feed", "Reset"]

_LIMIT: Final = 1024  # events in the queue; about a second of the fastest stream measured


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a thread, in order, exactly once."""

    thread: str
    seq: int
    run: str
    attempt: int
    ts: int  # ms since 1970, UTC; for people
    type: str  # a newer server may send types that this version does not know
    data: dict[str, Any]  # PROTOCOL §2


class Reset(msgspec.Struct, frozen=True, kw_only=True):
    """The server cannot go on from the position: drop what is shown; the events after `seq` follow.

    What is older is in `client.http.messages(thread)`.
    """

    thread: str
    log: str
    seq: int
    reason: str  # log_changed | too_far_behind | trimmed
    type: Literal["reset"] = "reset"


class Feed:
    """One reader's queue and position. Pure but for `wake`, which is called when there is something to take.

    The queue holds 1,024 events. At the limit nothing is dropped and nobody waits: the feed pauses, lets events
    pass, and once half of it was read the thread is subscribed again from the feed's own position.

    Args:
        thread: which.
        last: the position to read after; None: from now.
        log: which history the position belongs to, if known.
        view: `lifecycle` leaves the deltas out.
        run: only this run's events, ending with its terminal one.
        wake: called after every change, from the task that feeds.
    """

    def __init__(
        self,
        thread: str,
        *,
        last: int | None,
        wake: Callable[[], None],
        log: str | None = None,
        view: View = "all",
        run: str | None = None,
        run_seq: int = 0,
    ) -> None:
        self.thread = thread
        self.last = last
        self.log = log
        self.is_behind = False  # events passed that it must still get
        self.is_ended = False
        self.error: RunwireError | None = None
        self._view = view
        self._run = run
        self._run_seq = run_seq
        self._wake = wake
        self._queue: deque[Event | Reset] = deque()

    @property
    def is_full(self) -> bool:
        """Return whether it pauses."""
        return len(self._queue) >= _LIMIT

    @property
    def has_room(self) -> bool:
        """Return whether a paused feed may go on: half of the queue is free."""
        return len(self._queue) <= _LIMIT // 2

    def take(self) -> Event | Reset | None:
        """Return the next item, or None."""
        return self._queue.popleft() if self._queue else None

    def change_view(self, view: View) -> None:
        """Show this view from now on; what is queued too."""
        self._view = view
        self._queue = deque(item for item in self._queue if item.type == "reset" or view_has(view, item.type))

    def offer(self, frame: frames.Event) -> None:
        """Take an event of the stream if it is the next one for this feed."""
        if self.is_ended or self.last is None or frame.seq <= self.last:
            return
        if self.is_full or frame.prev > self.last:
            self.is_behind = True
            return
        self.last = frame.seq
        if (self._run is None or frame.run == self._run) and view_has(self._view, frame.type):
            self._queue.append(_event(frame))
            self._wake()
        if frame.run == self._run and frame.type in TERMINAL_TYPES:
            self.end()

    def begin(self, *, head: int, log: str) -> None:
        """Take the answer to a subscribe: a feed that began now begins at the head."""
        self.last = head if self.last is None else self.last
        self.log = self.log or log

    def reset(self, frame: frames.Reset) -> None:
        """Take a reset of the stream, unless this feed's own position stands."""
        if self.is_ended or (self.log == frame.log and self.last is not None and self.last >= frame.from_):
            return
        self.last, self.log, self.is_behind = frame.from_, frame.log, False
        if self.is_full:
            self._queue.clear()  # the view that they would build is dropped anyway
        self._queue.append(Reset(thread=self.thread, log=frame.log, seq=frame.from_, reason=frame.reason))
        if self._run is not None and frame.from_ >= self._run_seq:
            self.end(
                LogReset(
                    f"The run's events are older than what the server replays; its messages are in the thread "
                    f"{self.thread} over HTTP.",
                    reason=frame.reason,
                )
            )
        self._wake()

    def end(self, error: RunwireError | None = None) -> None:
        """Nothing more comes; what is queued may still be taken."""
        if not self.is_ended:
            self.is_ended, self.error = True, error
            self._wake()


def _event(frame: frames.Event) -> Event:
    return Event(
        thread=frame.thread,
        seq=frame.seq,
        run=frame.run,
        attempt=frame.attempt,
        ts=frame.ts,
        type=frame.type,
        data=msgspec.json.decode(frame.data),
    )
