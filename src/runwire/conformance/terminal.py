"""The category `terminal`: how runs end: well, by failure, by their deadline; and that they stay so."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

from runwire.conformance import judge
from runwire.conformance.agents import SECRET
from runwire.conformance.case import Case, NotHere
from runwire.conformance.report import Evidence
from runwire.conformance.stage import Stage, find_end, found, whole
from runwire.conformance.wire import Silence
from runwire.protocol.codes import RunFailure
from runwire.protocol.events import EventType
from runwire.protocol.frames import Event

__all__ = ["CASES"]

_STAYS_S: Final = 1.0  # in which nothing may follow
_TOOLS: Final = (EventType.TOOL_EXECUTING, EventType.TOOL_COMPLETED)


async def _no_tools(stage: Stage) -> list[Evidence]:
    agent = stage.needed("check_plain")
    async with stage.talk() as talk:
        events = await talk.until_end((await talk.send(stage.question, agent=agent)).run)
    return _ends_as(events, EventType.AGENT_COMPLETED) + [
        found("no tool event: the agent called none", event.type, position=event.seq, shown=[judge.show(event)])
        for event in events
        if event.type in _TOOLS
    ]


async def _failure(stage: Stage) -> list[Evidence]:
    agent = stage.needed("check_fails")
    async with stage.talk() as talk:
        sent = await talk.send(stage.question, agent=agent)
        events = await talk.until_end(sent.run)
        told = "".join(seen.text for seen in talk.wire.seen)
    evidence = _ends_as(events, EventType.AGENT_FAILED, code=RunFailure.AGENT_ERROR)
    run = await stage.run_of(sent.run)
    if not evidence and run["status"] != "failed":
        evidence.append(found(f"{sent.run} failed over HTTP too", run["status"]))
    if SECRET in told or SECRET in str(run):
        evidence.append(found("nothing of what an exception says", f"its words: {SECRET}", position=events[-1].seq))
    return evidence


async def _deadline(stage: Stage) -> list[Evidence]:
    agent = stage.needed("check_deadline")
    async with stage.talk() as talk:
        events = await talk.until_end((await talk.send(stage.question, agent=agent)).run)
    if any(event.type == EventType.CUSTOM for event in events):
        raise NotHere("the deadline of runs is too long to wait for; set deadline_s to 5 or less to have it checked")
    return _ends_as(events, EventType.AGENT_FAILED, code=RunFailure.DEADLINE_EXCEEDED)


def _ends_as(events: Sequence[Event], kind: EventType, *, code: str | None = None) -> list[Evidence]:
    end = find_end(events)
    assert end
    said = judge.data_of(end).get("code")
    if end.type == kind and code in (None, said):
        return []
    wanted = f"{kind}{f' with code {code}' if code else ''}"
    return [found(wanted, f"{end.type} {said or ''}".strip(), position=end.seq, shown=[judge.show(end)])]


async def _stays(stage: Stage) -> list[Evidence]:
    async with stage.talk() as talk:
        sent = await talk.send(stage.question, agent=stage.preferred("check_tool"))
        events = await talk.until_end(sent.run)
        last = events[-1].seq
        with contextlib.suppress(Silence):
            await talk.wire.until(lambda frame: isinstance(frame, Event) and frame.run == sent.run, timeout_s=_STAYS_S)
        late = [event for event in talk.events(run=sent.run) if event.seq > last]
    return [
        found("nothing after the terminal event", event.type, position=event.seq, shown=[judge.show(event)])
        for event in late
    ] or whole(events, after=sent.after)


CASES: Final[tuple[Case[Stage], ...]] = (
    Case(name="no_tools", promise="A run without tools completes, and no tool event is made up", look=_no_tools),
    Case(
        name="failure", promise="An agent that raises ends as agent_failed, and its words are not told", look=_failure
    ),
    Case(name="deadline", promise="A run that takes too long ends as deadline_exceeded", look=_deadline),
    Case(name="stays_ended", promise="Nothing follows the terminal event of a run", look=_stays),
)
