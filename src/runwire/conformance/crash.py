"""The category `crash`: a process of the deployment is killed in the middle of a run, by a command of the operator."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

from runwire.conformance import judge
from runwire.conformance.case import Case, NotHere, Subject
from runwire.conformance.conversation import require_welcome
from runwire.conformance.report import Evidence
from runwire.conformance.stage import Stage, found, whole
from runwire.conformance.stage import play as open_stage
from runwire.conformance.wire import Closed, CouldNotCheck, Silence, Wire
from runwire.protocol import frames
from runwire.protocol.events import TERMINAL_TYPES, EventType
from runwire.protocol.frames import Event

__all__ = ["CASES", "Killed", "play"]

_BACK_S: Final = 120.0  # in which the deployment must be there again, and the run over
_PAUSE_S: Final = 0.2  # between two looks whether it is
_SEEN: Final = 3  # events of the run before the kill


@dataclass(slots=True, kw_only=True)
class Killed:
    """A run that was followed over the death of a process."""

    why: str | None = None
    fault: str | None = None
    sent: frames.SendData | None = None
    before: list[Event] = field(default_factory=list)
    after: list[Event] = field(default_factory=list)
    replay: list[Event] = field(default_factory=list)


async def play(subject: Subject) -> Killed:
    """Ask, kill in the middle of the run, come back with the position, and read on to the end; then read it all.

    Raises:
        CouldNotCheck: not reached, or the command of the operator failed.
    """
    killed = Killed()
    if subject.kill is None:
        killed.why = 'needs a way to kill a process: --kill "command", which returns when it is killed'
        return killed
    try:
        await _play(await open_stage(subject), killed)
    except NotHere as error:
        killed.why = error.message
    except (Silence, TimeoutError) as error:
        killed.fault = str(error) or "the deployment did not come back in time"
    return killed


async def _play(stage: Stage, killed: Killed) -> None:
    assert stage.subject.kill
    async with stage.talk() as talk:
        sent = killed.sent = await talk.send(stage.question, agent=stage.preferred("check_steps"))
        try:
            while len(talk.events(run=sent.run)) < _SEEN:
                await talk.wire.next(timeout_s=stage.subject.timeout_s)
            await stage.subject.kill()
            while not _is_over(talk.events(run=sent.run), sent.run):
                await talk.wire.next(timeout_s=1.0)  # what was on its way; then it is cut, or goes on
        except (Closed, Silence):
            await asyncio.sleep(0)
        killed.before = talk.events(thread=sent.thread)
    position = max([sent.after, *(event.seq for event in killed.before)])
    killed.after = await _read(stage, sent, position)
    killed.replay = await _read(stage, sent, sent.after)


def _is_over(events: list[Event], run: str) -> bool:
    return any(event.run == run and event.type in TERMINAL_TYPES for event in events)


async def _read(stage: Stage, sent: frames.SendData, position: int) -> list[Event]:
    """Return the events after a position up to the run's end, over as many connections as it takes."""
    deadline_s = time.monotonic() + _BACK_S
    events: list[Event] = []
    while time.monotonic() < deadline_s:
        after = max([position, *(event.seq for event in events)])
        try:
            await _read_on(stage, sent, after, events)
        except (Closed, CouldNotCheck):
            await asyncio.sleep(_PAUSE_S)  # not there yet
            continue
        return events
    raise Silence(f"The run was not over within {_BACK_S:g} s.", frames=[judge.show(event) for event in events[-3:]])


async def _read_on(stage: Stage, sent: frames.SendData, after: int, events: list[Event]) -> None:
    subject = stage.subject
    async with Wire.open(subject.url, subject.token, timeout_s=subject.short_s) as wire:
        await require_welcome(wire, subject)
        await wire.send(frames.Subscribe(id="1", thread=sent.thread, after=after, log=sent.log))
        until = time.monotonic() + subject.timeout_s
        if events and _is_over(events, sent.run):
            return
        while not _is_over(events, sent.run):
            frame = (await wire.next(timeout_s=max(0.1, until - time.monotonic()))).frame
            if isinstance(frame, frames.Reset | frames.Reply):
                raise Silence(f"The position {after} is not known any more: {frame!r}")
            if isinstance(frame, Event) and frame.thread == sent.thread:
                events.append(frame)


def _survives(killed: Killed) -> list[Evidence]:
    last = killed.before[-1].seq if killed.before else None
    if killed.fault or killed.sent is None:
        return [found("the run's end, after the process came back", killed.fault, position=last)]
    events = [*killed.before, *killed.after]
    wrong = whole(events, after=killed.sent.after) or judge.lifecycle(judge.sorted_once(events), killed.sent.run)
    return wrong or judge.difference(events, killed.replay, names=("what was seen over the crash", "a replay"))


def _is_told(killed: Killed) -> list[Evidence]:
    assert killed.sent
    retried = [event for event in killed.after if event.type == EventType.AGENT_RETRYING]
    attempts = {event.attempt for event in [*killed.before, *killed.after]} - {0}
    if len(attempts) > 1 and not retried:
        said = f"events of attempts {sorted(attempts)} without agent_retrying"
        return [found("agent_retrying where another attempt goes on", said, position=killed.after[-1].seq)]
    return []


CASES: Final[tuple[Case[Killed], ...]] = (
    Case(
        name="survives",
        promise="A run outlives the process that ran it, each event once and in order",
        look=_survives,
        applies=lambda killed: killed.why,
    ),
    Case(
        name="is_told",
        promise="Another attempt at a run is told",
        look=_is_told,
        needs=("survives",),
        applies=lambda killed: killed.why,
    ),
)
