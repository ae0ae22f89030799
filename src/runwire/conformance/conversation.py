"""A short conversation with a deployment, and everything that was seen of it.

Two questions on a fresh thread, a repeated send, then the same history over HTTP. The cases of `golden_path` are pure
looks at this scene.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import msgspec

from runwire.conformance import judge
from runwire.conformance.case import Subject
from runwire.conformance.wire import Closed, CouldNotCheck, Seen, Silence, Wire, WireHttp, require_staying
from runwire.protocol import frames
from runwire.protocol.codes import CloseCode
from runwire.protocol.events import TERMINAL_TYPES
from runwire.protocol.frames import Event

__all__ = ["Asked", "Scene", "ask", "play", "require_welcome"]

_COMPACTION_S: Final = 50.0  # PROTOCOL §2: from 60 s after its end a run's deltas may be gone
_REFUSED: Final = (CloseCode.UNAUTHENTICATED, CloseCode.FORBIDDEN, CloseCode.REVOKED, CloseCode.TOO_MANY_CONNECTIONS)


@dataclass(slots=True)
class Asked:
    """One question and what came back on the socket."""

    key: str
    content: str
    at_ms: int
    at_s: float
    reply: Seen | None = None
    data: frames.SendData | None = None  # of a reply that is ok
    fault: str | None = None  # why there is no data, or no terminal event
    ended_s: float | None = None


@dataclass(slots=True)
class Scene:
    """Everything that was seen."""

    subject: Subject
    welcome: frames.Welcome | None = None
    fault: str = ""
    seen: list[Seen] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    again: frames.Reply | None = None  # the first send once more
    other: frames.Reply | None = None  # its key with another body
    snapshot: tuple[int, str] = (0, "not asked")
    page: tuple[int, str] = (0, "not asked")
    sse: tuple[int, str] = (0, "not asked")
    read_s: float = 0.0  # when HTTP was read

    @property
    def thread(self) -> str:
        """Return the thread of the first question."""
        return self.asked[0].data.thread if self.asked and self.asked[0].data else ""

    @property
    def events(self) -> list[Event]:
        """Return the thread's events, as they came."""
        return [s.frame for s in self.seen if isinstance(s.frame, Event) and s.frame.thread == self.thread]

    def of(self, asked: Asked) -> list[Event]:
        """Return the events of a question's run, by seq, each once."""
        run = asked.data.run if asked.data else None
        return [event for event in judge.sorted_once(self.events) if event.run == run]

    @property
    def is_compacted(self) -> bool:
        """Return whether deltas may have been deleted before HTTP was read."""
        return any(a.ended_s is None or self.read_s - a.ended_s > _COMPACTION_S for a in self.asked)


# ── playing ──────────────────────────────────────────────────────────────────────────────────────────────


async def play(subject: Subject) -> Scene:
    """Ask twice, repeat the first send, then read the thread over HTTP.

    Raises:
        CouldNotCheck: not reached, not let in, or the deployment was going away.
    """
    scene = Scene(subject)
    async with Wire.open(subject.url, subject.token, timeout_s=min(subject.timeout_s, 10.0)) as wire:
        scene.seen = wire.seen
        try:
            scene.welcome = await require_welcome(wire, subject)
            for question in subject.questions:
                asked = await ask(wire, subject, question, thread=scene.thread or None, add_to=scene.asked)
                if asked.fault:
                    break
            else:
                await _repeat(wire, scene)
        except (Silence, Closed) as error:
            require_staying(error)
            scene.fault = error.message
    if scene.thread:
        await _read(scene)
    _measure(scene)
    return scene


def _measure(scene: Scene) -> None:
    """Note how long the first question took, from its send."""
    first = scene.asked[0] if scene.asked else None
    if first is None or first.reply is None or first.ended_s is None:
        return
    came_s = [seen.at_s for seen in scene.seen if isinstance(seen.frame, Event)]
    readings = {"reply_ms": first.reply.at_s, "first_event_ms": min(came_s), "run_ms": first.ended_s}
    scene.subject.figures.update({name: round((at_s - first.at_s) * 1000, 1) for name, at_s in readings.items()})


async def require_welcome(wire: Wire, subject: Subject) -> frames.Welcome:
    """Return the welcome of a fresh socket.

    Raises:
        CouldNotCheck: the credentials are refused, or the deployment is going away.
        Silence, Closed: no welcome came: a broken promise.
    """
    try:
        return await wire.welcome(timeout_s=min(subject.timeout_s, 10.0))
    except Closed as error:
        if error.close_code in _REFUSED:
            raise CouldNotCheck(f"The credentials are refused. {error.message}") from error
        require_staying(error)
        raise


async def ask(
    wire: Wire, subject: Subject, question: str, *, thread: str | None, add_to: list[Asked] | None = None
) -> Asked:
    """Send a question with a nonce and read until its run's terminal event; what fails is in `fault`."""
    nonce = secrets.token_hex(6)
    now_ms = int(datetime.now(tz=UTC).timestamp() * 1000)
    asked = Asked(key=f"check-{nonce}", content=f"{question} (check {nonce})", at_ms=now_ms, at_s=time.monotonic())
    if add_to is not None:
        add_to.append(asked)
    try:
        await _ask(wire, subject, asked, thread=thread)
    except (Silence, Closed) as error:
        require_staying(error)
        asked.fault = error.message
    return asked


async def _ask(wire: Wire, subject: Subject, asked: Asked, *, thread: str | None) -> None:
    reply = await _send(wire, subject, asked, content=asked.content, thread=thread)
    asked.reply = reply
    assert isinstance(reply.frame, frames.Reply)
    if not reply.frame.ok:
        error = reply.frame.error
        if isinstance(error, frames.ErrorBody) and error.field == "agent":
            # Whom to ask is what the caller said, not what the deployment promised.
            raise CouldNotCheck(f"The deployment does not have the agent that was asked for. {error.message}")
        asked.fault = f"The send was refused: {reply.clipped}"
        return
    try:
        asked.data = msgspec.convert(reply.frame.data, frames.SendData)
    except msgspec.ValidationError as error:
        asked.fault = f"The reply lacks what PROTOCOL gives it: {error}"
        return
    run = asked.data.run
    if not any(_is_end(seen.frame, run) for seen in wire.seen):
        await wire.until(lambda frame: _is_end(frame, run), timeout_s=subject.timeout_s)
    asked.ended_s = time.monotonic()


def _is_end(frame: object, run: str) -> bool:
    return isinstance(frame, Event) and frame.run == run and frame.type in TERMINAL_TYPES


async def _send(wire: Wire, subject: Subject, asked: Asked, *, content: str, thread: str | None) -> Seen:
    number = wire.new_id()
    command = frames.Send(id=number, key=asked.key, thread=thread, agent=subject.agent, content=content)
    await wire.send(command)
    return await wire.until(
        lambda frame: isinstance(frame, frames.Reply) and frame.id == number, timeout_s=subject.timeout_s
    )


async def _repeat(wire: Wire, scene: Scene) -> None:
    first = scene.asked[0]
    again = await _send(wire, scene.subject, first, content=first.content, thread=None)
    other = await _send(wire, scene.subject, first, content=f"{first.content} But otherwise.", thread=None)
    assert isinstance(again.frame, frames.Reply)
    assert isinstance(other.frame, frames.Reply)
    scene.again, scene.other = again.frame, other.frame


async def _read(scene: Scene) -> None:
    path = f"/v1/threads/{scene.thread}"
    last = scene.asked[-1].data
    scene.read_s = time.monotonic()
    async with WireHttp(scene.subject.url, scene.subject.token, timeout_s=min(scene.subject.timeout_s, 15.0)) as http:
        scene.page = await http.get(f"{path}/events?after=0&view=all", Accept="application/json")
        if last and not scene.asked[-1].fault:
            until = f"{path}/events?after=0&view=all&until={last.run}"
            scene.sse = await http.get(until, Accept="text/event-stream")
        scene.snapshot = await http.get(path, Accept="application/json")
