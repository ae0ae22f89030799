"""What an attempt starts from."""

from __future__ import annotations

import msgspec

from runwire.agents.context import User
from runwire.protocol.events import (
    AgentCompleted,
    AgentResumed,
    AgentStarted,
    AgentWaiting,
    EventData,
    EventType,
    MessageCompleted,
    MessageStarted,
    StoredEvent,
    Superseded,
    ToolExecuting,
    UserMessage,
    emitted,
)
from runwire.runtime.journal import charged_s, history_of, is_short, read_past, text_of, used_s
from runwire.storage.base import Batch, IncomingMessage
from runwire.storage.memory.storage import MemoryStorage


def _event(seq: int, run: str, data: EventData, *, kind: EventType, ts: int = 0, attempt: int = 1) -> StoredEvent:
    raw = msgspec.Raw(msgspec.json.encode(data))
    return StoredEvent(seq=seq, run=run, attempt=attempt, type=kind, ts=ts, data=raw)


def _asked(seq: int, run: str, text: str, *, retry_of: str | None = None) -> StoredEvent:
    data = UserMessage(message=f"msg_u{seq}", content=text, retry_of=retry_of)
    return _event(seq, run, data, kind=EventType.USER_MESSAGE, attempt=0)


def _said(seq: int, run: str, text: str) -> list[StoredEvent]:
    return [
        _event(seq, run, MessageStarted(message=f"msg_a{seq}"), kind=EventType.MESSAGE_STARTED),
        _event(seq + 1, run, MessageCompleted(message=f"msg_a{seq}", content=text), kind=EventType.MESSAGE_COMPLETED),
    ]


def _ended(seq: int, run: str) -> StoredEvent:
    return _event(seq, run, AgentCompleted(output=None, duration_ms=0), kind=EventType.AGENT_COMPLETED)


def test_history_is_in_run_order_and_without_runs_that_have_not_ended() -> None:
    events = [
        _asked(1, "run_1", "one"),
        _asked(2, "run_2", "two"),
        *_said(3, "run_1", "answer one"),
        _ended(5, "run_1"),
        _asked(6, "run_3", "three"),
    ]
    assert history_of(events, "run_2") == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "answer one"},
        {"role": "user", "content": "two"},
    ]


def test_history_never_holds_what_was_taken_back_nor_what_the_run_itself_said() -> None:
    taken = Superseded(messages=["msg_a2"], thinking=[], events=[], reason="differs")
    events = [
        _asked(1, "run_1", "one"),
        *_said(2, "run_1", "wrong"),
        _event(4, "run_1", taken, kind=EventType.SUPERSEDED),
        *_said(5, "run_1", "right"),
        _ended(7, "run_1"),
        _asked(8, "run_2", "two"),
        *_said(9, "run_2", "half"),
    ]
    assert [turn["content"] for turn in history_of(events, "run_2")] == ["one", "right", "two"]


def test_history_never_holds_what_a_sub_agent_wrote() -> None:
    events = [
        _asked(1, "run_1", "one"),
        _event(2, "run_1", MessageStarted(message="msg_s", span="sp_1"), kind=EventType.MESSAGE_STARTED),
        _event(3, "run_1", MessageCompleted(message="msg_s", content="aside"), kind=EventType.MESSAGE_COMPLETED),
        *_said(4, "run_1", "answer one"),
        _ended(6, "run_1"),
        _asked(7, "run_2", "two"),
    ]
    assert [turn["content"] for turn in history_of(events, "run_2")] == ["one", "answer one", "two"]


def test_a_loop_goes_only_through_what_is_short_in_events_and_in_bytes() -> None:
    assert is_short([_asked(n, "run_1", "hi") for n in range(1, 101)])
    assert not is_short([_asked(n, "run_1", "hi") for n in range(1, 102)])
    assert not is_short([_asked(1, "run_1", "x" * 65_536)])


def test_running_time_is_counted_per_attempt_and_not_while_nobody_ran_it() -> None:
    started = AgentStarted(agent="a", message="m")
    times = [(0, 0), (1, 1_000), (1, 3_000), (2, 60_000), (2, 60_500), (3, 90_000)]
    events = [
        _event(seq, "run_1", started, kind=EventType.AGENT_STARTED, ts=ts, attempt=attempt)
        for seq, (attempt, ts) in enumerate(times, 1)
    ]
    assert used_s(events) == 2.5


def test_silence_before_a_loss_counts_towards_the_deadline_and_silence_before_a_hand_over_does_not() -> None:
    asked, first, more, later, last = (_at(ts, attempt) for ts, attempt in TIMES)
    assert charged_s([asked], until_ms=50_000, attempt=1, lost=()) == 0.0
    assert charged_s([asked, first, more], until_ms=5_000, attempt=2, lost=[1]) == 4.0
    assert charged_s([asked, first, more], until_ms=5_000, attempt=2, lost=()) == 2.0
    assert charged_s([asked, first, more, later], until_ms=61_000, attempt=4, lost=[1, 3]) == 60.0
    assert charged_s([asked, first, more, later, last], until_ms=91_000, attempt=5, lost=[1, 4]) == 60.0
    assert charged_s([asked, first, more, later, last], until_ms=80_000, attempt=5, lost=[1, 4]) == 59.0  # a clock


TIMES = [(0, 0), (1_000, 1), (3_000, 1), (60_000, 3), (90_000, 4)]


def _at(ts: int, attempt: int) -> StoredEvent:
    started = AgentStarted(agent="a", message="m")
    return _event(ts + 1, "run_1", started, kind=EventType.AGENT_STARTED, ts=ts, attempt=attempt)


def _waiting(ts: int, wait: str, *, scope: str = "", attempt: int = 1) -> StoredEvent:
    data = AgentWaiting(wait=wait, kind="input", prompt="?")
    event = _event(ts + 1, "run_1", data, kind=EventType.AGENT_WAITING, ts=ts, attempt=attempt)
    return msgspec.structs.replace(event, scope=scope)


def _resumed(ts: int, wait: str, *, attempt: int = 1) -> StoredEvent:
    data = AgentResumed(wait=wait, value="yes", by="usr_ann")
    return _event(ts + 1, "run_1", data, kind=EventType.AGENT_RESUMED, ts=ts, attempt=attempt)


def _executing(ts: int, step: str) -> StoredEvent:
    data = ToolExecuting(call=f"call_{step}", step=step, try_=1, name="tool", args={})
    return _event(ts + 1, "run_1", data, kind=EventType.TOOL_EXECUTING, ts=ts)


def test_time_in_which_the_run_waited_is_charged_to_nobody() -> None:
    events = [_at(0, 1), _waiting(1_000, "wt_1"), _resumed(500_000, "wt_1"), _at(502_000, 1)]
    assert charged_s(events, until_ms=510_000, attempt=2, lost=[1]) == 1.0 + 2.0 + 8.0
    assert used_s(events) == 3.0


def test_a_worker_that_was_lost_while_its_run_waited_took_nothing_of_the_deadline() -> None:
    events = [_at(0, 1), _waiting(1_000, "wt_1")]
    assert charged_s(events, until_ms=900_000, attempt=2, lost=[1]) == 1.0


def test_a_parked_attempt_is_charged_up_to_its_wait_and_one_that_was_lost_without_a_word_up_to_the_next() -> None:
    events = [_at(0, 1), _waiting(1_000, "wt_1"), _resumed(500_000, "wt_1")]
    assert charged_s(events, until_ms=560_000, attempt=2, lost=()) == 1.0
    assert charged_s(events, until_ms=560_000, attempt=3, lost=[2]) == 1.0 + 60.0


def test_a_step_that_goes_on_beside_a_wait_is_running_time_and_one_that_waits_itself_is_not() -> None:
    beside = [_at(0, 1), _executing(1_000, "st_1"), _waiting(2_000, "wt_1"), _resumed(9_000, "wt_1")]
    assert charged_s(beside, until_ms=9_000, attempt=2, lost=()) == 9.0
    inside = [
        _at(0, 1),
        _executing(1_000, "st_1"),
        _waiting(2_000, "wt_1", scope="st_1/1|g0.1"),
        _resumed(9_000, "wt_1"),
    ]
    assert charged_s(inside, until_ms=9_000, attempt=2, lost=()) == 2.0


def test_a_message_that_was_sent_again_stands_once_in_the_history_and_what_sub_agents_said_never() -> None:
    aside = MessageStarted(message="msg_s", span="sp_1")
    events = [
        _asked(1, "run_0", "hello"),
        *_said(2, "run_0", "hi"),
        _ended(4, "run_0"),
        _asked(5, "run_1", "question"),
        *_said(6, "run_1", "half an answer"),
        _ended(8, "run_1"),
        _asked(9, "run_2", "question", retry_of="run_1"),
        _event(10, "run_2", aside, kind=EventType.MESSAGE_STARTED),
        _event(11, "run_2", MessageCompleted(message="msg_s", content="aside"), kind=EventType.MESSAGE_COMPLETED),
        *_said(12, "run_2", "worse"),
        _ended(14, "run_2"),
        _asked(15, "run_3", "question", retry_of="run_2"),
    ]
    assert [turn["content"] for turn in history_of(events, "run_3")] == ["hello", "hi", "question"]
    assert [turn["content"] for turn in history_of(events[:12], "run_2")] == ["hello", "hi", "question"]
    later = [*events[:11], _ended(12, "run_2"), _asked(13, "run_4", "next")]
    assert [turn["content"] for turn in history_of(later, "run_4")] == ["hello", "hi", "question", "next"]


def test_the_text_of_a_message_is_its_text_parts_joined() -> None:
    assert text_of([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]) == "ab"
    assert text_of("plain") == "plain"


async def test_a_claim_that_was_taken_over_meanwhile_reads_all_that_was_said_since() -> None:
    """Its worker stood still between claim and read: the log holds another attempt's words, and is no fault."""
    storage = MemoryStorage()
    await storage.runs.send(IncomingMessage(user="usr_ann", thread=None, agent="agent", content="hello"))
    (claim,) = await storage.runs.claim("w1", agents=["agent"], limit=1, user_limit=1)
    said = [AgentStarted(agent="agent", message=claim.message), MessageStarted(message="msg_a")]
    emits = tuple(emitted(each, ts=0, scope="") for each in said)
    await storage.events.append([Batch(run=claim.run, attempt=claim.attempt, ordinal=0, events=emits)])

    past = await read_past(storage, claim, user=User(id="usr_ann"), deadline_s=1.0, version=None)

    assert [event.type for event in past.logged] == ["user_message", "agent_started", "message_started"]
