"""The category `waits`: a run that asks a person waits, takes the first answer, and goes on with it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Final

from runwire.conformance import judge
from runwire.conformance.case import Case, NotHere, Subject
from runwire.conformance.report import Evidence
from runwire.conformance.stage import Stage, error_code, find_end, found, whole
from runwire.conformance.stage import play as open_stage
from runwire.conformance.wire import Closed, Seen, Silence, require_staying
from runwire.protocol import frames
from runwire.protocol.codes import ErrorCode
from runwire.protocol.events import EventType
from runwire.protocol.frames import Event

__all__ = ["CASES", "Waited", "play"]


@dataclass(slots=True, kw_only=True)
class Waited:
    """A run that asked, and what became of the answers."""

    stage: Stage
    why: str | None = None  # why it is not checked
    fault: str | None = None
    value: str = ""
    asked: Event | None = None
    shown: tuple[dict[str, Any], ...] = ()  # open waits over HTTP, before the answer
    unknown: Seen | None = None  # the answer to a wait that there is not
    first: Seen | None = None
    again: Seen | None = None  # the same answer once more
    other: Seen | None = None  # another one
    events: tuple[Event, ...] = ()


async def play(subject: Subject) -> Waited:
    """Have the agent ask; answer a wait that there is not, then the right one, again, and otherwise.

    Raises:
        CouldNotCheck: not reached, or not let in.
    """
    waited = Waited(stage=await open_stage(subject), value=f"word {secrets.token_hex(6)}")
    try:
        await _play(waited)
    except NotHere as error:
        waited.why = error.message
    except (Silence, Closed) as error:
        require_staying(error)
        waited.fault = error.message
    return waited


async def _play(waited: Waited) -> None:
    stage = waited.stage
    agent = stage.needed("check_asks")
    async with stage.talk() as talk:
        sent = await talk.send(stage.question, agent=agent)
        waited.asked = await talk.until(lambda e: e.run == sent.run and e.type == EventType.AGENT_WAITING)
        wait = judge.data_of(waited.asked)["wait"]
        waited.shown = tuple(w for w in (await stage.run_of(sent.run))["waits"] if w.get("by") is None)
        waited.unknown = await talk.say("answer", run=sent.run, wait="wait_nobody", value=waited.value)
        answer = {"run": sent.run, "wait": wait}
        waited.first = await talk.say("answer", **answer, value=waited.value)
        waited.again = await talk.say("answer", **answer, value=waited.value)
        waited.other = await talk.say("answer", **answer, value="something else")
        waited.events = tuple(await talk.until_end(sent.run))


def _asks(waited: Waited) -> list[Evidence]:
    if waited.asked is None:
        return [found("agent_waiting from an agent that asks", waited.fault)]
    wait = judge.data_of(waited.asked)["wait"]
    if wait not in [shown["wait"] for shown in waited.shown]:
        return [
            found(f"the open wait {wait} among those of the run over HTTP", waited.shown, position=waited.asked.seq)
        ]
    return []


def _goes_on(waited: Waited) -> list[Evidence]:
    if not _is_ok(waited.first):
        return [found("ok for the answer", "this", shown=_shown(waited.first))]
    resumed = next((event for event in waited.events if event.type == EventType.AGENT_RESUMED), None)
    if resumed is None or judge.data_of(resumed).get("value") != waited.value:
        shown = [judge.show(resumed)] if resumed else []
        return [found(f"agent_resumed with {waited.value!r}", waited.fault or "another, or none", shown=shown)]
    end = find_end(waited.events)
    if end is None or end.type != EventType.AGENT_COMPLETED or waited.value not in _text(end):
        shown = [judge.show(end)] if end else []
        return [found(f"agent_completed with {waited.value!r} in its output", waited.fault or "another", shown=shown)]
    return whole(list(waited.events), after=waited.events[0].prev)


def _text(event: Event) -> str:
    return str(judge.data_of(event).get("output"))


def _first_wins(waited: Waited) -> list[Evidence]:
    if not _is_ok(waited.again):
        return [found("ok for the same answer from the same user", "this", shown=_shown(waited.again))]
    if waited.other is None or error_code(waited.other) != ErrorCode.CONFLICT:
        return [found("conflict for another answer after the first", "this", shown=_shown(waited.other))]
    return []


def _unknown(waited: Waited) -> list[Evidence]:
    if waited.unknown is None or error_code(waited.unknown) != ErrorCode.NOT_FOUND:
        return [found("not_found for a wait that the run does not have", "this", shown=_shown(waited.unknown))]
    return []


def _is_ok(seen: Seen | None) -> bool:
    return seen is not None and isinstance(seen.frame, frames.Reply) and seen.frame.ok


def _shown(seen: Seen | None) -> list[str]:
    return [seen.clipped] if seen else []


CASES: Final[tuple[Case[Waited], ...]] = (
    Case(name="asks", promise="A run that asks is shown to wait", look=_asks, applies=lambda waited: waited.why),
    Case(
        name="unknown_wait",
        promise="An answer to a wait that there is not is refused",
        look=_unknown,
        needs=("asks",),
        applies=lambda waited: waited.why,
    ),
    Case(
        name="goes_on",
        promise="The answer is shown, and the run goes on with it",
        look=_goes_on,
        needs=("asks",),
        applies=lambda waited: waited.why,
    ),
    Case(
        name="first_wins",
        promise="The first answer wins; the same one again is ok",
        look=_first_wins,
        needs=("asks", "goes_on"),
        applies=lambda waited: waited.why,
    ),
)
