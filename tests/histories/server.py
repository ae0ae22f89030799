"""The server's half of PROTOCOL §1 for one thread and one socket, with compaction, trimming and restores."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import msgspec
from tests.histories.log import History, random_history

from runwire.protocol import frames
from runwire.protocol.events import (
    DELTA_TYPES,
    TERMINAL_TYPES,
    EventType,
    StoredEvent,
    View,
    decode_data,
    emitted,
    view_has,
)

THREAD = "th_1"
_ENDS = (EventType.MESSAGE_COMPLETED, EventType.AGENT_THINKING, EventType.TOOL_EXECUTING)


class Server:
    """One thread's log behind one socket. What it sends waits in `wire`, in order."""

    def __init__(self, history: History, chance: random.Random) -> None:
        self.kept = list(history.events)  # what a read finds: compaction takes deltas away
        self.head = 0
        self.log = "log_0"
        self.floor = 0
        self.only_streamed = _only_streamed(history)
        self.chance = chance
        self.replay_events = chance.choice([5, 20_000])
        self.refusals = 0.05
        self.refuses_next = False
        self.wire: deque[frames.ServerFrame | frames.UnknownFrame] = deque()
        self.view: View | None = None  # of the subscription; None: there is none
        self.at = 0  # the subscription has written everything up to here
        self.written = 0  # what `position` says

    def read(self, view: View, after: int) -> list[StoredEvent]:
        return [event for event in self.kept if after < event.seq <= self.head and view_has(view, event.type)]

    def commit(self, number: int) -> None:
        self.head = min(self.head + number, self.kept[-1].seq)
        self.push()

    def push(self) -> None:
        if self.view is None:
            return
        prev = 0
        for event in self.read(self.view, 0):
            if event.seq > self.at:
                self.wire.append(_frame(event, prev))
                self.written = event.seq
            prev = event.seq
        self.at = self.head

    def hang_up(self) -> None:
        self.wire.clear()
        self.view = None

    def take(self, command: frames.Subscribe | frames.Unsubscribe) -> None:
        if isinstance(command, frames.Unsubscribe):
            self.view = None
            self.wire.append(frames.Unsubscribed(id=command.id, thread=THREAD, reason="asked"))
        elif self.refuses_next or self.chance.random() < self.refusals:
            self.refuses_next = False
            error = frames.ErrorBody(code="rate_limited", message="m", retry_after_s=1)
            self.wire.append(frames.Reply(id=command.id, ok=False, error=error))
        else:
            self.subscribe(command)

    def subscribe(self, command: frames.Subscribe) -> None:
        after = self.head if command.after == -1 else command.after
        self.view, self.at, self.written = command.view, after, after
        self.wire.append(
            frames.Subscribed(id=command.id, thread=THREAD, log=self.log, view=self.view, after=after, head=self.head)
        )
        reason: Any = None
        if after > self.head or command.log not in (None, self.log):
            reason = "log_changed"
        elif after < self.floor:
            reason = "trimmed"
        elif len(self.read(self.view, after)) > self.replay_events:
            reason = "too_far_behind"
        if reason:
            self.at = self.written = self.reset_from()
            self.wire.append(frames.Reset(thread=THREAD, log=self.log, from_=self.at, reason=reason))
        self.push()

    def reset_from(self) -> int:
        """Return the seq before the `user_message` of the oldest unfinished run, else of the last one."""
        runs: dict[str, tuple[int, bool]] = {}
        for event in self.kept:
            if event.seq <= self.head:
                first = runs.get(event.run, (event.seq, False))[0]
                runs[event.run] = (first, event.type in TERMINAL_TYPES)
        unfinished = [first for first, is_ended in runs.values() if not is_ended]
        return (unfinished or [first for first, _ in list(runs.values())[-1:]] or [1])[0] - 1

    def next_is_asked(self) -> bool:
        upcoming = next((event for event in self.kept if event.seq > self.head), None)
        return upcoming is not None and upcoming.type == EventType.USER_MESSAGE

    def send(self, id_: str) -> None:
        """Commit the `user_message` that is next in the history, as the answer to a `send`."""
        event = next(event for event in self.kept if event.seq > self.head)
        data = frames.SendData(
            thread=THREAD, log=self.log, after=self.head, run=event.run, message=decode_data(event).message,
            seq=event.seq,
        )  # fmt: skip
        self.wire.append(frames.reply_ok(id_, data))
        if self.view is None:
            self.view, self.at, self.written = "all", self.head, self.head
        self.commit(1)

    def ping(self) -> None:
        if self.view is not None:
            self.wire.append(frames.Position(thread=THREAD, seq=self.written))
        self.wire.append(frames.Ping())

    def chatter(self) -> None:
        """Send what is none of this thread's business, or of a newer protocol."""
        other = frames.Event(
            thread="th_2", seq=1, prev=0, run="r", attempt=0, ts=0, type="future", data=msgspec.Raw(b"{}")
        )  # fmt: skip
        raw: dict[str, Any] = {"op": "newer", "thread": THREAD, "seq": 1, "prev": 0}
        error = frames.ErrorBody(code="not_found", message="m")
        strange: list[frames.ServerFrame | frames.UnknownFrame] = [
            other,
            frames.Reply(id="cancel", ok=False, error=error),
            frames.reply_ok("cancel", {"run": "r", "status": "running"}),
            frames.Notice(kind="stalled", thread=THREAD),
            frames.Position(thread="th_2", seq=9_999),
            frames.Reset(thread="th_2", log="log_9", from_=7, reason="trimmed"),
            frames.Unsubscribed(id=None, thread="th_2", reason="deleted"),
            frames.UnknownFrame(op="newer", raw=raw),
        ]
        self.wire.append(self.chance.choice(strange))

    def delete(self) -> None:
        self.view = None
        self.wire.append(frames.Unsubscribed(id=None, thread=THREAD, reason="deleted"))

    def lose_delta(self) -> bool:
        """Lose a piece of an open stream for good, as no sound server does."""
        to_come = [event for event in self.deltas() if event.seq > self.at]
        streams = [stream_of(event) for event in to_come]
        # Not the first of its stream, nor the last: the hole must show.
        inner = [n for n, stream in enumerate(streams) if stream in streams[:n] and stream in streams[n + 1 :]]
        if not inner:
            return False
        lost = to_come[self.chance.choice(inner)]
        self.kept = [event for event in self.kept if event is not lost]
        return True

    # what upkeep does behind everybody's back

    def compact(self) -> str:
        """Delete all deltas of a stream that is over, or merge a stretch of deltas of one that is not."""
        deltas = [event for event in self.deltas() if event.seq <= self.head]
        if not deltas:
            return "no deltas"
        chosen = self.chance.choice(deltas)
        name = stream_of(chosen)
        stream = [event for event in deltas if event.run == chosen.run and stream_of(event) == name]
        if self.is_over(chosen) and self.chance.random() < 0.5:
            self.kept = [event for event in self.kept if event not in stream]
            return "compacted"
        end = self.chance.randrange(len(stream))
        start = self.chance.randrange(end + 1)
        first, last = decode_data(stream[start]), stream[end]
        text = ""
        for delta in map(decode_data, stream[start : end + 1]):
            if delta.offset - first.offset > len(text):
                return "a hole"
            text = text[: delta.offset - first.offset] + delta.text
        merged = msgspec.structs.replace(last, data=emitted(msgspec.structs.replace(first, text=text), ts=0).data)
        self.kept = [merged if event is last else event for event in self.kept if event not in stream[start:end]]
        return "merged"

    def compact_ended(self) -> None:
        """Delete the deltas of all runs that are over, as the background job does."""
        ended = {event.run for event in self.kept if event.seq <= self.head and event.type in TERMINAL_TYPES}
        over = [event for event in self.deltas() if event.run in ended]
        self.kept = [event for event in self.kept if event not in over]

    def deltas(self) -> list[StoredEvent]:
        """Return those that may go: what completes their stream has the whole text."""
        deltas = [event for event in self.kept if event.type in DELTA_TYPES]
        return [event for event in deltas if stream_of(event) not in self.only_streamed]

    def is_over(self, delta: StoredEvent) -> bool:
        """Return whether the stream is complete, or its run is: one that was taken back has no other end."""
        for event in self.kept:
            if delta.seq < event.seq <= self.head and event.run == delta.run:
                if event.type in TERMINAL_TYPES:
                    return True
                if event.type in _ENDS and stream_of(event) == stream_of(delta):
                    return True
        return False

    def restore(self, history: History) -> History:
        """Come back from a backup: another log. The newest runs never happened, others come instead."""
        self.hang_up()
        is_unfinished: dict[str, bool] = {}
        ends = [0]
        for event in history.events[: self.head]:
            is_unfinished[event.run] = event.type not in TERMINAL_TYPES
            if not any(is_unfinished.values()):
                ends.append(event.seq)
        self.head = self.chance.choice(ends)
        self.log += "b"
        self.floor = 0
        anew = random_history(self.chance, beginning=History(events=history.events[: self.head]), runs=f"{self.log}_r")
        self.kept = list(anew.events)
        self.only_streamed = _only_streamed(anew)
        return anew


def _frame(event: StoredEvent, prev: int) -> frames.Event:
    return frames.Event(
        thread=THREAD, seq=event.seq, prev=prev, run=event.run, attempt=event.attempt, ts=event.ts, type=event.type,
        data=event.data,
    )  # fmt: skip


def _only_streamed(history: History) -> set[str | None]:
    """Return the thinking whose completion does not say the text again: its deltas are never redundant."""
    thoughts = [event for event in history.events if event.type == EventType.AGENT_THINKING]
    return {stream_of(event) for event in thoughts if "text" not in msgspec.json.decode(event.data)}


def stream_of(event: StoredEvent) -> str | None:
    """Return the id of the message, thinking or call that a delta, or its completing event, belongs to."""
    data = msgspec.json.decode(event.data)
    stream: str | None = data.get("message") or data.get("thinking") or data.get("call")
    return stream
