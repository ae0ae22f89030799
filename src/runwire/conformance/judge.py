"""What must hold of a stream of events. Pure: events in, evidence of what is wrong out; none is a kept promise.

Each judgement looks at one thing only: a doubled event is no hole, a swap is no double, so that a fault has one name.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from runwire.conformance.report import Evidence
from runwire.errors import ProtocolError
from runwire.protocol.events import DELTA_TYPES, EVENT_DATA, TERMINAL_TYPES, EventType
from runwire.protocol.frames import Event, parse_server_frames
from runwire.protocol.ids import ID_PATTERN

__all__ = [
    "FIVE",
    "data_of",
    "difference",
    "events_of_sse",
    "five_in_order",
    "lifecycle",
    "messages_of",
    "no_hole",
    "once",
    "ordered",
    "shapes",
    "show",
    "sorted_once",
    "text_adds_up",
    "tools_paired",
    "without_deltas",
]

FIVE: Final = ("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed")
_NEAR: Final = 3  # frames of evidence on each side
_CLIP: Final = 300


def show(event: Event) -> str:
    """Return an event as evidence: its frame, cut."""
    text = msgspec.json.encode(event).decode()
    return text if len(text) <= _CLIP else f"{text[:_CLIP]}… ({len(text)} characters)"


def near(events: Sequence[Event], at: int) -> tuple[str, ...]:
    """Return the events around a place."""
    return tuple(show(event) for event in events[max(0, at - _NEAR) : at + _NEAR + 1])


def data_of(event: Event) -> dict[str, Any]:
    """Return an event's data as plain JSON; what is no object is empty."""
    data = msgspec.json.decode(event.data)
    return data if isinstance(data, dict) else {}


def without_deltas(events: Iterable[Event]) -> list[Event]:
    """Return what the view `lifecycle` has."""
    return [event for event in events if event.type not in DELTA_TYPES]


def sorted_once(events: Iterable[Event]) -> list[Event]:
    """Return the events by seq, each once."""
    return [event for _, event in sorted({event.seq: event for event in events}.items())]


def once(events: Sequence[Event]) -> list[Evidence]:
    """Each seq comes once."""
    first: dict[int, int] = {}
    found = []
    for at, event in enumerate(events):
        if event.seq in first:
            pair = (show(events[first[event.seq]]), show(event))
            said = f"seq {event.seq} came again, {at - first[event.seq]} events after its first time"
            found.append(Evidence(expected="each event once", seen=said, position=event.seq, frames=pair))
        first.setdefault(event.seq, at)
    return found


def ordered(events: Sequence[Event]) -> list[Evidence]:
    """Seqs ascend; a repetition is not this promise's business."""
    found, last = [], 0
    seen = set[int]()
    for at, event in enumerate(events):
        if event.seq < last and event.seq not in seen:
            said = f"seq {event.seq} came after seq {last}"
            found.append(Evidence(expected="ascending seqs", seen=said, position=event.seq, frames=near(events, at)))
        seen.add(event.seq)
        last = max(last, event.seq)
    return found


def no_hole(events: Sequence[Event], *, after: int, exact: bool = True) -> list[Evidence]:
    """Each `prev` is the seq of the event before it, from `after` on; judged by seq, each event once.

    Args:
        events: of one view.
        after: where the stream begins.
        exact: the first `prev` is `after` itself; else it may be lower (a position in another view, or compaction).
    """
    found, last = [], after
    whole = sorted_once(events)
    for at, event in enumerate(whole):
        is_first_and_may_be_lower = at == 0 and not exact and event.prev <= after
        if event.prev != last and not is_first_and_may_be_lower:
            lost = (
                f"the event with seq {event.prev} is missing"
                if event.prev == last + 1
                else f"the events from seq {last + 1} to seq {event.prev} are missing"
            )
            wrong = f"prev says {event.prev}, but the event before it in this view is {last}"
            found.append(
                Evidence(
                    expected=f"an event whose prev is {last}",
                    seen=f"seq {event.seq} with prev {event.prev}: {lost if event.prev > last else wrong}",
                    position=event.seq,
                    frames=near(whole, at),
                )
            )
        last = event.seq
    return found


def difference(expected: Sequence[Event], seen: Sequence[Event], *, names: tuple[str, str]) -> list[Evidence]:
    """Two readings of one history are equal, event by event (`prev` aside: it belongs to the view).

    Args:
        expected: one reading.
        seen: the other.
        names: what the two are called in the evidence, such as `("the socket", "SSE")`.
    """
    for at in range(max(len(expected), len(seen))):
        ours = expected[at] if at < len(expected) else None
        theirs = seen[at] if at < len(seen) else None
        if ours is None or theirs is None or _facts(ours) != _facts(theirs):
            return [
                Evidence(
                    expected=f"{names[1]} shows what {names[0]} shows: {show(ours) if ours else 'nothing more'}",
                    seen=show(theirs) if theirs else f"nothing more after {len(seen)} of {len(expected)} events",
                    position=(ours or theirs).seq,  # type: ignore[union-attr]  # one of them is there
                    frames=near(seen, at),
                )
            ]
    return []


def _facts(event: Event) -> tuple[object, ...]:
    return (event.seq, event.run, event.attempt, event.ts, event.type, data_of(event))


def shapes(events: Iterable[Event]) -> list[Evidence]:
    """Events of known types have the data of PROTOCOL §2 and ids that are ids."""
    found = []
    for event in events:
        fault = None if re.match(ID_PATTERN, event.run) else f"the run id {event.run!r}"
        kind = EVENT_DATA.get(EventType(event.type)) if event.type in set(EventType) else None
        if kind and not fault:
            try:
                msgspec.json.decode(event.data, type=kind)
            except msgspec.DecodeError as error:
                fault = str(error)
        if fault:
            found.append(
                Evidence(
                    expected=f"a {event.type} as PROTOCOL §2 has it",
                    seen=fault,
                    position=event.seq,
                    frames=(show(event),),
                )
            )
    return found


def lifecycle(events: Sequence[Event], run: str) -> list[Evidence]:
    """A run has its user_message, then agent_started once, then exactly one terminal event, which is its last."""
    own = [event for event in events if event.run == run]
    kinds = [event.type for event in own]
    found = []
    terminals = [at for at, kind in enumerate(kinds) if kind in TERMINAL_TYPES]
    if len(terminals) != 1:
        said = f"{len(terminals)} terminal events: {', '.join(kinds[at] for at in terminals) or 'none'}"
        at = terminals[-1] if terminals else len(own) - 1
        found.append(Evidence(expected="exactly one terminal event", seen=said, **_where(own, at)))
    elif terminals[0] != len(own) - 1:
        said = f"{kinds[terminals[0] + 1]} after {kinds[terminals[0]]}"
        found.append(Evidence(expected="nothing after the terminal event", seen=said, **_where(own, terminals[0] + 1)))
    begun = [at for at, kind in enumerate(kinds) if kind == EventType.AGENT_STARTED]
    # A run that is ended while it is queued was never started.
    if len(begun) > 1 or (kinds[1:] and not begun and kinds[1:] != [kinds[-1]]):
        said = f"{len(begun)} of them in: {', '.join(kinds)}"
        found.append(Evidence(expected="agent_started once", seen=said, **_where(own, begun[-1] if begun else 0)))
    elif kinds[:1] != [EventType.USER_MESSAGE] or (begun and begun[0] != 1):
        said = f"the run begins with: {', '.join(kinds[:3])}"
        found.append(Evidence(expected="user_message, then agent_started", seen=said, **_where(own, 0)))
    return found


def _where(events: Sequence[Event], at: int) -> dict[str, Any]:
    return {"position": events[at].seq if events else None, "frames": near(events, at)}


def tools_paired(events: Sequence[Event]) -> list[Evidence]:
    """Each tool_executing has exactly one tool_completed of its call, after it, with the same name and step."""
    found = []
    begun = Counter(data_of(e).get("call") for e in events if e.type == EventType.TOOL_EXECUTING)
    open_calls: dict[str, dict[str, Any]] = {}
    for at, event in enumerate(events):
        call = str(data_of(event).get("call"))
        if event.type == EventType.TOOL_EXECUTING:
            open_calls[call] = data_of(event)
            if begun[call] > 1:
                found.append(Evidence(expected="a new call id", seen=f"{call} began again", **_where(events, at)))
        elif event.type == EventType.TOOL_COMPLETED:
            start = open_calls.pop(call, None)
            if start is None:
                said = f"the end of {call}, which was not open"
                found.append(Evidence(expected="a tool_executing before it", seen=said, **_where(events, at)))
            elif any(start.get(name) != data_of(event).get(name) for name in ("step", "try", "name")):
                said = f"another step, try or name: {show(event)}"
                found.append(Evidence(expected=f"the end of {start}", seen=said, **_where(events, at)))
        elif event.type in TERMINAL_TYPES and open_calls:
            said = f"the run ended while {', '.join(open_calls)} was open"
            found.append(Evidence(expected="a tool_completed for each call", seen=said, **_where(events, at)))
            open_calls.clear()
    return found


def five_in_order(events: Sequence[Event]) -> list[Evidence]:
    """The five events of the golden path are there, in order, the tool's two of one call."""
    wanted = list(FIVE)
    call: object = None
    for event in events:
        if not wanted or event.type != wanted[0]:
            continue
        if event.type == EventType.TOOL_EXECUTING:
            call = data_of(event).get("call")
        elif event.type == EventType.TOOL_COMPLETED and data_of(event).get("call") != call:
            continue
        wanted.pop(0)
    if not wanted:
        return []
    kinds = ", ".join(event.type for event in events if event.type not in DELTA_TYPES)
    return [
        Evidence(
            expected=f"{', '.join(FIVE)}, in this order",
            seen=f"no {wanted[0]} after what came before it; the run was: {kinds or 'empty'}",
            position=events[-1].seq if events else None,
            frames=near(events, len(events) - 1),
        )
    ]


def text_adds_up(events: Sequence[Event]) -> list[Evidence]:
    """The deltas of a message join without a gap and are its content when it is completed."""
    found = []
    texts: dict[str, str] = {}
    for at, event in enumerate(events):
        data = data_of(event)
        message = str(data.get("message"))
        if event.type == EventType.MESSAGE_STARTED:
            texts[message] = ""
        elif event.type == EventType.TEXT_DELTA and message in texts:
            if data["offset"] > len(texts[message]):
                said = f"offset {data['offset']}"
                wanted = f"an offset up to {len(texts[message])}"
                found.append(Evidence(expected=wanted, seen=said, **_where(events, at)))
            texts[message] = texts[message][: data["offset"]] + data["text"]
        elif event.type == EventType.MESSAGE_COMPLETED and texts.get(message):
            content = data["content"]
            if isinstance(content, str) and content != texts[message]:
                wanted = f"the content that was streamed: {_cut(texts[message])}"
                found.append(Evidence(expected=wanted, seen=_cut(content), **_where(events, at)))
    return found


def _cut(text: str) -> str:
    shown = json.dumps(text, ensure_ascii=False)
    return shown if len(shown) <= _CLIP else f"{shown[:_CLIP]}…"


def messages_of(events: Iterable[Event]) -> dict[str, dict[str, Any]]:
    """Return the messages a person sees after these events, by id, in order: role, content, run, complete."""
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        data = data_of(event)
        if event.type == EventType.USER_MESSAGE:
            found[data["message"]] = _message("user", data["content"], event, complete=True)
        elif event.type == EventType.MESSAGE_STARTED:
            found[data["message"]] = _message(data["role"], "", event, complete=False)
        elif event.type == EventType.TEXT_DELTA and data["message"] in found:
            message = found[data["message"]]
            message["content"] = message["content"][: data["offset"]] + data["text"]
        elif event.type == EventType.MESSAGE_COMPLETED and data["message"] in found:
            found[data["message"]].update(content=data["content"], complete=data["complete"])
        elif event.type == EventType.SUPERSEDED:
            for message in data["messages"]:
                found.pop(message, None)
    return found


def _message(role: str, content: object, event: Event, *, complete: bool) -> dict[str, Any]:
    return {"role": role, "content": content, "run": event.run, "complete": complete}


def events_of_sse(text: str) -> tuple[list[Event], list[Evidence]]:
    """Return the events of a stream, and what is wrong with its lines; `id` must be the event's position."""
    events, faults = [], []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
        if "data" not in fields:
            continue
        try:
            frame = parse_server_frames(fields["data"])[0]
        except ProtocolError as error:
            faults.append(Evidence(expected="one frame in each data:", seen=error.message, frames=(block[:300],)))
            continue
        if isinstance(frame, Event):
            events.append(frame)
            if fields.get("id", "").rpartition(":")[2] != str(frame.seq):
                said = f"id {fields.get('id')!r}"
                faults.append(
                    Evidence(expected=f"id <log>:{frame.seq}", seen=said, position=frame.seq, frames=(block[:300],))
                )
    return events, faults
