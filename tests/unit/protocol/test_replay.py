"""The replay matcher, case by case."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from tests.unit.protocol.replay_run import RUN, STARTED, Run, begun, taken_back

from runwire.errors import RunFailed
from runwire.protocol.events import (
    AgentCompleted,
    AgentRetrying,
    AgentThinking,
    Custom,
    EventData,
    EventError,
    MessageCompleted,
    MessageStarted,
    Superseded,
    TextDelta,
    ThinkingDelta,
    ToolCompleted,
    ToolExecuting,
    UserMessage,
)
from runwire.protocol.ids import ID_PATTERN
from runwire.protocol.replay import Emit, Replay, closers, lost_attempts_without_progress, step_key
from runwire.protocol.sayings import same_json


@pytest.fixture
def run() -> Run:
    return begun()


# ── what is said the first time ──────────────────────────────────────────────────────────────────────────


def test_first_attempt_tells_all_that_is_said(run: Run) -> None:
    assert run.say("hm") == [AgentThinking(text="hm")]
    assert run.store(run.attempt.custom(RUN, "chart", {"a": 1})) == [Custom(name="chart", value={"a": 1})]
    assert run.write("Hel", "lo") == [
        MessageStarted(message="msg_1"),
        TextDelta(message="msg_1", offset=0, text="Hel"),
        TextDelta(message="msg_1", offset=3, text="lo"),
    ]
    assert run.store(run.attempt.close_message(RUN)) == [MessageCompleted(message="msg_1", content="Hello")]
    assert run.store(run.attempt.thinking_delta(RUN, "so")) == [ThinkingDelta(thinking="thk_2", offset=0, text="so")]
    assert run.store(run.attempt.end_thinking(RUN)) == [AgentThinking(thinking="thk_2", text="so")]


def test_whole_message_needs_no_delta(run: Run) -> None:
    assert run.store(run.attempt.message(RUN, "Hello")) == [
        MessageStarted(message="msg_1"),
        MessageCompleted(message="msg_1", content="Hello"),
    ]


def test_empty_piece_says_nothing_and_an_empty_message_is_one(run: Run) -> None:
    assert run.write("") == run.store(run.attempt.thinking_delta(RUN, "")) == []
    assert run.attempt.has_message is False
    assert run.store(run.attempt.message(RUN, "")) == [
        MessageStarted(message="msg_1"),
        MessageCompleted(message="msg_1", content=""),
    ]
    assert [run.attempt.has_message] == [True]


def test_nothing_is_closed_that_is_not_open(run: Run) -> None:
    run.write("Hello")
    assert run.attempt.end_thinking(RUN) == []
    run.store(run.attempt.close_message(RUN))
    assert run.attempt.close_message(RUN) == []


BEGINNINGS: dict[str, Callable[[Replay], Sequence[Emit]]] = {
    "thinking": lambda attempt: attempt.thinking(RUN, "hm"),
    "thinking_delta": lambda attempt: attempt.thinking_delta(RUN, "hm"),
    "custom": lambda attempt: attempt.custom(RUN, "chart", 1),
    "message": lambda attempt: attempt.message(RUN, "new"),
    "step": lambda attempt: attempt.begin_step(RUN, "search", {}).emits,
    "end": lambda attempt: attempt.end_scope(RUN),
}


@pytest.mark.parametrize("begin", BEGINNINGS.values(), ids=BEGINNINGS)
def test_whatever_a_scope_begins_closes_its_open_message_first(
    run: Run, begin: Callable[[Replay], Sequence[Emit]]
) -> None:
    run.write("Hello")
    assert run.store(begin(run.attempt))[0] == MessageCompleted(message="msg_1", content="Hello")


@pytest.mark.parametrize("begin", [BEGINNINGS["thinking"], BEGINNINGS["step"]])
def test_what_is_swallowed_closes_the_open_message_too(run: Run, begin: Callable[[Replay], Sequence[Emit]]) -> None:
    run.write("Hello")
    run.store(begin(run.attempt))
    run.take_over()
    run.write("Hello")
    begin(run.attempt)
    assert run.write("more")[-2:] == [
        MessageStarted(message="msg_2"),
        TextDelta(message="msg_2", offset=0, text="more"),
    ]


def test_message_ends_an_open_thinking_stream(run: Run) -> None:
    run.store(run.attempt.thinking_delta(RUN, "so"))
    assert run.write("Hello")[0] == AgentThinking(thinking="thk_1", text="so")


# ── going on ─────────────────────────────────────────────────────────────────────────────────────────────


def test_text_goes_on_in_the_same_message_at_the_logged_offset_in_code_points(run: Run) -> None:
    run.write("🧵é", "n̂ a")
    run.take_over()
    assert run.write("🧵", "én̂ ", "and") == [TextDelta(message="msg_1", offset=6, text="nd")]
    assert run.attempt.text == "🧵én̂ and"


def test_stream_goes_on_under_its_id(run: Run) -> None:
    run.store(run.attempt.thinking_delta(RUN, "so"))
    run.store(run.attempt.thinking_delta(RUN, " we"))
    run.take_over()
    assert run.store(run.attempt.thinking_delta(RUN, "so well")) == [
        ThinkingDelta(thinking="thk_1", offset=5, text="ll")
    ]
    assert run.store(run.attempt.end_thinking(RUN)) == [AgentThinking(thinking="thk_1", text="so well")]


def test_message_without_its_first_delta_goes_on(run: Run) -> None:
    run.store(run.attempt.write(RUN, "Hello")[:1])
    run.take_over()
    assert run.write("Hello") == [TextDelta(message="msg_1", offset=0, text="Hello")]


def test_everything_said_before_is_swallowed(run: Run) -> None:
    def tell() -> list[EventData]:
        streamed = run.store(run.attempt.thinking_delta(RUN, "s") + run.attempt.end_thinking(RUN))
        custom = run.store(run.attempt.custom(RUN, "chart", {"b": [1], "a": None}))
        return run.say("hm") + streamed + custom + run.write("Hel", "lo") + run.store(run.attempt.end_scope(RUN))

    tell()
    run.take_over()
    assert tell() == []


def test_streamed_and_whole_message_of_one_text_are_one_saying(run: Run) -> None:
    run.write("Hel")
    run.take_over()
    assert run.store(run.attempt.message(RUN, "Hello")) == [MessageCompleted(message="msg_1", content="Hello")]
    run.take_over()
    assert run.write("Hello") == []


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ({"a": 1, "b": [None, "x"]}, {"b": [None, "x"], "a": 1}, True),
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (False, False, True),
        ([1], [1, 1], False),
        ({"a": 1}, {"a": 1, "b": 1}, False),
        ({"a": 1}, {"b": 1}, False),
        ("1", 1, False),
        (None, {}, False),
        ({"$ref": "blob_1", "bytes": 9}, {"$ref": "blob_1", "bytes": 9}, True),
        ({"$ref": "blob_1", "bytes": 9}, {"$ref": "blob_2", "bytes": 9}, False),
    ],
)
def test_values_are_compared_as_json(one: Any, other: Any, is_same: bool) -> None:
    assert same_json(one, other) is is_same


# ── differing ────────────────────────────────────────────────────────────────────────────────────────────


def test_first_difference_takes_back_all_from_there_on_and_speaks_anew(run: Run) -> None:
    run.say("one", "two")
    run.store(run.attempt.custom(RUN, "chart", 1))
    run.store(run.attempt.thinking_delta(RUN, "so") + run.attempt.end_thinking(RUN))
    run.write("Hello")
    run.take_over()
    assert run.say("one") == []
    superseded, thought = run.say("2")
    assert taken_back(superseded) == (["msg_2"], ["thk_1"], [4, 5], "differs")
    assert thought == AgentThinking(text="2")
    assert run.store(run.attempt.custom(RUN, "chart", 1)) == [Custom(name="chart", value=1)]
    assert run.write("Hello")[0] == MessageStarted(message="msg_3")


def test_text_that_differs_in_the_middle_is_said_anew_from_its_start(run: Run) -> None:
    run.write("Hello world")
    run.take_over()
    assert run.write("Hel") == []
    superseded, *told = run.write("p me")
    assert taken_back(superseded) == (["msg_1"], [], [], "differs")
    assert told == [MessageStarted(message="msg_2"), TextDelta(message="msg_2", offset=0, text="Help me")]


def test_message_that_ends_before_its_logged_text_differs(run: Run) -> None:
    run.write("Hello")
    run.take_over()
    assert run.write("Hell") == []
    assert run.store(run.attempt.close_message(RUN))[1:] == [
        MessageStarted(message="msg_2"),
        TextDelta(message="msg_2", offset=0, text="Hell"),
        MessageCompleted(message="msg_2", content="Hell"),
    ]


def test_message_that_goes_on_after_its_logged_end_differs(run: Run) -> None:
    run.store(run.attempt.message(RUN, "Hello"))
    run.take_over()
    assert run.write("Hello") == []
    superseded, *told = run.write("!")
    assert taken_back(superseded) == (["msg_1"], [], [], "differs")
    assert told == [MessageStarted(message="msg_2"), TextDelta(message="msg_2", offset=0, text="Hello!")]


def test_message_that_an_unwinding_cut_off_may_go_on(run: Run) -> None:
    run.write("Hel")
    run.store(run.attempt.close_all(code="drained", message="m"))
    run.take_over()
    assert run.write("Hello") == [TextDelta(message="msg_1", offset=3, text="lo")]


def test_another_kind_of_saying_differs(run: Run) -> None:
    run.say("hm")
    run.take_over()
    assert [type(data) for data in run.write("hm")] == [Superseded, MessageStarted, TextDelta]
    run.take_over()
    assert [type(data) for data in run.say("hm")] == [Superseded, AgentThinking]
    run.take_over()
    assert [type(data) for data in run.store(run.attempt.thinking_delta(RUN, "hm"))] == [Superseded, ThinkingDelta]


def test_scope_that_ends_takes_back_what_it_did_not_say_again(run: Run) -> None:
    run.say("one", "two", "three")
    run.take_over()
    run.say("one")
    (superseded,) = run.store(run.attempt.end_scope(RUN))
    assert taken_back(superseded) == ([], [], [4, 5], "differs")
    assert run.attempt.end_scope(RUN) == []


def test_superseded_sayings_have_no_address_when_the_log_is_read_again(run: Run) -> None:
    run.say("one", "two", "three")
    run.take_over()
    run.say("one")
    run.store(run.attempt.thinking(RUN, "2")[:1])  # the worker is lost between superseded and the new thought
    run.take_over()
    assert run.say("one") == []
    assert run.say("three") == [AgentThinking(text="three")]
    run.take_over()
    assert run.say("one", "three") == []
    assert run.attempt.end_scope(RUN) == []


def test_difference_leaves_what_finished_steps_said_and_takes_what_cut_off_ones_said(run: Run) -> None:
    run.say("one")
    finished = run.begin("search")
    run.say("searching", scope=finished.scope)
    run.end(finished)
    outer = run.begin("outer")
    run.say("outside", scope=outer.scope)
    inner = run.begin("inner", scope=outer.scope)
    run.say("inside", scope=inner.scope)
    run.end(inner)
    run.take_over()
    superseded, _ = run.say("1")
    assert taken_back(superseded)[2] == [3, 8]


def test_difference_leaves_what_a_step_begun_before_it_said(run: Run) -> None:
    outer = run.begin("outer")
    run.say("outside", scope=outer.scope)
    run.end(run.begin("inner", scope=outer.scope))
    run.take_over()
    run.say("late")
    run.take_over()
    superseded, _ = run.say("later")
    assert taken_back(superseded)[2] == [8]


def test_very_much_is_taken_back_in_several_events_the_last_said_first(run: Run) -> None:
    run.say(*(str(n) for n in range(1001)))
    run.take_over()
    superseded = run.store(run.attempt.end_scope(RUN))
    assert [taken_back(data)[2] for data in superseded] == [
        [1003],
        list(range(503, 1003)),
        list(range(3, 503)),
    ]


# ── steps ────────────────────────────────────────────────────────────────────────────────────────────────


def test_step_begins_with_tool_executing_and_ends_with_tool_completed(run: Run) -> None:
    step = run.begin("search", {"q": 1})
    assert step.emits == [Emit(ToolExecuting(call=step.call, step=step.key, try_=1, name="search", args={"q": 1}), RUN)]
    assert step.recorded is None
    assert step.scope == f"{step.key}/1"
    completed = ToolCompleted(
        call=step.call, step=step.key, try_=1, name="search", ok=True, final=True, duration_ms=7, result="found"
    )
    assert run.end(step) == [completed]


def test_finished_step_returns_its_recorded_result_and_tells_nothing(run: Run) -> None:
    step = run.begin("search", {"q": 1})
    run.say("searching", scope=step.scope)
    run.end(step, result={"hits": 3})
    run.take_over()
    again = run.begin("search", {"q": 1})
    assert (again.call, again.try_, again.emits) == (step.call, 1, [])
    assert again.recorded is not None
    assert again.recorded.result == {"hits": 3}
    assert run.end(again) == []
    assert run.attempt.end_scope(RUN) == []


def test_failed_step_is_finished_too(run: Run) -> None:
    error = EventError(code="tool_error", message="no")
    run.store(run.attempt.end_step(run.begin(), ok=False, error=error, duration_ms=1))
    run.take_over()
    recorded = run.begin().recorded
    assert recorded is not None
    assert (recorded.ok, recorded.error) == (False, error)


@pytest.mark.parametrize(("name", "args"), [("fetch", {"q": 1}), ("search", {"q": 2})])
def test_another_step_than_the_journal_has_fails_the_run_naming_both(run: Run, name: str, args: Any) -> None:
    step = run.begin("search", {"q": 1})
    run.end(step)
    run.take_over()
    run.write("Hello")
    with pytest.raises(RunFailed) as failed:
        run.attempt.begin_step(RUN, name, args)
    assert failed.value.code == "nondeterministic_agent"
    assert failed.value.field == step.key
    assert "Step 1 of the run" in failed.value.message
    assert 'search {"q":1}' in failed.value.message
    assert f'{name} {{"q":{args["q"]}}}' in failed.value.message
    # Nothing has changed: the message is still open, for whoever ends the run.
    assert run.attempt.close_all(code="c", message="m") == [
        Emit(MessageCompleted(message="msg_1", content="Hello", complete=False), RUN)
    ]


def test_nondeterminism_inside_a_try_names_it_and_cuts_long_arguments(run: Run) -> None:
    outer = run.begin("outer")
    run.end(run.begin("inner", "x" * 999, scope=outer.scope))
    run.take_over()
    run.begin("outer")
    with pytest.raises(RunFailed, match=f"Step 1 of try {outer.scope}") as failed:
        run.attempt.begin_step(outer.scope, "inner", "y")
    assert len(failed.value.message) < 600


def test_arguments_are_the_same_in_any_order_of_keys(run: Run) -> None:
    run.end(run.begin("search", {"q": 1, "n": 2.0}))
    run.take_over()
    assert run.begin("search", {"n": 2, "q": 1}).recorded


def test_fewer_steps_than_the_journal_has_are_allowed(run: Run) -> None:
    step = run.begin()
    run.say("searching", scope=step.scope)
    run.end(step)
    run.take_over()
    assert run.attempt.end_scope(RUN) == []


def test_steps_are_known_by_scope_name_and_how_often_the_name_came(run: Run) -> None:
    keys = [run.begin(name).key for name in ("a", "b", "a")]
    inner = [step_key(scope, "a", 0) for scope in (f"{keys[0]}/1", f"{keys[0]}/2")]
    assert len({*keys, *inner}) == 5
    assert keys[2] == step_key(RUN, "a", 1)
    assert all(re.fullmatch(ID_PATTERN, key) and key.startswith("st_") for key in keys)


def test_call_ids_follow_from_run_step_and_try(run: Run) -> None:
    first = run.begin()
    run.take_over()
    second = run.begin()
    assert first.call != second.call
    assert re.fullmatch(ID_PATTERN, second.call)
    elsewhere = Replay(run="run_2", attempt=1, logged=[], new_id=run.new_id)
    same = Replay(run="run_1", attempt=9, logged=[], new_id=run.new_id)
    assert same.begin_step(RUN, "search", None).call == first.call
    assert elsewhere.begin_step(RUN, "search", None).call != first.call


def test_try_that_will_be_repeated_takes_back_what_it_said(run: Run) -> None:
    step = run.begin()
    run.attempt.learn([])
    for emits in (run.attempt.thinking(step.scope, "hm"), run.attempt.write(step.scope, "Hello")):
        run.attempt.learn([run.append(emit.data, emit.scope) for emit in emits])
    error = EventError(code="tool_error", message="no")
    completed, superseded, closed = run.store(
        run.attempt.end_step(step, ok=False, error=error, duration_ms=1, final=False)
    )
    assert completed == MessageCompleted(message="msg_1", content="Hello")
    assert taken_back(superseded) == (["msg_1"], [], [4], "try_closed")
    assert isinstance(closed, ToolCompleted)
    assert not closed.final
    again = run.attempt.next_try(step)
    assert (again.key, again.try_) == (step.key, 2)
    assert [type(emit.data) for emit in again.emits] == [ToolExecuting]


def test_try_cannot_be_taken_back_by_seqs_that_nobody_told(run: Run) -> None:
    step = run.begin()
    run.say("hm", scope=step.scope)
    with pytest.raises(ValueError, match="learn"):
        run.attempt.end_step(step, ok=False, duration_ms=1, final=False)


# ── taking over ──────────────────────────────────────────────────────────────────────────────────────────


def test_attempt_begins_with_agent_started_until_that_is_stored() -> None:
    run = Run()
    run.append(UserMessage(message="msg_u", content="hello"))
    run.number = 1  # it wrote nothing
    assert run.take_over() == [STARTED]
    assert run.take_over("drained") == [AgentRetrying(attempt=3, reason="drained")]


def test_takeover_closes_the_try_that_was_cut_off_and_the_step_is_tried_again(run: Run) -> None:
    step = run.begin()
    run.say("searching", scope=step.scope)
    run.write("Hel", scope=step.scope)
    retrying, superseded, closed = run.take_over()
    assert retrying == AgentRetrying(attempt=2, reason="worker_lost")
    assert taken_back(superseded) == (["msg_1"], [], [4], "try_closed")
    assert isinstance(closed, ToolCompleted)
    assert (closed.call, closed.try_, closed.ok, closed.final) == (step.call, 1, False, False)
    assert isinstance(closed.error, EventError)
    assert closed.error.code == "worker_lost"
    assert closed.duration_ms == 30  # as far as the log knows: begun at 30, last heard of at 60
    again = run.begin()
    assert (again.key, again.try_, again.recorded) == (step.key, 2, None)
    assert again.call != step.call
    assert run.say("searching", scope=again.scope) == [AgentThinking(text="searching")]


@pytest.mark.parametrize("reason", ["drained", "deploy"])
def test_try_that_a_hand_over_cut_off_is_not_said_to_be_lost(run: Run, reason: str) -> None:
    run.begin()
    closed = run.take_over(reason)[-1]
    assert isinstance(closed, ToolCompleted)
    assert isinstance(closed.error, EventError)
    assert closed.error == EventError(
        code=reason, message="The run was handed over to another worker while the tool was running."
    )


def test_try_that_said_nothing_is_closed_without_superseded(run: Run) -> None:
    run.begin()
    assert [type(data) for data in run.take_over()] == [AgentRetrying, ToolCompleted]


@pytest.mark.parametrize(
    ("stored", "left"),
    [
        (0, [AgentRetrying, Superseded, ToolCompleted]),
        (1, [AgentRetrying, Superseded, ToolCompleted]),
        (2, [AgentRetrying, ToolCompleted]),
        (3, [AgentRetrying]),
    ],
)
def test_takeover_that_is_lost_itself_is_taken_up_where_it_was(run: Run, stored: int, left: list[type]) -> None:
    step = run.begin()
    run.say("searching", scope=step.scope)
    lost = Replay(run="run_1", attempt=2, logged=run.log, new_id=run.new_id).start(STARTED, reason="worker_lost")
    run.number = 2
    run.store(lost[:stored])
    assert [type(data) for data in run.take_over()] == left
    assert run.begin().try_ == 2


def test_try_in_which_a_step_began_is_entered_again(run: Run) -> None:
    outer = run.begin("outer")
    run.say("one", scope=outer.scope)
    run.end(run.begin("inner", scope=outer.scope), result=5)
    run.write("Hel", scope=outer.scope)
    assert [type(data) for data in run.take_over()] == [AgentRetrying]
    again = run.begin("outer")
    assert (again.call, again.try_, again.emits, again.recorded) == (outer.call, 1, [], None)
    assert run.say("one", scope=again.scope) == []
    inner = run.begin("inner", scope=again.scope)
    assert inner.recorded is not None
    assert inner.recorded.result == 5
    assert run.write("Hello", scope=again.scope) == [TextDelta(message="msg_1", offset=3, text="lo")]
    assert run.end(again)[0] == MessageCompleted(message="msg_1", content="Hello")


def test_scope_that_leaves_a_cut_off_try_behind_closes_it_for_good(run: Run) -> None:
    outer = run.begin("outer")
    run.say("one", scope=outer.scope)
    run.end(run.begin("inner", scope=outer.scope))
    run.take_over()
    superseded, closed = run.store(run.attempt.end_scope(RUN))
    assert taken_back(superseded) == ([], [], [4], "try_closed")
    assert isinstance(closed, ToolCompleted)
    assert (closed.call, closed.ok, closed.final) == (outer.call, False, True)
    run.take_over()
    assert run.begin("outer").recorded == closed


# ── ending ───────────────────────────────────────────────────────────────────────────────────────────────


def test_unwinding_closes_what_is_open_innermost_first_and_takes_nothing_back(run: Run) -> None:
    outer = run.begin("outer")
    run.store(run.attempt.thinking_delta(outer.scope, "hm"))
    run.begin("inner", scope=outer.scope)
    run.store(run.attempt.thinking_delta(outer.scope, "so"))
    run.write("Hello")
    closing = run.store(run.attempt.close_all(code="deadline_exceeded", message="Too late."))
    assert [type(data) for data in closing] == [ToolCompleted, AgentThinking, ToolCompleted, MessageCompleted]
    inner, thinking, outside, message = closing
    assert isinstance(inner, ToolCompleted)
    assert isinstance(outside, ToolCompleted)
    assert (inner.name, inner.ok, inner.final) == ("inner", False, True)
    assert inner.error == EventError(code="deadline_exceeded", message="Too late.")
    assert thinking == AgentThinking(thinking="thk_2", text="so")
    assert outside.call == outer.call
    assert message == MessageCompleted(message="msg_3", content="Hello", complete=False)
    assert run.attempt.close_all(code="c", message="m") == []
    assert run.end(outer) == []


def test_unwinding_leaves_text_that_this_attempt_had_not_come_to(run: Run) -> None:
    run.say("hm")
    run.write("Hello")
    run.take_over()
    run.say("hm")
    run.write("Hel")
    assert run.store(run.attempt.close_all(code="c", message="m")) == [
        MessageCompleted(message="msg_1", content="Hello", complete=False)
    ]


def test_run_without_a_worker_is_closed_from_its_log(run: Run) -> None:
    step = run.begin()
    run.write("Hel", scope=step.scope)
    assert closers([], code="c", message="m") == []
    message, tool = closers(run.log, code="cancelled", message="Called off.")
    assert message == Emit(MessageCompleted(message="msg_1", content="Hel", complete=False), step.scope)
    assert isinstance(tool.data, ToolCompleted)
    assert (tool.scope, tool.data.call, tool.data.final) == (RUN, step.call, True)


def test_run_is_ended_by_its_terminal_event(run: Run) -> None:
    assert not run.attempt.is_ended
    run.append(AgentCompleted(output="x", duration_ms=1))
    assert Replay(run="run_1", attempt=2, logged=run.log, new_id=run.new_id).is_ended


def test_text_is_what_this_attempt_has_said_in_messages_of_the_run(run: Run) -> None:
    step = run.begin()
    run.write("aside", scope=step.scope)
    run.end(step)
    run.write("Hello ", "world")
    run.say("hm")
    run.write("!")
    assert run.attempt.text == "Hello world!"
    run.take_over()
    run.begin()
    assert (run.attempt.has_message, run.attempt.text) == (False, "")
    run.write("Hello")
    assert (run.attempt.has_message, run.attempt.text) == (True, "Hello")


# ── very long texts ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("letter", ["x", "🧵", "\x01"])
def test_no_delta_is_so_large_that_it_would_be_stored_elsewhere(run: Run, letter: str) -> None:
    told = run.write(letter * 20_000)
    assert [len(data.text) for data in told if isinstance(data, TextDelta)] == [8192, 8192, 3616]
    assert all(len(msgspec.json.encode(data)) < 65_536 for data in told)


def test_long_whole_message_is_known_by_its_deltas_when_its_content_is_stored_elsewhere(run: Run) -> None:
    long = "wort " * 20_000
    *told, completed = run.attempt.message(RUN, long)
    run.store(told)
    assert isinstance(completed.data, MessageCompleted)
    run.append(MessageCompleted(message=completed.data.message, content={"$ref": "blob_1", "bytes": 100_000}))
    run.take_over()
    assert run.attempt.message(RUN, long) == []
    run.take_over()
    assert isinstance(run.attempt.message(RUN, long + "!")[0].data, Superseded)


# ── attempts that got nowhere ────────────────────────────────────────────────────────────────────────────


def lost(run: Run) -> int:
    return lost_attempts_without_progress(run.log, run.number + 1, range(1, run.number + 1))


def test_attempts_that_say_the_same_again_are_lost_without_progress(run: Run) -> None:
    run.say("hm")
    run.write("Hel")
    assert lost(run) == 0
    for times in (1, 2, 3):
        run.take_over()
        run.say("hm")
        assert lost(run) == times


def test_attempt_that_wrote_nothing_counts_as_lost() -> None:
    run = Run()
    run.append(UserMessage(message="msg_u", content="hello"))
    assert lost_attempts_without_progress(run.log, 1, []) == 0
    assert lost_attempts_without_progress(run.log, 4, [1, 2, 3]) == 3
    run.take_over()
    assert lost_attempts_without_progress(run.log, 4, [1, 2, 3]) == 3


@pytest.mark.parametrize("how", ["text", "saying", "step"])
def test_progress_begins_the_count_anew(run: Run, how: str) -> None:
    run.write("Hel")
    run.take_over()
    run.take_over()
    assert lost(run) == 2
    if how == "text":
        run.write("Hello")
    elif how == "saying":
        run.write("Hel")
        run.say("hm")
    else:
        run.end(run.begin())
    assert lost(run) == 0


def test_words_of_a_tool_that_kills_its_worker_are_no_progress(run: Run) -> None:
    run.say("hm", scope=run.begin().scope)
    for times in (1, 2):
        run.take_over()
        run.say("hm", scope=run.begin().scope)
        assert lost(run) == times


def test_less_text_under_new_ids_is_no_progress(run: Run) -> None:
    run.write("Hello")
    run.take_over()
    run.write("Help")
    assert lost(run) == 1


def test_events_of_the_attempt_itself_do_not_count(run: Run) -> None:
    run.take_over()
    run.say("hm")
    assert lost_attempts_without_progress(run.log, 2, [1]) == 1


# ── tries that were left ─────────────────────────────────────────────────────────────────────────────────


def test_a_try_that_its_own_attempt_left_open_ends_with_its_scope_and_what_it_said_stands(run: Run) -> None:
    outer = run.begin("outer")
    inner = run.begin("inner", scope=outer.scope)
    run.say("hm", scope=inner.scope)
    run.write("half", scope=inner.scope)
    told = run.end(outer)
    assert [type(each) for each in told] == [MessageCompleted, ToolCompleted, ToolCompleted]
    assert [(each.name, each.ok, each.final) for each in told if isinstance(each, ToolCompleted)] == [
        ("inner", False, True),
        ("outer", True, True),
    ]


def test_what_this_attempt_said_in_a_reentered_try_is_never_taken_back(run: Run) -> None:
    run.say("one")
    outer = run.begin("outer")
    run.begin("inner", scope=outer.scope)
    run.take_over()
    again = run.begin("outer")  # the agent did not say "one" this time
    assert again.scope == outer.scope
    run.say("new", scope=again.scope)
    told = run.say("another")  # the tool was left without its end
    assert [type(each) for each in told] == [Superseded, AgentThinking]
    assert taken_back(told[0])[:3] == ([], [], [3])


# ── one message after another ────────────────────────────────────────────────────────────────────────────


def test_a_whole_message_drops_no_text_of_the_one_before_it(run: Run) -> None:
    run.write("one ", "two")
    run.take_over()
    run.write("one ")  # and no more this time: it is said anew under another id
    told = run.store(run.attempt.message(RUN, "another"))
    assert told == [
        Superseded(messages=["msg_1"], thinking=[], events=[], reason="differs"),
        MessageStarted(message="msg_2"),
        TextDelta(message="msg_2", offset=0, text="one "),
        MessageCompleted(message="msg_2", content="one "),
        MessageStarted(message="msg_3"),
        MessageCompleted(message="msg_3", content="another"),
    ]
