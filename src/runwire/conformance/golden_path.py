"""The category `golden_path`: from a message through the events to the stored answer. Pure looks at a conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from runwire.conformance import judge
from runwire.conformance.case import Case
from runwire.conformance.conversation import Asked, Scene
from runwire.conformance.report import Evidence
from runwire.protocol import frames
from runwire.protocol.codes import ErrorCode
from runwire.protocol.events import TERMINAL_TYPES, EventType
from runwire.protocol.frames import Event

__all__ = ["CASES"]

_CLOCK_TOLERANCE_MS: Final = 10 * 60 * 1000  # `ts` is for people; a clock that is off by more tells them nonsense
_SKEW_MS: Final = 5_000  # between two workers of one deployment


def _welcome(scene: Scene) -> list[Evidence]:
    if scene.welcome is None:
        came = tuple(seen.clipped for seen in scene.seen[:5])
        return [Evidence(expected="a welcome frame after the upgrade", seen=scene.fault, frames=came)]
    if scene.welcome.protocol != frames.PROTOCOL_VERSION:
        said = f"protocol {scene.welcome.protocol}"
        return [Evidence(expected=f"protocol {frames.PROTOCOL_VERSION}", seen=said, frames=(scene.seen[0].clipped,))]
    return []


def _frames(scene: Scene) -> list[Evidence]:
    bad = [seen for seen in scene.seen if seen.fault]
    found = [Evidence(expected="a frame of PROTOCOL", seen=seen.fault or "", frames=(seen.clipped,)) for seen in bad]
    return found + judge.shapes(scene.events)


def _answered(scene: Scene) -> list[Evidence]:
    return [
        Evidence(
            expected="an ok reply to send, with thread, log, after, run, message and seq",
            seen=asked.fault or "no reply",
            frames=(asked.reply.clipped,) if asked.reply else (),
        )
        for asked in scene.asked
        if asked.data is None
    ]


def _reply_first(scene: Scene) -> list[Evidence]:
    found = []
    for asked in scene.asked:
        assert asked.reply
        assert asked.data
        earlier = scene.seen[: scene.seen.index(asked.reply)]
        early = [seen for seen in earlier if isinstance(seen.frame, Event) and seen.frame.run == asked.data.run]
        if early:
            shown = (*(seen.clipped for seen in early[:3]), asked.reply.clipped)
            found.append(Evidence(expected="the reply before its run's events", seen="events first", frames=shown))
    return found


def _fresh(scene: Scene) -> list[Evidence]:
    found = []
    runs = {asked.data.run for asked in scene.asked if asked.data}
    for event in scene.events:
        if event.run not in runs:
            said = f"an event of {event.run}, which nobody started here"
            found.append(_at(event, f"events of the runs just started ({', '.join(sorted(runs))})", said))
            break
    for asked in scene.asked:
        found += _fresh_run(scene, asked)
    if len(scene.asked) > 1 and not found:
        found += _unlike(scene.of(scene.asked[0]), scene.of(scene.asked[1]), scene)
    return found


def _fresh_run(scene: Scene, asked: Asked) -> list[Evidence]:
    found = []
    for event in scene.of(asked):
        data = judge.data_of(event)
        if abs(event.ts - asked.at_ms) > _CLOCK_TOLERANCE_MS + scene.subject.timeout_s * 1000:
            said = f"ts {event.ts}, {(event.ts - asked.at_ms) / 1000:.0f} s away"
            found.append(_at(event, f"a time near {asked.at_ms}, when it was asked", said))
            break
        if event.type == EventType.USER_MESSAGE and asked.data:
            said_ids = (data.get("message"), event.seq)
            if said_ids != (asked.data.message, asked.data.seq):
                found.append(
                    _at(event, f"message and seq of the reply, {asked.data.message}, {asked.data.seq}", str(said_ids))
                )
            if data.get("content") != asked.content:
                found.append(_at(event, f"what was just sent: {asked.content!r}", repr(data.get("content"))))
        if event.type == EventType.AGENT_STARTED and asked.data and data.get("message") != asked.data.message:
            found.append(
                _at(event, f"the message that started the run, {asked.data.message}", str(data.get("message")))
            )
    return found


def _unlike(first: Sequence[Event], second: Sequence[Event], scene: Scene) -> list[Evidence]:
    """Two runs share no id, and the second is later."""
    if scene.asked[0].data and scene.asked[1].data and scene.asked[0].data.run == scene.asked[1].data.run:
        return [Evidence(expected="a new run for the second question", seen=f"the run {scene.asked[0].data.run} again")]
    known = {value for event in first for value in _ids(event)}
    for event in second:
        if again := known & _ids(event):
            return [_at(event, "new ids in a new run", f"{', '.join(sorted(again))} was in the first run")]
    if first and second and second[0].ts < first[0].ts - _SKEW_MS:
        return [_at(second[0], f"a time after {first[0].ts}", str(second[0].ts))]
    return []


_IDS: Final[dict[str, str]] = {
    EventType.USER_MESSAGE: "message",
    EventType.MESSAGE_STARTED: "message",
    EventType.TOOL_EXECUTING: "call",
    EventType.AGENT_FAILED: "error_id",
}
"""Where an event brings a new id into the world."""


def _ids(event: Event) -> set[str]:
    new = judge.data_of(event).get(_IDS.get(event.type, ""))
    return {new} if isinstance(new, str) else set()


def _at(event: Event, expected: str, seen: str) -> Evidence:
    return Evidence(expected=expected, seen=seen, position=event.seq, frames=(judge.show(event),))


def _ends(scene: Scene) -> list[Evidence]:
    found = []
    for asked in scene.asked:
        events = scene.of(asked)
        if asked.data is None or any(event.type in TERMINAL_TYPES for event in events):
            continue
        came = tuple(judge.show(event) for event in events[-3:])
        said = f"{asked.fault} {len(events)} events of {asked.data.run} came"
        stored = [e for e in _page_events(scene) if e.run == asked.data.run and e.type in TERMINAL_TYPES]
        if stored:
            said += f"; the log has {stored[0].type} at seq {stored[0].seq}, the socket never showed it"
        last = events[-1].seq if events else asked.data.after
        wanted = f"a terminal event within {scene.subject.timeout_s:g} s"
        found.append(Evidence(expected=wanted, seen=f"{said}.", position=last, frames=came))
    return found


def _page_events(scene: Scene) -> list[Event]:
    try:
        return _decoded_page(scene)
    except (msgspec.DecodeError, KeyError):
        return []


def _decoded_page(scene: Scene) -> list[Event]:
    page = msgspec.json.decode(scene.page[1], type=dict[str, msgspec.Raw])
    raws = msgspec.json.decode(page["events"], type=list[msgspec.Raw])
    found = [frame for raw in raws for frame in frames.parse_server_frames(bytes(raw).decode())]
    return [frame for frame in found if isinstance(frame, Event)]


def _each(look: Callable[[Sequence[Event]], list[Evidence]]) -> Callable[[Scene], list[Evidence]]:
    """Make a judgement of one run's events a look at both runs."""
    return lambda scene: [evidence for asked in scene.asked for evidence in look(scene.of(asked))]


def _orders(scene: Scene) -> list[Evidence]:
    runs = [asked.data.run for asked in scene.asked if asked.data]
    return [evidence for run in runs for evidence in judge.lifecycle(judge.sorted_once(scene.events), run)]


def _chain(scene: Scene) -> list[Evidence]:
    data = scene.asked[0].data
    return judge.no_hole(scene.events, after=data.after if data else 0)


def _page_agrees(scene: Scene) -> list[Evidence]:
    if scene.page[0] != 200:
        return [Evidence(expected="200 for the thread's events", seen=f"{scene.page[0]}: {scene.page[1][:300]}")]
    return _agree(scene, _decoded_page(scene), "GET …/events")


def _sse_agrees(scene: Scene) -> list[Evidence]:
    status, text = scene.sse
    if status != 200:
        return [Evidence(expected="200 and a stream of events", seen=f"{status}: {text[:300]}")]
    events, faults = judge.events_of_sse(text)
    return faults or _agree(scene, events, "SSE")


def _agree(scene: Scene, events: list[Event], name: str) -> list[Evidence]:
    ours = judge.sorted_once(scene.events)
    if scene.is_compacted:
        ours, events = judge.without_deltas(ours), judge.without_deltas(events)
    return judge.difference(ours, events, names=("the socket", name))


def _snapshot_agrees(scene: Scene) -> list[Evidence]:
    status, text = scene.snapshot
    if status != 200:
        return [Evidence(expected="200 and the thread", seen=f"{status}: {text[:300]}")]
    found: list[Evidence] = []
    thread = msgspec.json.decode(text)
    events = judge.sorted_once(scene.events)
    if thread["seq"] < events[-1].seq:
        said = f"seq {thread['seq']}"
        found.append(
            Evidence(expected=f"the thread at seq {events[-1].seq} or later", seen=said, position=events[-1].seq)
        )
    ours = judge.messages_of(events)
    theirs = {
        m["message"]: {name: m[name] for name in ("role", "content", "run", "complete")} for m in thread["messages"]
    }
    if list(ours.items()) != list(theirs.items()):
        id_ = next((i for i in [*ours, *theirs] if ours.get(i) != theirs.get(i)), "their order")
        found.append(
            Evidence(
                expected=f"{id_} as the stream made it: {ours.get(id_, list(ours))}",
                seen=str(theirs.get(id_, list(theirs))),
            )
        )
    runs = {run["run"]: run for run in thread["runs"]}
    for asked in scene.asked:
        found += _run_agrees(scene, asked, runs)
    return found


_STATUS: Final = {"agent_completed": "completed", "agent_failed": "failed", "agent_cancelled": "cancelled"}


def _run_agrees(scene: Scene, asked: Asked, runs: dict[str, Any]) -> list[Evidence]:
    assert asked.data
    run, events = runs.get(asked.data.run), scene.of(asked)
    wanted = next((_STATUS[event.type] for event in events if event.type in TERMINAL_TYPES), "running")
    if run is None or run["status"] != wanted:
        return [
            Evidence(expected=f"{asked.data.run} {wanted}", seen=f"{run and run['status']}", position=events[-1].seq)
        ]
    steps = {step["call"]: (step["name"], step["ok"]) for step in run["steps"]}
    for event in events:
        data = judge.data_of(event)
        is_final = event.type == EventType.TOOL_COMPLETED and data["final"]
        if is_final and steps.get(data["call"]) != (data["name"], data["ok"]):
            return [_at(event, "the tool call among the run's steps", str(run["steps"])[:300])]
    return []


def _idempotent(scene: Scene) -> list[Evidence]:
    first = scene.asked[0].data
    if scene.again is None or scene.other is None:
        return [Evidence(expected="a reply to the same send once more", seen=scene.fault or "none")]
    found = []
    if not scene.again.ok or msgspec.convert(scene.again.data, frames.SendData) != first:
        said = msgspec.json.encode(scene.again).decode()
        found.append(Evidence(expected="the same key and body: the same reply", seen=said))
    code = None if scene.other.ok or not scene.other.error else scene.other.error.code
    if code != ErrorCode.CONFLICT:
        said = msgspec.json.encode(scene.other).decode()
        found.append(Evidence(expected="the same key with another body: conflict", seen=said))
    return found


_WHOLE: Final = ("frames", "ends", "no_hole", "once", "ordered")

CASES: Final[tuple[Case[Scene], ...]] = (
    Case(priority="p1", name="welcome", promise="A signed-in socket is welcomed with protocol 1", look=_welcome),
    Case(
        priority="p1",
        name="frames",
        promise="Every frame and event has the shape of PROTOCOL",
        look=_frames,
        needs=("welcome",),
    ),
    Case(priority="p1", name="answered", promise="A send is answered with its run", look=_answered, needs=("welcome",)),
    Case(
        priority="p1",
        name="fresh",
        promise="What comes was made for the message just sent",
        look=_fresh,
        needs=("answered",),
    ),
    Case(
        priority="p1",
        name="reply_first",
        promise="The reply comes before its run's events",
        look=_reply_first,
        needs=("fresh",),
    ),
    Case(
        priority="p1",
        name="ends",
        promise="Each run reaches a terminal event in time",
        look=_ends,
        needs=("answered", "fresh"),
    ),
    Case(
        priority="p1",
        name="once",
        promise="Each event comes once",
        look=lambda s: judge.once(s.events),
        needs=("fresh",),
    ),
    Case(
        priority="p1",
        name="ordered",
        promise="Events come in the order of their seq",
        look=lambda s: judge.ordered(s.events),
        needs=("fresh",),
    ),
    Case(
        priority="p1",
        name="no_hole",
        promise="Each prev is the event before it: nothing is lost",
        look=_chain,
        needs=("fresh",),
    ),
    Case(
        priority="p1",
        name="lifecycle",
        promise="One agent_started first, one terminal event last",
        look=_orders,
        needs=_WHOLE,
    ),
    Case(
        priority="p1",
        name="tools_paired",
        promise="Each tool call begins and ends exactly once",
        look=_each(judge.tools_paired),
        needs=_WHOLE,
    ),
    Case(
        priority="p1",
        name="five",
        promise="The five events of the golden path come in order",
        look=_each(judge.five_in_order),
        needs=("lifecycle", "tools_paired"),
        applies=lambda scene: None if scene.subject.expect == "five" else "expect is any",
    ),
    Case(
        priority="p1",
        name="text",
        promise="What was streamed is what is stored",
        look=_each(judge.text_adds_up),
        needs=_WHOLE,
    ),
    Case(
        priority="p1",
        name="page_agrees",
        promise="The log over HTTP is what the socket showed",
        look=_page_agrees,
        needs=_WHOLE,
    ),
    Case(
        priority="p1",
        name="sse_agrees",
        promise="SSE shows what the socket showed",
        look=_sse_agrees,
        needs=("lifecycle",),
    ),
    Case(
        priority="p1",
        name="snapshot_agrees",
        promise="The stored thread is what the stream told",
        look=_snapshot_agrees,
        needs=_WHOLE,
    ),
    Case(
        priority="p1",
        name="idempotent",
        promise="A repeated send starts nothing new",
        look=_idempotent,
        needs=("ends",),
    ),
)
