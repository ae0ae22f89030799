"""The category `cancel`: a run that is called off stops, one that waits never starts, one that has ended stays."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Final

from runwire.conformance import judge
from runwire.conformance.case import Case, NotHere
from runwire.conformance.report import Evidence
from runwire.conformance.stage import Stage, Talk, expect, find_end, found, whole
from runwire.conformance.wire import Seen, Silence
from runwire.protocol import frames
from runwire.protocol.events import EventType

__all__ = ["CASES"]

_TRIES: Final = 3  # for a run that is still going on when it is called off
_RACE_S: Final = 1.0  # in which a run may complete that was just called off
_TOO_FAST: Final = "runs end before they can be called off: name a slower --agent, or use --with-conformance-agents"


async def _stops(stage: Stage) -> list[Evidence]:
    for _ in range(_TRIES):
        async with stage.talk() as talk:
            sent = await talk.send(stage.question, agent=stage.preferred("check_slow"))
            await talk.until(partial(_is_start, sent.run))
            began_s = time.monotonic()
            status = await _cancel(talk, sent.run)
            if status != "requested":
                continue  # it was faster
            evidence = await _ends_cancelled(stage, talk, sent.run)
            took_s = time.monotonic() - began_s
            if evidence and took_s < _RACE_S and "check_slow" not in stage.agents:
                continue  # a run that completes first stays so
            if not evidence:
                stage.subject.figures["cancel_ms"] = round(took_s * 1000, 1)
                evidence = whole(talk.events(thread=sent.thread), after=sent.after)
            return evidence
    raise NotHere(_TOO_FAST)


def _is_start(run: str, event: frames.Event) -> bool:
    return event.run == run and event.type == EventType.AGENT_STARTED


async def _cancel(talk: Talk, run: str) -> str:
    seen = await talk.say("cancel", run=run)
    return str(_data(seen)["status"])


def _data(seen: Seen) -> dict[str, Any]:
    frame = seen.frame
    is_ok = isinstance(frame, frames.Reply) and frame.ok
    expect(is_ok, "ok with run and status for a cancel", "this", shown=[seen.clipped])
    assert isinstance(frame, frames.Reply)
    return dict(frame.data)


async def _ends_cancelled(stage: Stage, talk: Talk, run: str) -> list[Evidence]:
    bound_ms = stage.subject.budget["cancel_ms"]
    try:
        events = await talk.until_end(run, timeout_s=min(bound_ms / 1000, stage.subject.timeout_s))
    except Silence:
        came = [judge.show(event) for event in talk.events(run=run)[-3:]]
        return [found(f"agent_cancelled within {bound_ms:g} ms", "it goes on", shown=came)]
    end = find_end(events)
    assert end
    if end.type == EventType.AGENT_CANCELLED:
        return []
    return [found("agent_cancelled", end.type, position=end.seq, shown=[judge.show(end)])]


async def _queued(stage: Stage) -> list[Evidence]:
    thread = await stage.new_thread()
    async with stage.talk() as talk:
        agent = stage.preferred("check_slow")
        first = await talk.send(stage.question, thread=thread, agent=agent)
        second = await talk.send(stage.question, thread=thread, agent=agent)
        await _cancel(talk, second.run)
        evidence = await _ends_cancelled(stage, talk, second.run)
        kinds = [event.type for event in talk.events(run=second.run)]
        await _cancel(talk, first.run)
    if evidence or kinds != [EventType.USER_MESSAGE, EventType.AGENT_CANCELLED]:
        if "check_slow" not in stage.agents:
            raise NotHere(_TOO_FAST)  # its turn may have come before
        wanted = "user_message, then agent_cancelled: it was called off while it waited"
        return evidence or [found(wanted, ", ".join(kinds), position=second.seq)]
    return []


async def _ended(stage: Stage) -> list[Evidence]:
    async with stage.talk() as talk:
        sent = await talk.send(stage.question, agent=stage.preferred("check_plain"))
        events = await talk.until_end(sent.run)
        before = (await stage.run_of(sent.run))["status"]
        status = await _cancel(talk, sent.run)
        after = (await stage.run_of(sent.run))["status"]
        # What the cancel may have added is in the log before its reply.
        async with stage.http() as http:
            page = await http.request("GET", f"/v1/threads/{sent.thread}/events?after={events[-1].seq}&view=all")
    evidence = [] if status == before == after else [found(f"status {before}, before and after", f"{status}, {after}")]
    later = [event for event in page.json()["events"] if event["run"] == sent.run]
    return evidence or [
        found("no event after the run's end", str(event)[:300], position=event["seq"]) for event in later[:1]
    ]


CASES: Final[tuple[Case[Stage], ...]] = (
    Case(name="stops", promise="A run that is called off ends as agent_cancelled, in time", look=_stops),
    Case(name="queued", promise="A run that is called off while it waits never starts", look=_queued),
    Case(name="ended", promise="To call off what has ended changes nothing", look=_ended),
)
