"""The apply rule line by line, and what each event does to the screen."""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec
import pytest

from runwire.protocol import frames
from runwire.protocol.events import (
    EVENT_DATA,
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
    EventError,
    MessageCompleted,
    MessageStarted,
    StepStarted,
    StoredEvent,
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
from runwire.protocol.shown import Text
from runwire.protocol.view import Action, Apply, Ask, Cursor, DropView, Ended, NotSubscribed, ThreadView

THREAD = "th_1"


def event(seq: int, prev: int | None = None, data: EventData | None = None, thread: str = THREAD) -> frames.Event:
    new = emitted(data or AgentThinking(text="x"), ts=0)
    return frames.Event(
        thread=thread,
        seq=seq,
        prev=seq - 1 if prev is None else prev,
        run="run_1",
        attempt=1,
        ts=0,
        type=new.type,
        data=new.data,
    )


def subscribed(id_: str, after: int, log: str = "k") -> frames.Subscribed:
    return frames.Subscribed(id=id_, thread=THREAD, log=log, view="all", after=after, head=99)


def reset(from_: int, log: str = "k") -> frames.Reset:
    return frames.Reset(thread=THREAD, log=log, from_=from_, reason="too_far_behind")


def send_data(after: int, log: str = "k") -> frames.SendData:
    return frames.SendData(thread=THREAD, log=log, after=after, run="run_1", message="msg_1", seq=after + 1)


def refused(id_: str) -> frames.Reply:
    return frames.reply_error(id_, frames.ErrorBody(code="not_found", message="No such thread."))


def a_cursor(**options: Any) -> Cursor:
    ids = count(1)
    return Cursor(THREAD, new_id=lambda: str(next(ids)), **options)


def following(last: int = 0, **options: Any) -> Cursor:
    """A cursor that is subscribed after `last`."""
    cursor = a_cursor(**options)
    cursor.subscribe(last)
    assert cursor.receive(subscribed("1", last)) == ()
    return cursor


def asks(after: int, id_: str, log: str | None = "k") -> tuple[Action, ...]:
    return (Ask(frames.Subscribe(id=id_, thread=THREAD, after=after, log=log, view="all")),)


# ── the apply rule ───────────────────────────────────────────────────────────────────────────────────────


def test_until_the_answer_everything_of_the_thread_is_dropped_and_nothing_is_asked_twice() -> None:
    cursor = a_cursor()
    assert cursor.subscribe() == asks(0, "1", log=None)
    for frame in (event(1), event(9), frames.Position(thread=THREAD, seq=9), reset(4)):
        assert cursor.receive(frame) == ()
    assert cursor.subscribe() == ()
    assert (cursor.is_asking, cursor.is_subscribed, cursor.last) == (True, False, 0)
    assert cursor.receive(subscribed("1", 0)) == ()
    assert (cursor.is_asking, cursor.is_subscribed, cursor.last, cursor.log) == (False, True, 0, "k")


def test_subscribed_from_now_gives_the_resolved_position() -> None:
    cursor = a_cursor()
    assert cursor.subscribe(-1) == asks(-1, "1", log=None)
    cursor.receive(subscribed("1", 41))
    assert (cursor.last, cursor.receive(event(42))) == (41, (Apply(event(42)),))


def test_the_next_event_is_applied_though_numbers_are_skipped() -> None:
    cursor = following(10)
    assert cursor.receive(event(15, prev=10)) == (Apply(event(15, prev=10)),)
    assert cursor.receive(event(16, prev=12)) == (Apply(event(16, prev=12)),)
    assert cursor.last == 16


def test_a_duplicate_is_dropped() -> None:
    cursor = following(10)
    assert cursor.receive(event(10)) == ()
    assert cursor.receive(event(3)) == ()
    assert cursor.last == 10


def test_a_gap_is_asked_for_once_and_nothing_is_applied_meanwhile() -> None:
    cursor = following(10)
    assert cursor.receive(event(13)) == asks(10, "2")
    assert cursor.receive(event(14)) == ()
    assert cursor.receive(event(11)) == ()
    assert cursor.receive(reset(2)) == ()
    cursor.receive(subscribed("2", 10))
    assert cursor.receive(event(11)) == (Apply(event(11)),)


def test_a_position_beyond_the_last_event_is_a_gap_and_no_other_one_is() -> None:
    cursor = following(10)
    assert cursor.receive(frames.Position(thread=THREAD, seq=10)) == ()
    assert cursor.receive(frames.Position(thread=THREAD, seq=11)) == asks(10, "2")


def test_a_refused_subscribe_leaves_the_older_subscription() -> None:
    cursor = following(10)
    cursor.subscribe()
    error = frames.ErrorBody(code="not_found", message="No such thread.")
    assert cursor.receive(refused("7")) == ()
    assert cursor.receive(refused("2")) == (NotSubscribed(error),)
    assert cursor.receive(event(11)) == (Apply(event(11)),)
    assert cursor.receive(refused("2")) == ()


def test_a_refused_first_subscribe_leaves_nothing() -> None:
    cursor = a_cursor()
    cursor.subscribe()
    cursor.receive(refused("1"))
    assert cursor.receive(event(1)) == ()
    assert not cursor.is_subscribed


def test_the_reply_to_a_send_is_the_position_where_none_is_held() -> None:
    cursor = a_cursor()
    assert cursor.sent(send_data(7)) == ()
    assert (cursor.last, cursor.log, cursor.is_subscribed) == (7, "k", True)
    assert cursor.receive(event(8)) == (Apply(event(8)),)


def test_the_reply_to_a_send_changes_nothing_in_the_same_log_and_a_gap_shows_itself() -> None:
    cursor = following(3)
    cursor.disconnect()
    assert cursor.sent(send_data(7)) == ()
    assert cursor.receive(event(8)) == asks(3, "2")


def test_the_reply_to_a_send_in_another_log_asks_with_the_held_position() -> None:
    cursor = following(3)
    assert cursor.sent(send_data(7, log="other")) == asks(3, "2")
    cursor.receive(refused("2"))
    assert not cursor.is_subscribed
    assert cursor.receive(event(4)) == (), "an event of another log"
    assert cursor.subscribe() == asks(3, "3")
    cursor.receive(subscribed("3", 3, log="other"))
    assert cursor.receive(event(4)) == (), "the reset has not come"
    assert cursor.receive(reset(0, log="other")) == (DropView("too_far_behind"),)
    assert cursor.receive(event(1)) == (Apply(event(1)),)


def test_a_send_does_not_move_a_position_that_was_asked_for() -> None:
    cursor = a_cursor()
    cursor.subscribe(0)
    cursor.sent(send_data(7))
    assert (cursor.last, cursor.log) == (0, "k")
    cursor.disconnect()
    assert cursor.subscribe() == asks(0, "2")


def test_from_now_does_not_skip_the_events_of_a_send_under_way() -> None:
    cursor = a_cursor()
    cursor.subscribe(-1)
    cursor.sent(send_data(7))
    assert cursor.receive(subscribed("1", 9)) == asks(7, "2")


def test_a_reset_drops_the_view_and_what_follows_are_ordinary_events() -> None:
    shown = ThreadView()
    cursor = following(1, shown=shown)
    cursor.receive(event(2))
    assert shown.runs
    assert cursor.receive(reset(40, log="new")) == (DropView("too_far_behind"),)
    assert (cursor.last, cursor.log, shown.runs, shown.seq) == (40, "new", {}, 0)
    assert cursor.receive(event(41)) == (Apply(event(41)),)
    assert cursor.receive(event(44)) == asks(41, "2", log="new")


def test_a_position_keeps_its_log_until_the_reset_has_come() -> None:
    cursor = following(5)
    cursor.disconnect()
    assert cursor.subscribe() == asks(5, "2")
    cursor.receive(subscribed("2", 5, log="new"))
    cursor.disconnect()
    assert cursor.subscribe() == asks(5, "3", log="k"), "the old position must not be asked for in the new log"


def test_a_cursor_without_a_screen_forgets_nothing_but_its_position() -> None:
    cursor = following(5)
    assert cursor.receive(reset(9)) == (DropView("too_far_behind"),)
    assert cursor.receive(frames.Unsubscribed(id=None, thread=THREAD, reason="deleted")) == (Ended("deleted"),)
    assert cursor.last is None


def test_unsubscribed_on_request_keeps_the_position() -> None:
    cursor = following(5)
    assert cursor.receive(frames.Unsubscribed(id="9", thread=THREAD, reason="asked")) == (Ended("asked"),)
    assert cursor.receive(event(6)) == ()
    assert cursor.subscribe() == asks(5, "2")


def test_a_deleted_thread_takes_view_and_position_with_it() -> None:
    cursor = following(0, shown=ThreadView())
    cursor.receive(event(1))
    assert cursor.receive(frames.Unsubscribed(id=None, thread=THREAD, reason="deleted")) == (Ended("deleted"),)
    assert cursor.shown is not None
    assert (cursor.last, cursor.log, cursor.shown.runs) == (None, None, {})


def test_a_lost_connection_keeps_the_position_and_ends_the_wait_for_an_answer() -> None:
    cursor = following(5)
    cursor.receive(event(8))
    cursor.disconnect()
    assert cursor.receive(event(6)) == ()
    assert cursor.subscribe() == asks(5, "3")
    assert cursor.receive(subscribed("2", 5)) == ()
    assert cursor.is_asking
    cursor.receive(subscribed("3", 5))
    assert cursor.is_subscribed


def test_another_view_begins_anew_and_an_older_answer_does_not_count() -> None:
    cursor = following(5)
    cursor.subscribe()
    (ask,) = cursor.restart(view="lifecycle")
    assert ask == Ask(frames.Subscribe(id="3", thread=THREAD, after=0, log=None, view="lifecycle"))
    assert cursor.receive(subscribed("2", 5)) == ()
    assert cursor.receive(event(1)) == ()
    cursor.receive(subscribed("3", 0))
    assert cursor.receive(event(1)) == (Apply(event(1)),)


def test_a_position_can_be_taken_from_a_snapshot_or_from_now() -> None:
    cursor = following(5)
    assert cursor.restart(after=30, log="k") == asks(30, "2")
    assert cursor.restart(after=-1) == asks(-1, "3", log=None)
    cursor.receive(subscribed("3", 50))
    assert cursor.last == 50


def test_frames_of_others_mean_nothing() -> None:
    cursor = following(5)
    others: list[frames.ServerFrame | frames.UnknownFrame] = [
        event(6, thread="th_2"),
        frames.Position(thread="th_2", seq=99),
        frames.Reset(thread="th_2", log="k", from_=0, reason="trimmed"),
        frames.Unsubscribed(id=None, thread="th_2", reason="deleted"),
        frames.Subscribed(id="77", thread="th_2", log="k", view="all", after=0, head=0),
        frames.reply_ok("1", {}),
        frames.Ping(),
        frames.UnknownFrame(op="hint", raw={}),
    ]
    assert [cursor.receive(frame) for frame in others] == [()] * len(others)
    assert cursor.last == 5


def test_an_offset_beyond_the_end_is_a_gap_once() -> None:
    cursor = following(0, shown=ThreadView())
    cursor.receive(event(1, data=MessageStarted(message="m")))
    bad = event(2, data=TextDelta(message="m", offset=5, text="x"))
    assert cursor.receive(bad) == asks(1, "2")
    assert cursor.last == 1
    cursor.receive(subscribed("2", 1))
    assert cursor.receive(bad) == (Apply(bad),), "sent again as it was: dropped, or it would be asked for ever"
    assert cursor.shown is not None
    assert (cursor.last, cursor.shown.messages["m"].content) == (2, "")


def test_a_subscription_of_another_view_does_not_go_on_when_the_change_is_refused() -> None:
    cursor = following(3)
    cursor.restart(view="lifecycle")
    cursor.receive(refused("2"))
    assert not cursor.is_subscribed, "what goes on is of the view `all`"
    assert cursor.receive(event(4)) == ()
    assert cursor.receive(reset(2)) == ()
    assert cursor.last == 0


def test_an_answer_that_is_not_waited_for_still_says_what_the_socket_follows() -> None:
    cursor = following(3)
    cursor.restart(view="lifecycle")
    cursor.restart(view="all")
    cursor.receive(msgspec.structs.replace(subscribed("2", 0), view="lifecycle"))
    cursor.receive(refused("3"))
    assert not cursor.is_subscribed
    (ask,) = cursor.sent(send_data(9))
    assert isinstance(ask, Ask), "a send keeps the subscription that is there, and that is of another view"
    cursor.receive(subscribed(ask.frame.id, 0))
    assert cursor.is_subscribed


def test_a_refusal_that_is_not_waited_for_and_answers_of_a_dead_socket_say_nothing() -> None:
    cursor = following(3)
    cursor.restart()
    cursor.restart()
    cursor.receive(refused("2"))
    assert cursor.is_asking
    cursor.disconnect()
    cursor.receive(subscribed("3", 0))
    cursor.receive(subscribed("2", 0))
    assert not cursor.is_subscribed


def test_a_stream_with_a_hole_that_stays_is_asked_for_once_and_waits_for_its_end() -> None:
    cursor = following(0, shown=ThreadView())
    cursor.receive(event(1, data=MessageStarted(message="m")))
    cursor.receive(event(2, data=ThinkingDelta(thinking="t", offset=0, text="a")))
    cursor.receive(event(3, data=ToolArgsDelta(call="c", offset=0, text="a")))
    later = 4
    for made in (
        lambda offset: TextDelta(message="m", offset=offset, text="x"),
        lambda offset: ThinkingDelta(thinking="t", offset=offset, text="x"),
        lambda offset: ToolArgsDelta(call="c", offset=offset, text="x"),
    ):
        bad = event(later, data=made(5))
        (again,) = cursor.receive(bad)
        assert isinstance(again, Ask)
        cursor.receive(subscribed(again.frame.id, later - 1))
        assert cursor.receive(bad) == (Apply(bad),)
        for seq, offset in ((later + 1, 6), (later + 2, 0)):
            following_one = event(seq, data=made(offset))
            assert cursor.receive(following_one) == (Apply(following_one),), "the hole is known"
        later += 3
    assert cursor.shown is not None
    run = cursor.shown.runs["run_1"]
    assert (cursor.shown.seq, cursor.shown.messages["m"].content) == (12, "")
    assert (run.thinking["t"].text, str(run.args["c"])) == ("a", "a")
    cursor.receive(event(13, data=MessageCompleted(message="m", content="xxxxxxx")))
    assert cursor.shown.messages["m"].content == "xxxxxxx"


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────


class Log:
    """A log of one run that is shown as it grows."""

    def __init__(self) -> None:
        self.view = ThreadView()
        self.seq = 0

    def say(self, *said: EventData, attempt: int = 1) -> ThreadView:
        for data in said:
            assert self.try_to_say(data, attempt=attempt)
        return self.view

    def try_to_say(self, data: EventData, *, attempt: int = 1) -> bool:
        new = emitted(data, ts=0)
        self.seq += 1
        return self.view.apply(
            StoredEvent(seq=self.seq, run="run_1", attempt=attempt, type=new.type, ts=0, data=new.data)
        )


def a_log() -> Log:
    log = Log()
    log.say(UserMessage(message="msg_u", content="hi"), attempt=0)
    log.say(AgentStarted(agent="guide", message="msg_u"))
    return log


def delta(offset: int, text: str) -> TextDelta:
    return TextDelta(message="m", offset=offset, text=text)


def test_a_whole_run_gives_the_snapshot_of_the_protocol() -> None:
    log = a_log()
    log.say(
        ToolExecuting(call="c1", step="s", try_=1, name="search", args={"q": 1}),
        ToolCompleted(
            call="c1",
            step="s",
            try_=1,
            name="search",
            ok=False,
            final=False,
            error=EventError(code="x", message="y"),
            duration_ms=3,
        ),
        ToolExecuting(call="c2", step="s", try_=2, name="search", args={"q": 1}),
        ToolCompleted(call="c2", step="s", try_=2, name="search", ok=True, final=True, result=[1], duration_ms=3),
        AgentWaiting(wait="w", kind="approval", prompt="may I?", call="c2", due_at=9),
        AgentResumed(wait="w", value=True, by="usr_1"),
        MessageStarted(message="m"),
        delta(0, "Hel"),
        delta(3, "lo 😀"),
    )
    half = log.view.to_snapshot()
    assert half["messages"][1] == {
        "message": "m",
        "role": "assistant",
        "content": "Hello 😀",
        "run": "run_1",
        "seq": 9,
        "complete": False,
    }
    log.say(MessageCompleted(message="m", content="Hello 😀!"), AgentCompleted(output="Hello", duration_ms=5))
    assert log.view.to_snapshot() == {
        "messages": [
            {"message": "msg_u", "role": "user", "content": "hi", "run": "run_1", "seq": 1, "complete": True},
            {
                "message": "m",
                "role": "assistant",
                "content": "Hello 😀!",
                "run": "run_1",
                "seq": 9,
                "complete": True,
            },
        ],
        "runs": [
            {
                "run": "run_1",
                "agent": "guide",
                "status": "completed",
                "attempt": 1,
                "error": None,
                "steps": [
                    {
                        "call": "c1",
                        "name": "search",
                        "args": {"q": 1},
                        "ok": False,
                        "result": None,
                        "error": {"code": "x", "message": "y"},
                    },
                    {"call": "c2", "name": "search", "args": {"q": 1}, "ok": True, "result": [1], "error": None},
                ],
                "waits": [
                    {
                        "wait": "w",
                        "kind": "approval",
                        "prompt": "may I?",
                        "call": "c2",
                        "due_at": 9,
                        "value": True,
                        "by": "usr_1",
                    }
                ],
            }
        ],
    }
    run = log.view.runs["run_1"]
    assert (run.output, run.duration_ms, run.is_ended, log.view.seq) == ("Hello", 5, True, 13)


@pytest.mark.parametrize("cut", range(14))
def test_a_view_goes_on_from_a_snapshot_at_any_event(cut: int) -> None:
    said: list[EventData] = [
        UserMessage(message="msg_u", content=[{"type": "text", "text": "hi"}]),
        AgentStarted(agent="guide", message="msg_u"),
        MessageStarted(message="gone"),
        TextDelta(message="gone", offset=0, text="x"),
        Superseded(messages=["gone"], thinking=[], events=[], reason="differs"),
        ToolExecuting(call="c", step="s", try_=1, name="n", args={}),
        MessageStarted(message="m"),
        delta(0, "ab"),
        AgentRetrying(attempt=2, reason="worker_lost"),
        AgentWaiting(wait="w", kind="input"),
        delta(2, "cd"),
        AgentResumed(wait="w", value=1, by="timer"),
        ToolCompleted(call="c", step="s", try_=1, name="n", ok=True, final=True, duration_ms=1),
        MessageCompleted(message="m", content="abcd!", complete=False),
        AgentFailed(code="internal", message="m", error_id="e", retryable=False),
    ]
    whole, half = Log(), Log()
    for number, data in enumerate(said):
        whole.say(data)
        if number < cut:
            half.say(data)
    body = msgspec.json.decode(msgspec.json.encode(half.view.to_snapshot() | {"seq": cut, "title": None}))
    rest = Log()
    rest.view, rest.seq = ThreadView.from_snapshot(body), cut
    assert rest.view.to_snapshot() == half.view.to_snapshot()
    rest.say(*said[cut:])
    assert rest.view.to_snapshot() == whole.view.to_snapshot()
    assert rest.view.seq == len(said)


def test_a_snapshot_of_a_newer_server_is_read() -> None:
    log = a_log()
    log.say(
        ToolExecuting(call="c", step="s", try_=1, name="n", args={}),
        AgentWaiting(wait="w", kind="timer"),
        MessageStarted(message="m"),
    )
    body = log.view.to_snapshot()
    for shape in (*body["messages"], *body["runs"], *body["runs"][0]["steps"], *body["runs"][0]["waits"]):
        shape["added"] = 1
    view = ThreadView.from_snapshot(body)
    assert view.runs["run_1"].steps["c"].name == "n"
    assert view.runs["run_1"].waits["w"].kind == "timer"
    assert view.seq == 0


def test_an_open_message_kept_elsewhere_waits_for_its_end() -> None:
    log = a_log()
    log.say(MessageStarted(message="m"))
    body = log.view.to_snapshot()
    body["messages"][1]["content"] = {"$ref": "blob_1", "bytes": 70_000, "head": "a"}
    log.view = ThreadView.from_snapshot(body)
    log.say(delta(70_000, "x"), MessageCompleted(message="m", content="all"))
    assert log.view.messages["m"].content == "all"


def test_text_is_put_at_its_offset_in_code_points() -> None:
    log = a_log()
    view = log.say(
        MessageStarted(message="m", span="sp"), delta(0, "a😀b"), delta(2, "c"), delta(3, "d"), delta(1, "é")
    )
    assert (view.messages["m"].content, view.messages["m"].span) == ("aé", "sp")
    assert not log.try_to_say(delta(3, "x"))
    assert (view.messages["m"].content, view.seq) == ("aé", 7), "a delta that does not fit changes nothing"


def test_deltas_of_streams_that_did_not_begin_here_are_dropped_and_the_end_shows_the_whole() -> None:
    view = a_log().say(
        delta(0, "x"),
        ThinkingDelta(thinking="t", offset=4, text="x"),
        ToolArgsDelta(call="c", offset=4, text="x"),
    )
    assert list(view.messages) == ["msg_u"]
    assert (view.runs["run_1"].thinking, view.runs["run_1"].args) == ({}, {})
    log = a_log()
    view = log.say(
        MessageCompleted(message="m", content="whole"),
        AgentThinking(thinking="t", text="whole"),
        ToolCompleted(call="c", step="s", try_=1, name="n", ok=True, final=True, result=1, duration_ms=1),
    )
    assert (view.messages["m"].content, view.messages["m"].seq, view.messages["m"].role) == ("whole", 3, "assistant")
    assert view.runs["run_1"].thinking["t"].text == "whole"
    assert (view.runs["run_1"].steps["c"].args, view.runs["run_1"].steps["c"].result) == (None, 1)


def test_a_delta_after_the_end_of_its_stream_is_dropped() -> None:
    view = a_log().say(
        MessageStarted(message="m"),
        MessageCompleted(message="m", content="done"),
        delta(0, "x"),
        ThinkingDelta(thinking="t", offset=0, text="a"),
        AgentThinking(thinking="t", text="ab"),
        ThinkingDelta(thinking="t", offset=0, text="x"),
    )
    assert view.messages["m"].content == "done"
    thought = view.runs["run_1"].thinking["t"]
    assert (thought.text, thought.complete, thought.id, thought.seq) == ("ab", True, "t", 6)


def test_thinking_and_arguments_are_streamed_until_they_are_complete() -> None:
    log = a_log()
    view = log.say(
        ThinkingDelta(thinking="t", offset=0, text="a"),
        ThinkingDelta(thinking="t", offset=1, text="b"),
        ToolArgsDelta(call="c", offset=0, text='{"a"'),
        ToolArgsDelta(call="c", offset=4, text=":1}"),
    )
    run = view.runs["run_1"]
    assert (run.thinking["t"].text, run.thinking["t"].complete, str(run.args["c"])) == ("ab", False, '{"a":1}')
    assert not log.try_to_say(ThinkingDelta(thinking="t", offset=9, text="x"))
    assert not log.try_to_say(ToolArgsDelta(call="c", offset=9, text="x"))
    log.say(ToolExecuting(call="c", step="s", try_=1, name="n", args={"a": 1}, span="sp"))
    log.say(ToolArgsDelta(call="c", offset=0, text="late"))
    assert (run.args, run.steps["c"].args, run.steps["c"].ok, run.steps["c"].span) == ({}, {"a": 1}, None, "sp")
    log.say(ToolArgsDelta(call="c2", offset=0, text="{"), AgentCancelled(by="user", reason="enough"))
    assert (run.args, run.status, run.cancelled) == ({}, "cancelled", {"by": "user", "reason": "enough"})


def test_a_thought_completed_without_its_text_keeps_what_was_streamed() -> None:
    log = a_log()
    view = log.say(ThinkingDelta(thinking="t", offset=0, text="a"), AgentThinking(thinking="t"), AgentThinking())
    thoughts = view.runs["run_1"].thinking
    assert (thoughts["t"].text, thoughts["t"].complete) == ("a", True)
    assert (thoughts[5].text, thoughts[5].complete) == (None, True)
    log.say(ThinkingDelta(thinking="t", offset=1, text="late"))
    assert thoughts["t"].text == "a"


def test_what_is_taken_back_goes_and_does_not_come_back() -> None:
    log = a_log()
    view = log.say(
        MessageStarted(message="m"),
        delta(0, "a"),
        ThinkingDelta(thinking="t", offset=0, text="a"),
        AgentThinking(text="whole"),
        Custom(name="n", value=1),
        AgentThinking(text="stays"),
    )
    run = view.runs["run_1"]
    assert list(run.thinking) == ["t", 6, 8]
    assert (run.opaque[7].type, run.opaque[7].name, run.opaque[7].value) == ("custom", "n", 1)
    log.say(Superseded(messages=["m", "other"], thinking=["t"], events=[6, 7], reason="try_closed"))
    log.say(
        delta(1, "b"),
        MessageCompleted(message="m", content="ab"),
        ThinkingDelta(thinking="t", offset=0, text="a"),
        AgentThinking(thinking="t", text="a"),
    )
    assert (list(view.messages), list(run.thinking), run.opaque) == (["msg_u"], [8], {})


def test_a_reset_forgets_what_was_taken_back_for_its_history_comes_again() -> None:
    log = a_log()
    said: list[EventData] = [MessageStarted(message="m"), MessageCompleted(message="m", content="ab")]
    log.say(*said, Superseded(messages=["m"], thinking=[], events=[], reason="differs"))
    log.view.clear()
    log.seq = 2
    assert log.say(*said).messages["m"].content == "ab"


def test_a_run_tells_its_status() -> None:
    log = Log()
    view = log.say(UserMessage(message="msg_u", content="hi"), attempt=0)
    run = view.runs["run_1"]
    seen = [(run.status, run.attempt)]
    for data, attempt in (
        (AgentStarted(agent="a", message="msg_u"), 1),
        (AgentWaiting(wait="w1", kind="input"), 1),
        (AgentWaiting(wait="w2", kind="timer"), 1),
        (AgentRetrying(attempt=1, reason="worker_lost"), 1),
        (AgentResumed(wait="w1", value=1, by="usr_1"), 1),
        (AgentResumed(wait="w2", value=None, by="timer"), 1),
        (AgentRetrying(attempt=2, reason="deploy"), 2),
        (AgentFailed(code="internal", message="m", error_id="e", retryable=True, retry_after_s=2), 2),
    ):
        log.say(data, attempt=attempt)
        seen.append((run.status, run.attempt))
    assert seen == [
        ("queued", 0),
        ("running", 1),
        ("waiting", 1),
        ("waiting", 1),
        ("waiting", 1),
        ("waiting", 1),
        ("running", 1),
        ("running", 2),
        ("failed", 2),
    ]
    assert run.error == {"code": "internal", "message": "m", "error_id": "e", "retryable": True, "retry_after_s": 2}


def test_a_snapshot_says_which_messages_are_a_sub_agents() -> None:
    log = a_log()
    view = log.say(
        SubagentStarted(span="sp", agent="b"), MessageStarted(message="m1", span="sp"), MessageStarted(message="m2")
    )
    snapshot = view.to_snapshot()
    shapes = {shape["message"]: shape for shape in snapshot["messages"]}
    assert shapes["m1"]["span"] == "sp"
    assert "span" not in shapes["m2"]
    again = ThreadView.from_snapshot(snapshot)
    assert (again.messages["m1"].span, again.messages["m2"].span) == ("sp", None)


def test_sub_agents_are_spans_and_not_the_run() -> None:
    view = a_log().say(
        SubagentStarted(span="s1", agent="b"),
        SubagentStarted(span="s2", agent="c", parent="s1"),
        SubagentFailed(span="s2", code="x", message="y"),
        SubagentCompleted(span="s1", output=4),
        SubagentCompleted(span="unseen", output=5),
        SubagentFailed(span="unseen too", code="x", message="y"),
        AgentResumed(wait="unseen", value=1, by="timer"),
    )
    run = view.runs["run_1"]
    assert [(span.agent, span.parent, span.ok, span.output) for span in run.spans.values()] == [
        ("b", None, True, 4),
        ("c", "s1", False, None),
        (None, None, True, 5),
        (None, None, False, None),
    ]
    assert (run.spans["s2"].error, run.status) == ({"code": "x", "message": "y"}, "running")


def test_what_a_newer_version_says_is_kept_opaque() -> None:
    view = ThreadView()
    for seq, kind, data in ((1, "future", b'{"a":1}'), (2, "text_delta", b'{"message":5}')):
        assert view.apply(StoredEvent(seq=seq, run="r", attempt=1, type=kind, ts=0, data=msgspec.Raw(data)))
    run = view.runs["r"]
    assert run.status == "running", "not seen to begin"
    assert {seq: (each.type, each.value) for seq, each in run.opaque.items()} == {
        1: ("future", {"a": 1}),
        2: ("text_delta", {"message": 5}),
    }


def test_a_run_ends_whatever_word_a_newer_version_has_for_the_reason() -> None:
    view = ThreadView()
    told = [
        ("agent_waiting", b'{"wait":"w","kind":"vote"}'),
        ("agent_retrying", b'{"attempt":2,"reason":"moved"}'),
        ("agent_cancelled", b'{"by":"budget"}'),
    ]
    for seq, (kind, data) in enumerate(told, 1):
        assert view.apply(StoredEvent(seq=seq, run="r", attempt=1, type=kind, ts=0, data=msgspec.Raw(data)))
    run = view.runs["r"]
    assert (run.status, run.cancelled, run.waits["w"].kind) == ("cancelled", {"by": "budget"}, "vote")
    assert run.opaque == {}


def test_internal_events_are_passed_over() -> None:
    view = a_log().say(StepStarted(step="s", try_=1, name="now"))
    assert (view.seq, view.runs["run_1"].opaque) == (3, {})


def test_every_type_has_a_reducer() -> None:
    assert ThreadView._REDUCERS.keys() == EVENT_DATA.keys()


def test_a_text_joins_its_pieces_only_when_read() -> None:
    text = Text()
    for offset in range(1000):
        assert text.put(offset, "x")
    assert len(text._pieces) == 1001
    assert str(text) == "x" * 1000
    assert len(text._pieces) == 1
    assert text.length == 1000
