"""The order of events of a run: legal histories pass whole, each single fault is refused where it stands."""

from __future__ import annotations

import pytest

from runwire.errors import ProtocolError
from runwire.protocol import lifecycle
from runwire.protocol.events import (
    DELTA_TYPES,
    AgentCancelled,
    AgentCompleted,
    AgentFailed,
    AgentResumed,
    AgentRetrying,
    AgentStarted,
    AgentThinking,
    AgentWaiting,
    Custom,
    EventData,
    EventType,
    MessageCompleted,
    MessageStarted,
    StepCompleted,
    StepStarted,
    SubagentCompleted,
    SubagentFailed,
    SubagentStarted,
    Superseded,
    TextDelta,
    ThinkingDelta,
    ToolArgsDelta,
    ToolCompleted,
    ToolExecuting,
    UserMessage,
    emitted,
)
from runwire.protocol.lifecycle import RunOrder

# ── words for short histories: (data, attempt) ───────────────────────────────────────────────────────────

Told = tuple[EventData, int]

ASKED: Told = (UserMessage(message="msg_u", content="hi"), 0)
STARTED: Told = (AgentStarted(agent="a", message="msg_u"), 1)
DONE: Told = (AgentCompleted(output="x", duration_ms=1), 1)
CANCELLED: Told = (AgentCancelled(by="user"), 1)


def failed(attempt: int = 1) -> Told:
    return AgentFailed(code="worker_lost", message="m", error_id="e", retryable=True), attempt


def opened(message: str = "m", attempt: int = 1) -> Told:
    return MessageStarted(message=message), attempt


def said(text: str, offset: int = 0, message: str = "m", attempt: int = 1) -> Told:
    return TextDelta(message=message, offset=offset, text=text), attempt


def closed(message: str = "m", attempt: int = 1, *, complete: bool = True) -> Told:
    return MessageCompleted(message=message, content="", complete=complete), attempt


def thought(text: str, offset: int = 0, thinking: str = "t", attempt: int = 1) -> Told:
    return ThinkingDelta(thinking=thinking, offset=offset, text=text), attempt


def thinking(id_: str | None = None, attempt: int = 1) -> Told:
    return AgentThinking(text="x", thinking=id_), attempt


def called(call: str = "c", try_: int = 1, step: str = "s", attempt: int = 1) -> Told:
    return ToolExecuting(call=call, step=step, try_=try_, name="n", args={}), attempt


def returned(
    call: str = "c", try_: int = 1, step: str = "s", attempt: int = 1, *, ok: bool = True, final: bool = True
) -> Told:
    return ToolCompleted(call=call, step=step, try_=try_, name="n", ok=ok, final=final, duration_ms=1), attempt


def waits(wait: str = "w", attempt: int = 1) -> Told:
    return AgentWaiting(wait=wait, kind="input"), attempt


def resumed(wait: str = "w", attempt: int = 1, *, by: str = "usr_1") -> Told:
    return AgentResumed(wait=wait, value=1, by=by), attempt


def retrying(attempt: int, named: int | None = None) -> Told:
    return AgentRetrying(attempt=named or attempt, reason="worker_lost"), attempt


def took_back(messages: list[str], thinking: list[str] | None = None, attempt: int = 1) -> Told:
    return Superseded(messages=messages, thinking=thinking or [], events=[], reason="differs"), attempt


def span(id_: str = "sp", attempt: int = 1, *, parent: str | None = None) -> Told:
    return SubagentStarted(span=id_, agent="b", parent=parent), attempt


def step(try_: int = 1, attempt: int = 1) -> Told:
    return StepStarted(step="s", try_=try_, name="n"), attempt


def stepped(try_: int = 1, attempt: int = 1, *, ok: bool = True, final: bool = True) -> Told:
    return StepCompleted(step="s", try_=try_, ok=ok, final=final), attempt


def feed(history: list[Told]) -> RunOrder:
    order = RunOrder()
    for data, attempt in history:
        order.accept(emitted(data, ts=0).type, data, attempt)
    return order


def assert_refused(history: list[Told], because: str) -> None:
    """The last event of the history is refused, everything before it is not."""
    order = feed(history[:-1])
    before = order.open_things, order.attempt, order.is_ended
    data, attempt = history[-1]
    kind = emitted(data, ts=0).type
    with pytest.raises(ProtocolError, match=because) as caught:
        order.accept(kind, data, attempt)
    assert caught.value.field == kind
    assert (order.open_things, order.attempt, order.is_ended) == before, "a refused event is forgotten"


# ── statuses ─────────────────────────────────────────────────────────────────────────────────────────────


def test_statuses_move_as_designed_and_not_otherwise() -> None:
    legal = {
        ("queued", "running"),
        ("queued", "cancelled"),
        ("running", "waiting"),
        ("running", "completed"),
        ("running", "failed"),
        ("running", "cancelled"),
        ("waiting", "running"),
        ("waiting", "cancelled"),
    }
    for status in lifecycle.NEXT_STATUSES:
        for later in lifecycle.NEXT_STATUSES:
            if (status, later) in legal:
                lifecycle.check_transition(status, later)
            else:
                with pytest.raises(ProtocolError, match=f"{status} cannot become {later}"):
                    lifecycle.check_transition(status, later)
    assert sorted(lifecycle.FINAL_STATUSES) == ["cancelled", "completed", "failed"]
    assert set(lifecycle.STATUS_OF_TERMINAL.values()) == lifecycle.FINAL_STATUSES


# ── legal histories ──────────────────────────────────────────────────────────────────────────────────────

WHOLE: list[Told] = [
    ASKED,
    STARTED,
    thinking(),
    thought("hm"),
    thought("m!", 2),
    thought("x", 1),
    thinking("t"),
    (StepStarted(step="now", try_=1, name="now"), 1),
    (StepCompleted(step="now", try_=1, ok=True, final=True, result=1), 1),
    (ToolArgsDelta(call="c", offset=0, text="{"), 1),
    called(),
    opened("inner"),
    closed("inner"),
    returned(ok=False, final=False),
    called("c2", 2),
    returned("c2", 2),
    opened(),
    said("ab"),
    said("c", 1),
    (Custom(name="n", value=1), 1),
    took_back(["inner"]),
    span(),
    waits(),
    resumed(),
    (SubagentCompleted(span="sp"), 1),
    closed(),
    DONE,
]

LEGAL: dict[str, list[Told]] = {
    "everything": WHOLE,
    "seen without deltas": [told for told in WHOLE if emitted(told[0], ts=0).type not in DELTA_TYPES],
    "cancelled while queued": [ASKED, (AgentCancelled(by="user"), 0)],
    "failed before it began": [ASKED, failed()],
    "begun by a later attempt": [ASKED, (STARTED[0], 3), (DONE[0], 3)],
    "seen from a worker only": [STARTED, DONE],
    "goes on in the same message": [ASKED, STARTED, opened(), said("ab"), retrying(2), said("c", 2, attempt=2)],
    "an open message taken back": [ASKED, STARTED, opened(), said("ab"), took_back(["m"]), opened("m2"), closed("m2")],
    "an open thought taken back": [ASKED, STARTED, thought("ab"), took_back([], ["t"]), DONE],
    "thoughts of another view taken back": [ASKED, STARTED, took_back([], ["t"]), DONE],
    "ended inside a message": [ASKED, STARTED, opened(), said("ab"), closed(complete=False), CANCELLED],
    "taken up after a wait without a word": [
        ASKED,
        STARTED,
        waits(),
        resumed(),
        opened(attempt=2),
        closed(attempt=2),
        (DONE[0], 2),
    ],
    "waits on over two attempts": [ASKED, STARTED, waits(), (Custom(name="n", value=1), 2), resumed(attempt=2)],
    "waits on over three attempts": [
        ASKED,
        STARTED,
        waits(),
        (Custom(name="n", value=1), 2),
        (Custom(name="n", value=1), 3),
        resumed(attempt=3),
    ],
    "parked again with what was answered before the attempt's first word": [
        *(ASKED, STARTED, waits(), waits("w2"), resumed(), resumed("w2", attempt=2)),
        *((Custom(name="n", value=1), 2), (Custom(name="n", value=1), 3)),
    ],
    "answered before the new attempt's first word": [ASKED, STARTED, waits(), resumed(attempt=2), retrying(2)],
    "ended by its claimer without replay": [
        ASKED,
        STARTED,
        opened(),
        said("a"),
        thought("b"),
        span(),
        called(),
        waits(),
        returned(attempt=2, ok=False),
        thinking("t", attempt=2),
        resumed(attempt=2, by="ended"),
        (SubagentFailed(span="sp", code="ended", message="m"), 2),
        closed(attempt=2, complete=False),
        failed(2),
    ],
    "internal steps inside a message, tried again": [
        *(ASKED, STARTED, opened(), step(), retrying(2), stepped(attempt=2, ok=False, final=False)),
        *(step(2, 2), stepped(2, 2), closed(attempt=2), (DONE[0], 2)),
    ],
    "sub-agents inside each other": [
        *(ASKED, STARTED, span(), (MessageStarted(message="m", span="sp"), 1), closed()),
        *(span("sp2", parent="sp"), (ToolExecuting(call="c", step="s", try_=1, name="n", args={}, span="sp2"), 1)),
        *(returned(), (SubagentCompleted(span="sp2"), 1), (SubagentFailed(span="sp", code="c", message="m"), 1), DONE),
    ],
    "answered while it is being ended": [
        *(ASKED, STARTED, waits(), waits("w2"), opened(), closed(complete=False)),
        *(resumed(), resumed("w2", by="ended"), CANCELLED),
    ],
    "a parked run called off by a gateway": [
        *(ASKED, STARTED, called(), waits(), (Custom(name="n", value=1), 1)),
        *(resumed(by="ended"), returned(ok=False), CANCELLED),
    ],
    "a try cut off that who goes on after a wait closes": [
        *(ASKED, STARTED, waits(), resumed(), called(), returned(attempt=2, ok=False, final=False)),
        *(called("c2", 2, attempt=2), returned("c2", 2, attempt=2), (DONE[0], 2)),
    ],
    "parked twice, the second time without a word": [
        *(ASKED, STARTED, waits(), waits("w2"), resumed(), resumed("w2", attempt=2), (Custom(name="n", value=1), 3)),
    ],
    "cancelled by its claimer with nothing open": [ASKED, STARTED, (AgentCancelled(by="user"), 2)],
    "a future type anywhere": [ASKED, STARTED, DONE],
}


@pytest.mark.parametrize("history", LEGAL.values(), ids=LEGAL.keys())
def test_a_legal_history_is_accepted_whole(history: list[Told]) -> None:
    feed(history)


def test_an_order_knows_where_it_stands() -> None:
    order = feed([ASKED, STARTED, opened(), called(), (ToolArgsDelta(call="c9", offset=0, text=""), 1), thought("a")])
    assert (order.is_started, order.is_ended, order.attempt) == (True, False, 1)
    assert order.open_things == ["message m", "thinking t", "tool c"]
    assert feed(WHOLE).is_ended


def test_an_unknown_type_may_stand_wherever_an_event_may() -> None:
    order = feed([ASKED])
    with pytest.raises(ProtocolError, match="before agent_started"):
        order.accept("future", {"a": 1}, 1)
    order = feed([ASKED, STARTED])
    order.accept("future", {"a": 1}, 1)
    order = feed([ASKED, STARTED, DONE])
    with pytest.raises(ProtocolError, match="after the terminal event"):
        order.accept("future", {"a": 1}, 1)


# ── each single fault ────────────────────────────────────────────────────────────────────────────────────

ILLEGAL: dict[str, tuple[list[Told], str]] = {
    "a second user message": ([ASKED, ASKED], "first event"),
    "a user message of an attempt": ([(ASKED[0], 1)], "attempt is 0"),
    "a second start": ([ASKED, STARTED, STARTED], "second time"),
    "thinking before the start": ([ASKED, thinking()], "before agent_started"),
    "completed before the start": ([ASKED, DONE], "before agent_started"),
    "a second terminal event": ([ASKED, STARTED, DONE, CANCELLED], "after the terminal event"),
    "anything after the terminal event": ([ASKED, STARTED, DONE, thinking()], "after the terminal event"),
    "a start of attempt 0": ([ASKED, (STARTED[0], 0)], "from 1"),
    "an earlier attempt": ([ASKED, (STARTED[0], 2), thinking(attempt=1)], "attempt 1, after one of attempt 2"),
    "a later attempt without a word": ([ASKED, STARTED, (Custom(name="n", value=1), 2)], "before the agent_retrying"),
    "a later attempt that completes at once": ([ASKED, STARTED, (DONE[0], 2)], "before the agent_retrying"),
    "retrying in the same attempt": ([ASKED, STARTED, retrying(1)], "not the first event of the attempt"),
    "retrying twice": ([ASKED, STARTED, retrying(2), retrying(2)], "not the first event of the attempt"),
    "retrying as another attempt": ([ASKED, STARTED, retrying(2, named=3)], "not the first event of the attempt"),
    "retrying before the start": ([ASKED, retrying(2)], "before agent_started"),
    "going on after a silent ending": (
        [ASKED, STARTED, called(), returned(attempt=2, ok=False), opened(attempt=2)],
        "being ended",
    ),
    "going on after a message that was cut": (
        [ASKED, STARTED, opened(), closed(complete=False), thinking()],
        "being ended",
    ),
    "completing after a message that was cut": (
        [ASKED, STARTED, opened(), closed(complete=False), DONE],
        "being ended",
    ),
    "silent once more after a wait of an earlier attempt": (
        [ASKED, STARTED, waits(), resumed(), (Custom(name="n", value=1), 2), (Custom(name="n", value=1), 3)],
        "before the agent_retrying of attempt 3",
    ),
    "ended with an open message": ([ASKED, STARTED, opened(), DONE], "leaves open: message m"),
    "ended with open thinking": ([ASKED, STARTED, thought("a"), DONE], "leaves open: thinking t"),
    "ended with an open tool": ([ASKED, STARTED, called(), CANCELLED], "leaves open: tool c"),
    "ended with an open wait": ([ASKED, STARTED, waits(), failed()], "leaves open: wait w"),
    "ended with an open span": ([ASKED, STARTED, span(), DONE], "leaves open: span sp"),
    "a message opened twice": ([ASKED, STARTED, opened(), opened()], "begun already"),
    "a message opened again": ([ASKED, STARTED, opened(), closed(), opened()], "begun already"),
    "a delta without a message": ([ASKED, STARTED, said("a")], "not open"),
    "a delta after its message": ([ASKED, STARTED, opened(), closed(), said("a")], "not open"),
    "a delta beyond the end": ([ASKED, STARTED, opened(), said("ab"), said("c", 3)], "offset 3 in a text of 2"),
    "a delta before the beginning": ([ASKED, STARTED, opened(), said("a", -1)], "offset -1"),
    "a message closed twice": ([ASKED, STARTED, opened(), closed(), closed()], "not open"),
    "a message closed that never began": ([ASKED, STARTED, closed()], "not open"),
    "a message that was taken back goes on": ([ASKED, STARTED, opened(), took_back(["m"]), said("a")], "not open"),
    "a message taken back that never began": ([ASKED, STARTED, took_back(["m"])], "not there"),
    "thinking that begins in the middle": ([ASKED, STARTED, thought("a", 1)], "offset 1 in a text of 0"),
    "thinking beyond its end": ([ASKED, STARTED, thought("a"), thought("b", 2)], "offset 2 in a text of 1"),
    "thinking goes on after its end": ([ASKED, STARTED, thought("a"), thinking("t"), thought("b", 1)], "has ended"),
    "thinking ended twice": ([ASKED, STARTED, thinking("t"), thinking("t")], "has ended"),
    "thinking taken back goes on": ([ASKED, STARTED, thought("a"), took_back([], ["t"]), thinking("t")], "has ended"),
    "a tool called twice": ([ASKED, STARTED, called(), called()], "begun already"),
    "a try repeated": ([ASKED, STARTED, called(), returned(ok=False, final=False), called("c2")], "repeats try 1"),
    "a final step tried again": ([ASKED, STARTED, called(), returned(), called("c2", 2)], "that is final"),
    "a tool completed twice": ([ASKED, STARTED, called(), returned(), returned()], "not open"),
    "a tool completed that was not called": ([ASKED, STARTED, returned()], "not open"),
    "a tool completed as another step": ([ASKED, STARTED, called(), returned(step="z")], "does not name"),
    "a tool completed as another try": ([ASKED, STARTED, called(), returned(try_=2)], "does not name"),
    "a good result that is not final": ([ASKED, STARTED, called(), returned(final=False)], "ok and yet not final"),
    "arguments after the call": (
        [ASKED, STARTED, called(), (ToolArgsDelta(call="c", offset=0, text="{"), 1)],
        "begun already",
    ),
    "a wait opened twice": ([ASKED, STARTED, waits(), waits()], "begun already"),
    "a wait answered twice": ([ASKED, STARTED, waits(), resumed(), resumed()], "not open"),
    "an answer to nothing": ([ASKED, STARTED, resumed()], "not open"),
    "an internal step begun twice": ([ASKED, STARTED, step(), step()], "begun already"),
    "an internal step that ends twice": ([ASKED, STARTED, step(), stepped(), stepped()], "not open"),
    "an internal step tried again after its end": ([ASKED, STARTED, step(), stepped(), step(2)], "is final"),
    "an internal step that is ok and not final": ([ASKED, STARTED, step(), stepped(final=False)], "not final"),
    "ended with an open internal step": ([ASKED, STARTED, step(), DONE], "leaves open: step s/1"),
    "a message of a span that is not open": (
        [ASKED, STARTED, (MessageStarted(message="m", span="sp"), 1)],
        "span sp, which is not open",
    ),
    "a tool of a span that has ended": (
        [
            *(ASKED, STARTED, span(), (SubagentCompleted(span="sp"), 1)),
            (ToolExecuting(call="c", step="s", try_=1, name="n", args={}, span="sp"), 1),
        ],
        "span sp, which is not open",
    ),
    "a span of a parent that is not there": ([ASKED, STARTED, span("sp2", parent="sp")], "span sp, which is not open"),
    "a span that fails twice": (
        [
            ASKED,
            STARTED,
            span(),
            (SubagentFailed(span="sp", code="c", message="m"), 1),
            (SubagentCompleted(span="sp"), 1),
        ],
        "not open",
    ),
}


@pytest.mark.parametrize(("history", "because"), ILLEGAL.values(), ids=ILLEGAL.keys())
def test_a_fault_is_refused_where_it_stands(history: list[Told], because: str) -> None:
    assert_refused(history, because)


def test_every_event_of_a_legal_run_is_refused_after_its_end_and_before_its_start() -> None:
    for data, attempt in WHOLE:
        kind = emitted(data, ts=0).type
        with pytest.raises(ProtocolError):
            feed(WHOLE).accept(kind, data, attempt)
        if kind not in (EventType.USER_MESSAGE, EventType.AGENT_STARTED):
            with pytest.raises(ProtocolError):
                feed([ASKED]).accept(kind, data, attempt)


def test_leaving_out_one_event_that_others_rest_on_is_noticed() -> None:
    resting = {EventType.AGENT_STARTED, EventType.TOOL_EXECUTING, EventType.TOOL_COMPLETED, EventType.MESSAGE_STARTED}
    resting |= {EventType.MESSAGE_COMPLETED, EventType.AGENT_WAITING, EventType.AGENT_RESUMED}
    resting |= {EventType.SUBAGENT_STARTED, EventType.SUBAGENT_COMPLETED}
    for position, (data, _) in enumerate(WHOLE):
        is_taken_back = getattr(data, "message", None) == "inner"  # its end rests on nothing then
        if emitted(data, ts=0).type in resting and not is_taken_back:
            with pytest.raises(ProtocolError):
                feed(WHOLE[:position] + WHOLE[position + 1 :])


def test_every_type_is_covered_by_a_legal_history() -> None:
    kinds: set[str] = {emitted(data, ts=0).type for history in LEGAL.values() for data, _ in history}
    assert kinds == set(EventType)
