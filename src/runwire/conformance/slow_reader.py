"""The category `slow_reader`: a socket that is not read loses nothing, and slows down nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Final

from runwire.conformance import judge
from runwire.conformance.case import Case, Subject
from runwire.conformance.report import Evidence
from runwire.conformance.stage import Stage, Talk, error_code, found, whole
from runwire.conformance.stage import play as open_stage
from runwire.conformance.wire import Closed, CouldNotCheck, Silence
from runwire.errors import RunwireError
from runwire.protocol import frames
from runwire.protocol.codes import ErrorCode
from runwire.protocol.events import TERMINAL_TYPES
from runwire.protocol.frames import Event

__all__ = ["CASES", "Slow", "play"]

_BIG: Final = 48_000  # characters of a message: below `frame_bytes`, and more than a small window holds
_FILL_BYTES: Final = 12_000_000  # sent to a socket that is not read: more than the kernels of both sides hold
_REPLAYS: Final = (8, 150)  # of the thread: at least, at most
_REST_S: Final = 0.01  # between two of them, so that each is begun


@dataclass(slots=True, kw_only=True)
class Slow:
    """A socket that was not read for a while, and one beside it that was."""

    stage: Stage
    whole: list[Event] = field(default_factory=list)  # the thread, as a reader sees it
    beside: str | None = None  # why the neighbour's run was not seen in time
    read_late: list[Event] = field(default_factory=list)  # of the last subscription, or after a resume
    fault: str | None = None


async def play(subject: Subject) -> Slow:
    """Fill a socket that nobody reads, have another ask meanwhile, then read.

    Raises:
        CouldNotCheck: not reached, or not let in.
    """
    slow = Slow(stage=await open_stage(subject))
    stage = slow.stage
    big = f"{stage.question} {'x' * _BIG}"
    agent = stage.preferred("check_tool")
    try:
        async with stage.talk() as talk:
            sent = await talk.send(big, agent=agent)
            await talk.until_end(sent.run)
            slow.whole = talk.events(thread=sent.thread)
            size = sum(len(seen.text) for seen in talk.wire.seen)
        replays = min(max(_FILL_BYTES // size, _REPLAYS[0]), _REPLAYS[1])
        async with stage.talk(is_slow=True) as idle:
            for number in range(replays):
                await idle.wire.send_text(_subscribe(f"s{number}", sent.thread))
                await asyncio.sleep(_REST_S)
            try:
                async with stage.talk() as beside:
                    await beside.until_end((await beside.send(stage.question, agent=agent)).run)
            except (Silence, Closed) as error:
                slow.beside = error.message
            with contextlib.suppress(Closed):  # too slow: 4008, or no more than a dead connection; it may come back
                slow.read_late = await _rest(idle, f"s{replays - 1}", sent.thread, sent.run)
                return slow
        async with stage.talk() as again:
            await again.follow(sent.thread)
            await again.until(lambda event: event.run == sent.run and event.type in TERMINAL_TYPES)
            slow.read_late = again.events(thread=sent.thread)
    except CouldNotCheck:
        raise
    except RunwireError as error:
        slow.fault = error.message
    return slow


async def _rest(talk: Talk, number: str, thread: str, run: str) -> list[Event]:
    """Return what follows the answer to the last subscription, up to the run's end."""
    wire = talk.wire
    answered: int | None = None
    while True:
        # As long as something comes it is no silence: through a small window all of it takes its time.
        seen = await wire.next(timeout_s=talk.subject.short_s)
        frame = seen.frame
        if isinstance(frame, frames.Reply) and frame.id == number:
            if error_code(seen) != ErrorCode.RATE_LIMITED:
                raise Silence(f"The subscription was refused: {seen.clipped}")
            # A deployment that is busy had too many commands in flight, and this one has no place in their order.
            number = f"{number}-again"
            await asyncio.sleep(_REST_S)
            await wire.send_text(_subscribe(number, thread))
        elif isinstance(frame, frames.Subscribed) and frame.id == number:
            answered = len(wire.seen)
        elif answered is not None and isinstance(frame, Event) and frame.run == run and frame.type in TERMINAL_TYPES:
            return [seen.frame for seen in wire.seen[answered:] if isinstance(seen.frame, Event)]


def _subscribe(number: str, thread: str) -> str:
    return frames.encode(frames.Subscribe(id=number, thread=thread)).decode()


def _neighbours(slow: Slow) -> list[Evidence]:
    if slow.fault:
        return [found("a run, and its replays", slow.fault)]
    return [found("a run in time beside a socket that is not read", slow.beside)] if slow.beside else []


def _catches_up(slow: Slow) -> list[Evidence]:
    if slow.fault:
        return [found("all events, once it is read", slow.fault)]
    return whole(slow.read_late, after=0) or judge.difference(
        slow.whole, slow.read_late, names=("a reader that keeps up", "one that stood still")
    )


CASES: Final[tuple[Case[Slow], ...]] = (
    Case(name="neighbours", promise="Others get their events in time while one socket is not read", look=_neighbours),
    Case(
        name="catches_up",
        promise="A socket that was not read has all events in the end",
        look=_catches_up,
        needs=("neighbours",),
    ),
)
