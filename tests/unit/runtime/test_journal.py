"""What an attempt starts from."""

from __future__ import annotations

from typing import Any

import msgspec

from runwire.protocol.events import (
    AgentCompleted,
    AgentRetrying,
    AgentStarted,
    EventData,
    EventType,
    MessageCompleted,
    MessageStarted,
    StoredEvent,
    Superseded,
    UserMessage,
)
from runwire.runtime.journal import charged_s, history_of, is_short, text_of, used_s


def _event(seq: int, run: str, data: EventData, *, kind: EventType, ts: int = 0, attempt: int = 1) -> StoredEvent:
    raw = msgspec.Raw(msgspec.json.encode(data))
    return StoredEvent(seq=seq, run=run, attempt=attempt, type=kind, ts=ts, data=raw)


def _asked(seq: int, run: str, text: str) -> StoredEvent:
    return _event(seq, run, UserMessage(message=f"msg_u{seq}", content=text), kind=EventType.USER_MESSAGE, attempt=0)


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
    started = AgentStarted(agent="a", message="m")
    asked, first, more = (
        _event(1, "run_1", started, kind=EventType.AGENT_STARTED, ts=0, attempt=0),
        _event(2, "run_1", started, kind=EventType.AGENT_STARTED, ts=1_000),
        _event(3, "run_1", started, kind=EventType.AGENT_STARTED, ts=3_000),
    )
    lost = _event(4, "run_1", _retrying(3, "worker_lost"), kind=EventType.AGENT_RETRYING, ts=60_000, attempt=3)
    given = _event(5, "run_1", _retrying(4, "drained"), kind=EventType.AGENT_RETRYING, ts=90_000, attempt=4)
    assert charged_s([asked], until_ms=50_000) == 0.0
    assert charged_s([asked, first, more], until_ms=5_000) == 4.0
    assert charged_s([asked, first, more], until_ms=5_000, handed_over=True) == 2.0
    assert charged_s([asked, first, more, lost], until_ms=61_000) == 60.0
    assert charged_s([asked, first, more, lost, given], until_ms=91_000) == 60.0
    assert charged_s([asked, first, more, lost, given], until_ms=80_000) == 59.0  # a clock that went back


def _retrying(attempt: int, reason: Any) -> AgentRetrying:
    return AgentRetrying(attempt=attempt, reason=reason)


def test_the_text_of_a_message_is_its_text_parts_joined() -> None:
    assert text_of([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]) == "ab"
    assert text_of("plain") == "plain"
