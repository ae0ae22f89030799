"""Two runs followed over connections that are cut hard, and the replays of their thread.

One run is cut after every event, one after a random number of events. The cases of `resume` look at this scene.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from runwire.conformance import judge
from runwire.conformance.case import Subject
from runwire.conformance.conversation import require_welcome
from runwire.conformance.wire import Closed, Silence, Wire
from runwire.protocol import frames
from runwire.protocol.events import TERMINAL_TYPES, View
from runwire.protocol.frames import Event

__all__ = ["Followed", "Scene", "answers", "play", "subscribe"]

_CUTS: Final = 40  # at most, per run: a long answer has hundreds of deltas, and every kind of place is met by then
_COMPACTION_S: Final = 50.0  # PROTOCOL §2: from 60 s after its end a run's deltas may be gone


@dataclass(slots=True)
class Followed:
    """A run followed over many connections: each piece is what one connection showed after its position."""

    sent: frames.SendData | None = None
    pieces: list[tuple[int, list[Event]]] = field(default_factory=list)  # (position, events)
    fault: str | None = None

    @property
    def events(self) -> list[Event]:
        """Return all pieces, joined."""
        return [event for _, piece in self.pieces for event in piece]


@dataclass(slots=True)
class Scene:
    """Everything that was seen."""

    subject: Subject
    every: Followed = field(default_factory=Followed)  # cut after every event
    some: Followed = field(default_factory=Followed)  # cut after a random number of events
    whole: dict[View, list[Event]] = field(default_factory=dict)  # replays from 0
    log: str = ""
    ping_s: float = 0.0
    ended_s: float = 0.0
    fault: str = ""

    @property
    def thread(self) -> str:
        """Return the thread of both runs."""
        return self.every.sent.thread if self.every.sent else ""

    def comparable(self, events: list[Event]) -> list[Event]:
        """Return what two readings at different times must share: without deltas once they may be compacted."""
        return judge.without_deltas(events) if time.monotonic() - self.ended_s > _COMPACTION_S else list(events)


# ── playing ──────────────────────────────────────────────────────────────────────────────────────────────


async def play(subject: Subject) -> Scene:
    """Follow two runs over cut connections, then replay the thread from the start in both views.

    Raises:
        CouldNotCheck: not reached, or not let in.
    """
    scene = Scene(subject)
    chance = random.Random(subject.url)  # noqa: S311 - not a secret: where to cut
    try:
        await _follow(scene, scene.every, thread=None, question=subject.questions[0], length=lambda: 1)
        scene.ended_s = time.monotonic()
        if scene.every.fault is None:
            question = subject.questions[1]
            await _follow(
                scene, scene.some, thread=scene.thread, question=question, length=lambda: chance.randint(1, 9)
            )
            for view in ("all", "lifecycle"):
                scene.whole[view] = await _replay(scene, view)
    except (Silence, Closed) as error:
        scene.fault = error.message
    return scene


async def _follow(
    scene: Scene, followed: Followed, *, thread: str | None, question: str, length: Callable[[], int]
) -> None:
    """Ask on a first connection; read `length()` events on each, cut it, and come back, until the terminal event."""
    deadline_s = time.monotonic() + 2 * scene.subject.timeout_s  # a run, and the cuts
    position = -1
    while followed.fault is None:
        # Where there are several gateways, each connection goes to another one.
        url = scene.subject.urls[len(followed.pieces) % len(scene.subject.urls)]
        async with Wire.open(url, scene.subject.token) as wire:
            try:
                scene.ping_s = (await require_welcome(wire, scene.subject)).ping_s
                if followed.sent is None:
                    followed.sent = await _send(wire, scene.subject, question, thread)
                    position = followed.sent.after
                else:
                    await subscribe(wire, scene.subject, followed.sent.thread, position, log=followed.sent.log)
                piece: list[Event] = []
                wanted = length() if len(followed.pieces) < _CUTS else 10**9
                followed.pieces.append((position, piece))
                if await _read_piece(wire, followed.sent, piece, wanted=wanted, deadline_s=deadline_s):
                    return
                position = max([position, *(event.seq for event in piece)])
            except (Silence, Closed) as error:
                followed.fault = error.message


async def _read_piece(wire: Wire, sent: frames.SendData, piece: list[Event], *, wanted: int, deadline_s: float) -> bool:
    """Read a number of events of the thread; True once the run's terminal event was among them."""
    piece += [s.frame for s in wire.seen if isinstance(s.frame, Event)]  # before the answer: no server should
    while len(piece) < wanted:
        frame = (await wire.next(timeout_s=max(0.1, deadline_s - time.monotonic()))).frame
        if isinstance(frame, Event) and frame.thread == sent.thread:
            piece.append(frame)
        if _has_end(piece[-1:], sent.run):
            return True
    return _has_end(piece, sent.run)


def _has_end(events: list[Event], run: str) -> bool:
    return any(event.run == run and event.type in TERMINAL_TYPES for event in events)


async def _send(wire: Wire, subject: Subject, question: str, thread: str | None) -> frames.SendData:
    number = wire.new_id()
    await wire.send(frames.Send(id=number, thread=thread, agent=subject.agent, content=question))
    seen = await wire.until(answers(number), timeout_s=subject.timeout_s)
    assert isinstance(seen.frame, frames.Reply)
    if not seen.frame.ok:
        raise Silence(f"The send was refused: {seen.clipped}")
    try:
        return msgspec.convert(seen.frame.data, frames.SendData)
    except msgspec.ValidationError as error:
        raise Silence(f"The reply lacks what PROTOCOL gives it: {error}") from error


async def subscribe(
    wire: Wire, subject: Subject, thread: str, after: int, *, log: str | None, view: View = "all"
) -> frames.Subscribed:
    """Subscribe after a position.

    Raises:
        Silence: refused, or no answer in time.
    """
    number = wire.new_id()
    await wire.send(frames.Subscribe(id=number, thread=thread, after=after, log=log, view=view))
    seen = await wire.until(answers(number), timeout_s=subject.timeout_s)
    if not isinstance(seen.frame, frames.Subscribed):
        raise Silence(f"The subscription after {after} was refused: {seen.clipped}")
    return seen.frame


def answers(number: str) -> Callable[[object], bool]:
    """Return what recognises the answer to a command."""
    return lambda frame: (
        isinstance(frame, frames.Reply | frames.Subscribed | frames.Unsubscribed) and frame.id == number
    )


async def _replay(scene: Scene, view: View) -> list[Event]:
    """Read the thread from the start, on a connection of its own, until the last run's terminal event."""
    subject = scene.subject
    assert scene.some.sent
    last = scene.some.sent.run
    async with Wire.open(subject.url, subject.token) as wire:
        await require_welcome(wire, subject)
        scene.log = (await subscribe(wire, subject, scene.thread, 0, log=None, view=view)).log
        await wire.until(
            lambda f: isinstance(f, Event) and f.run == last and f.type in TERMINAL_TYPES, timeout_s=subject.timeout_s
        )
        return [seen.frame for seen in wire.seen if isinstance(seen.frame, Event)]
