"""Whether each event came once, in order, to the right user: the client's rule, kept as a judge keeps it. Pure.

A client heals a gap by asking again; here it is counted, and what comes late is told apart from what never comes.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from runwire.conformance.load.histogram import Histogram
from runwire.protocol import frames
from runwire.protocol.events import TERMINAL_TYPES, EventType

__all__ = ["Follower", "Sent", "Shape", "Tally"]

_HOLES: Final = 64  # of a thread, told apart from one another; older ones are lost
_ENDED: Final = 64  # runs of a user that are remembered
_NOTES: Final = 20


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What each run is asked for, if the agent is `check_load`."""

    events: int = 20  # pieces of text
    tools: int = 1
    gap_ms: float = 0.0  # before each piece

    def content(self, tag: str) -> str:
        """Return the message that asks for it."""
        return f"{tag} {self.events} {self.tools} {self.gap_ms:g}"

    def answer(self, tag: str) -> str:
        """Return what has to come back."""
        return "".join(f"{number} " for number in range(self.events)) + tag


@dataclass(slots=True, eq=False)
class Sent:
    """One message; times are monotonic."""

    tag: str
    content: str
    key: str
    due_s: float  # when it was to be sent: latency counts from here, however late it was
    answer: str | None  # what must come back; None: the agent is not ours
    run: str | None = None
    has_begun: bool = False


@dataclass(slots=True)
class Tally:
    """All that is counted; it does not grow with time."""

    mark: str  # how the tag of every message of this load begins
    sent: int = 0
    completed: int = 0
    ended: Counter[str] = field(default_factory=Counter)  # how else runs ended → how many
    refused: Counter[str] = field(default_factory=Counter)  # code → sends
    unended: int = 0
    held_back: int = 0  # never sent, as the user had too many open to the end
    events: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    crossed: int = 0
    crossed_to: Counter[int] = field(default_factory=Counter)  # account, from 1 → events of others' that it was shown
    wrong: int = 0  # answers that are not what was asked for
    cuts: int = 0
    kills: int = 0
    resumes: int = 0
    resets: int = 0
    sockets: int = 0  # open now
    begun: Histogram = field(default_factory=Histogram)
    run: Histogram = field(default_factory=Histogram)
    notes: list[str] = field(default_factory=list)  # the first faults, for people

    @property
    def faults(self) -> int:
        """Return how many promises were broken."""
        return self.lost + self.doubled + self.disordered + self.crossed + self.wrong + self.unended

    def note(self, text: str) -> None:
        """Keep a sentence, of the first twenty."""
        if len(self.notes) < _NOTES:
            self.notes.append(text)


class Follower:
    """One user's thread.

    Args:
        tally: where it is counted.
        name: the tag of each message of this user begins with it.
        account: whose credential the user has, from 1.
    """

    def __init__(self, tally: Tally, name: str, account: int = 1) -> None:
        self.thread: str | None = None
        self.log: str | None = None
        self.last: int | None = None
        self.open: dict[str, Sent] = {}  # content → message without an end
        self._tally = tally
        self._name = name
        self._account = account
        self._runs: dict[str, Sent] = {}
        self._ended: deque[str] = deque(maxlen=_ENDED)
        self._holes: list[tuple[int, int]] = []  # (after, through): events that were skipped

    def replied(self, data: frames.SendData) -> None:
        """Take the reply to a send."""
        if self.thread is None:
            self.thread, self.log, self.last = data.thread, data.log, data.after

    def not_understood(self, what: str) -> None:
        """Count what is not of the form that the protocol says."""
        self._tally.wrong += 1
        self._tally.note(what)

    def subscribed(self, frame: frames.Subscribed) -> None:
        """Take where the stream goes on."""
        if self.last is not None and frame.after > self.last:
            self._skip(self.last, frame.after)
        self.last = frame.after

    def reset(self, frame: frames.Reset) -> None:
        """Begin anew: what the server says openly is no loss."""
        if frame.thread == self.thread:
            self._tally.resets += 1
            self.last, self.log = frame.from_, frame.log
            self._holes.clear()

    def position(self, frame: frames.Position) -> None:
        """Take what the server says was the last."""
        if frame.thread == self.thread and self.last is not None and frame.seq > self.last:
            self._skip(self.last, frame.seq)
            self.last = frame.seq

    def event(self, event: frames.Event, *, now_s: float) -> None:
        """Judge one event."""
        tally = self._tally
        tally.events += 1
        if self.thread is None or event.thread != self.thread:
            self._crossed(event, "it is of another thread")
            return
        if self.last is not None and event.seq <= self.last and not self._is_late(event):
            tally.doubled += 1
            tally.note(f"{self._where(event)} came again")
            return
        if self.last is None or event.seq > self.last:
            if self.last is not None and event.prev > self.last:
                self._skip(self.last, event.prev)
            self.last = event.seq
        if tally.mark.encode() in bytes(event.data):
            text = bytes(event.data).decode()
            if text.count(tally.mark) != text.count(f"{self._name}-"):
                self._crossed(event, "it has another user's words")
                return
        self._content(event, now_s)

    def close(self, *, is_cut_short: bool = False) -> None:
        """Count what never came."""
        self._tally.lost += len(self._holes)
        self._holes.clear()
        if not is_cut_short:
            self._tally.unended += len(self.open)
            for sent in self.open.values():
                self._tally.note(f"{sent.run or sent.tag} did not end")

    # Inside.

    def _where(self, event: frames.Event) -> str:
        return f"{event.thread} seq {event.seq} ({event.type})"

    def _skip(self, after: int, through: int) -> None:
        self._holes.append((after, through))
        self._tally.note(f"{self.thread}: nothing came after seq {after} up to seq {through}")
        if len(self._holes) > _HOLES:
            self._holes.pop(0)
            self._tally.lost += 1

    def _is_late(self, event: frames.Event) -> bool:
        """Return whether an event fills a hole, and leave what is missing on either side."""
        for hole in self._holes:
            after, through = hole
            if after < event.seq <= through:
                self._holes.remove(hole)
                self._holes += [side for side in ((after, event.prev), (event.seq, through)) if side[0] < side[1]]
                self._tally.disordered += 1
                self._tally.note(f"{self._where(event)} came after later ones")
                return True
        return False

    def _crossed(self, event: frames.Event, why: str) -> None:
        self._tally.crossed += 1
        self._tally.crossed_to[self._account] += 1
        self._tally.note(f"{self._where(event)} came to {self._name} of account {self._account}: {why}")

    def _content(self, event: frames.Event, now_s: float) -> None:
        is_end = event.type in TERMINAL_TYPES
        if not bytes(event.data).startswith(b"{"):
            self.not_understood(f"{self._where(event)}: its data is no object but {bytes(event.data)[:80]!r}")
        if event.type == EventType.USER_MESSAGE:
            sent = self.open.get(_text(_fields(event).get("content")))
            if sent is not None and event.run is not None:
                sent.run, self._runs[event.run] = event.run, sent
        elif (found := self._runs.get(event.run or "")) is not None:
            if not found.has_begun:
                found.has_begun = True
                self._tally.begun.add(now_s - found.due_s)
            if is_end:
                self._end(event, found, now_s)
        elif is_end and event.run in self._ended:
            self._tally.doubled += 1
            self._tally.note(f"{self._where(event)} is a second end of {event.run}")

    def _end(self, event: frames.Event, sent: Sent, now_s: float) -> None:
        tally, data = self._tally, _fields(event)
        self._runs.pop(str(event.run))
        self.open.pop(sent.content, None)
        self._ended.append(str(event.run))
        if event.type != EventType.AGENT_COMPLETED:
            tally.ended[str(data.get("code") or event.type)] += 1
            return
        tally.completed += 1
        tally.run.add(now_s - sent.due_s)
        output = data.get("output")
        if sent.answer is not None and not (isinstance(output, dict) and "$ref" in output) and output != sent.answer:
            tally.wrong += 1
            tally.note(f"{event.run} answered {str(output)[:80]!r}, not {sent.answer[:80]!r}")


def _fields(event: frames.Event) -> dict[str, Any]:
    """Return the data of an event; what is no object has no fields."""
    data = msgspec.json.decode(event.data)
    return data if isinstance(data, dict) else {}


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)
