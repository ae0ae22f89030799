"""The replay matcher where scopes begin things: internal steps, tries, waits, sub-agents and branches."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.unit.protocol.replay_run import RUN, STARTED, Run, begun, taken_back

from runwire.errors import RunFailed
from runwire.protocol.events import (
    AgentResumed,
    AgentRetrying,
    AgentThinking,
    AgentWaiting,
    EventData,
    EventError,
    MessageCompleted,
    MessageStarted,
    StepCompleted,
    StepStarted,
    SubagentCompleted,
    SubagentFailed,
    SubagentStarted,
    Superseded,
    ToolCompleted,
    ToolExecuting,
)
from runwire.protocol.ids import ID_PATTERN
from runwire.protocol.replay import Replay, Span, Step, Wait, closers, lost_attempts_without_progress

ERROR = EventError(code="tool_error", message="no")
PLAN = "send the letter"


@pytest.fixture
def run() -> Run:
    return begun()


def begin(run: Run, name: str = "search", *, scope: str = RUN, **options: Any) -> Step:
    step = run.attempt.begin_step(scope, name, {"q": 1}, **options)
    run.store(step.emits)
    return step


def raise_(run: Run, step: Step, code: str = "tool_error") -> list[EventData]:
    error = EventError(code=code, message="no")
    return run.store(run.attempt.end_step(step, ok=False, error=error, duration_ms=1, final=False))


def wait(run: Run, kind: Any = "approval", *, scope: str = RUN, **about: Any) -> Wait:
    about = about or {"prompt": PLAN}
    begun_wait = run.attempt.begin_wait(scope, kind, **about)
    run.store(begun_wait.emits)
    return begun_wait


def answer(run: Run, begun_wait: Wait, value: Any = True) -> None:
    """As a gateway does: beside the worker."""
    run.append(AgentResumed(wait=begun_wait.id, value=value, by="usr_1"))


def delegate(run: Run, agent: str = "critic", *, scope: str = RUN) -> Span:
    span = run.attempt.begin_span(scope, agent, "look at this")
    run.store(span.emits)
    return span


def branches(run: Run, count: int = 2, *, scope: str = RUN) -> list[str]:
    gather = run.attempt.begin_gather(scope, count)
    run.store(gather.emits)
    return gather.scopes


# ── internal steps ───────────────────────────────────────────────────────────────────────────────────────


def test_an_internal_step_has_internal_events_and_returns_its_recorded_result(run: Run) -> None:
    step = begin(run, kind="step")
    (started,) = step.emits
    assert started.data == StepStarted(step=step.key, try_=1, name="search", args={"q": 1})
    assert run.end(step) == [StepCompleted(step=step.key, try_=1, ok=True, final=True, duration_ms=7, result="found")]
    run.take_over()
    again = begin(run, kind="step")
    assert (again.kind, again.call, again.emits) == ("step", step.call, [])
    assert again.recorded is not None
    assert again.recorded.result == "found"


def test_an_internal_step_and_a_tool_of_one_name_are_two(run: Run) -> None:
    assert begin(run).key != begin(run, kind="step").key
    run.take_over()
    with pytest.raises(RunFailed, match="Step 1 of the run"):
        run.attempt.begin_step(RUN, "search", {"q": 1}, kind="step")


def test_a_providers_id_stands_in_the_key(run: Run) -> None:
    keys = [begin(run, ident=ident).key for ident in ("call_a", "call_b", "call_a")]
    assert len({*keys, begin(run).key}) == 4
    run.take_over()
    with pytest.raises(RunFailed, match="Step 1"):
        run.attempt.begin_step(RUN, "search", {"q": 1}, ident="call_b")


def test_what_closes_nothing_leaves_the_message_open(run: Run) -> None:
    run.write("one ")
    now = begin(run, "now", kind="step", closes=False)
    assert [type(emit.data) for emit in now.emits] == [StepStarted]
    run.end(now, result=3)
    assert [type(data) for data in run.write("two")] != [MessageStarted]
    run.take_over()
    assert run.write("one ") == []
    assert begin(run, "now", kind="step", closes=False).recorded
    assert run.write("two") == []


# ── tries ────────────────────────────────────────────────────────────────────────────────────────────────


def test_tries_that_raised_are_counted_and_those_cut_off_are_not(run: Run) -> None:
    step = begin(run)
    raise_(run, step)
    second = run.attempt.next_try(step)
    run.store(second.emits)
    assert (second.try_, second.raised) == (2, 1)
    run.take_over()  # cut off
    third = begin(run)
    assert (third.try_, third.raised) == (3, 1)
    raise_(run, third)
    run.take_over()  # between two tries
    fourth = begin(run)
    assert (fourth.try_, fourth.raised) == (4, 2)
    run.end(fourth)
    run.take_over()
    assert (begin(run).raised, begin(run).recorded) == (2, None)


@pytest.mark.parametrize("code", ["worker_lost", "drained", "deploy"])
def test_a_tool_cannot_say_that_its_worker_was_lost(run: Run, code: str) -> None:
    closed = raise_(run, begin(run), code)[-1]
    assert isinstance(closed, ToolCompleted)
    assert closed.error == ERROR
    run.take_over()
    assert begin(run, on_crash="fail").raised == 1


@pytest.mark.parametrize("reason", ["worker_lost", "drained", None])
def test_a_step_that_must_not_be_repeated_is_said_to_be_lost_each_time(run: Run, reason: Any) -> None:
    step = begin(run, on_crash="fail")
    run.take_over(reason)
    for _ in range(2):
        again = begin(run, on_crash="fail")
        assert (again.key, again.call, again.emits, again.recorded) == (step.key, step.call, [], None)
        assert again.lost is not None
        assert again.lost.code == (reason or "drained")
        assert run.end(again) == []
        begin(run, "another")
        run.attempt.end_step(begin(run, "last"), ok=True, duration_ms=1)
        run.take_over(reason)


def test_a_try_with_a_branch_in_which_a_step_began_is_entered_again(run: Run) -> None:
    outer = begin(run, "outer")
    inner = branches(run, scope=outer.scope)
    nested = branches(run, 1, scope=inner[1])
    run.end(begin(run, scope=nested[0]))
    assert [type(data) for data in run.take_over()] == [AgentRetrying]
    assert begin(run, "outer").emits == []


@pytest.mark.parametrize("what", ["wait", "sub-agent"])
def test_a_try_in_which_a_wait_or_sub_agent_began_is_entered_again(run: Run, what: str) -> None:
    outer = begin(run, "outer")
    if what == "wait":
        answer(run, wait(run, scope=outer.scope))
    else:
        delegate(run, scope=outer.scope)
    assert [type(data) for data in run.take_over()] == [AgentRetrying]
    assert (begin(run, "outer").emits, run.number) == ([], 2)


def test_a_try_that_only_spoke_in_its_branches_is_closed_with_all_of_it(run: Run) -> None:
    outer = begin(run, "outer")
    run.say("one", scope=outer.scope)
    for scope in branches(run, scope=outer.scope):
        run.say("two", scope=scope)
    _, superseded, closed = run.take_over()
    assert taken_back(superseded) == ([], [], [4, 5, 6], "try_closed")
    assert isinstance(closed, ToolCompleted)


def test_a_try_that_was_being_closed_because_it_raised_is_repeated(run: Run) -> None:
    outer = begin(run, "outer")
    run.write("Hello", scope=outer.scope)
    run.end(begin(run, scope=outer.scope))
    told = run.attempt.end_step(outer, ok=False, error=ERROR, duration_ms=1, final=False)
    run.store(told[:-1])  # the worker is lost before the try's end is stored
    assert isinstance(told[-2].data, Superseded)
    _, closed = run.take_over()
    assert isinstance(closed, ToolCompleted)
    assert (closed.call, closed.final) == (outer.call, False)
    again = begin(run, "outer")
    assert (again.try_, again.raised) == (2, 1)


def test_a_raised_try_takes_back_what_its_branches_said_and_leaves_what_its_steps_said(run: Run) -> None:
    outer = begin(run, "outer")
    (branch,) = branches(run, 1, scope=outer.scope)
    inner = begin(run, scope=branch)
    for scope in (branch, inner.scope):
        run.attempt.learn([run.append(emit.data, emit.scope) for emit in run.attempt.custom(scope, "n", 1)])
    run.end(inner)
    superseded = next(data for data in raise_(run, outer) if isinstance(data, Superseded))
    assert taken_back(superseded)[2] == [5]


# ── waits ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_wait_is_asked_once_and_entered_again_without_a_word(run: Run) -> None:
    run.write("May I?")
    first = wait(run, prompt=PLAN, call="call_1", due_at=99)
    assert [emit.data for emit in first.emits] == [
        MessageCompleted(message="msg_1", content="May I?"),
        AgentWaiting(wait=first.id, kind="approval", prompt=PLAN, call="call_1", due_at=99),
    ]
    assert re.fullmatch(ID_PATTERN, first.id)
    run.take_over()
    run.write("May I?")
    again = wait(run, prompt=PLAN, call="call_1", due_at=500)
    assert (again.id, again.due_at, again.emits, again.recorded) == (first.id, 99, [], None)
    assert run.attempt.open_waits == [first.id]


def test_an_answer_in_the_log_is_given_at_once(run: Run) -> None:
    first = wait(run)
    answer(run, first)
    assert run.take_over(None) == []
    assert wait(run).recorded == AgentResumed(wait=first.id, value=True, by="usr_1")
    assert run.attempt.open_waits == []


def test_an_answer_is_learned_once_while_the_attempt_runs(run: Run) -> None:
    first = wait(run, "input")
    assert run.attempt.resume(first.id, "yes", "usr_1")
    assert not run.attempt.resume(first.id, "no", "usr_2")
    assert not run.attempt.resume("wt_unknown", "no", "usr_2")
    assert run.attempt.open_waits == []
    assert run.attempt.close_all(code="c", message="m") == []


def test_an_answer_that_is_learned_before_the_agent_comes_to_its_wait_waits_for_it(run: Run) -> None:
    first = wait(run)
    run.take_over()
    assert run.attempt.resume(first.id, True, "usr_1")
    assert wait(run).recorded == AgentResumed(wait=first.id, value=True, by="usr_1")


@pytest.mark.parametrize("about", [{"prompt": "another"}, {"prompt": PLAN, "call": "call_1"}])
def test_another_question_fails_the_run(run: Run, about: dict[str, Any]) -> None:
    first = wait(run)
    run.take_over()
    with pytest.raises(RunFailed) as failed:
        run.attempt.begin_wait(RUN, "approval", **about)
    assert (failed.value.code, failed.value.field) == ("nondeterministic_agent", first.id)
    assert 'approval ["send the letter",null]' in failed.value.message


@pytest.mark.parametrize("when", ["before", "live", "open"])
def test_a_wait_that_the_agent_had_left_has_no_answer_for_it(run: Run, when: str) -> None:
    left = wait(run, "input")
    run.end(begin(run))  # a time limit of the agent's own ended the wait
    if when == "before":
        answer(run, left)
    run.take_over()
    if when == "live":
        run.attempt.resume(left.id, "late", "usr_1")
    assert wait(run, "input").recorded == AgentResumed(wait=left.id, value=None, by="ended")
    assert begin(run).recorded


def test_a_wait_that_was_left_stays_open_until_the_run_ends(run: Run) -> None:
    outer = begin(run, "outer")
    left = wait(run, "input", scope=outer.scope)
    assert [type(data) for data in run.end(outer)] == [ToolCompleted]
    assert run.attempt.open_waits == [left.id]
    assert run.store(run.attempt.end_scope(RUN)) == [AgentResumed(wait=left.id, value=None, by="ended")]


# ── approvals after a difference ─────────────────────────────────────────────────────────────────────────


def approve(run: Run, *said: str, scope: str = RUN) -> Wait:
    run.say(*said, scope=scope)
    return wait(run, scope=scope)


def assert_not_approved(run: Run, *said: str, scope: str = RUN) -> None:
    run.say(*said, scope=scope)
    with pytest.raises(RunFailed, match="what was approved is not what would be done") as failed:
        run.attempt.begin_wait(scope, "approval", prompt=PLAN)
    assert failed.value.code == "nondeterministic_agent"


def test_an_answered_approval_holds_for_the_same_words(run: Run) -> None:
    answer(run, approve(run, "one", "two"))
    run.say("done")
    run.take_over()
    assert approve(run, "one", "two").recorded
    assert not run.attempt.has_differed(RUN)


@pytest.mark.parametrize("said", [("one", "2"), ("one",), ("one", "two", "three")])
def test_an_answered_approval_does_not_hold_for_other_words(run: Run, said: tuple[str, ...]) -> None:
    answer(run, approve(run, "one", "two"))
    run.take_over()
    assert_not_approved(run, *said)


def test_an_answered_approval_does_not_hold_for_other_words_around_its_scope(run: Run) -> None:
    run.say("plan A")
    span = delegate(run)
    (branch,) = branches(run, 1, scope=span.scope)
    answer(run, approve(run, "one", scope=branch))
    run.take_over()
    run.say("plan B")
    assert run.attempt.has_differed(branches(run, 1, scope=delegate(run).scope)[0])
    assert_not_approved(run, "one", scope=branch)


def test_an_answered_approval_does_not_hold_for_words_that_were_changed_in_between(run: Run) -> None:
    answer(run, approve(run, "plan A"))
    run.take_over()
    run.say("plan B")  # and its worker is lost
    run.take_over()
    assert_not_approved(run, "plan B")


def test_an_answered_approval_does_not_hold_for_words_that_were_taken_back_since(run: Run) -> None:
    answer(run, approve(run, "plan A"))
    run.take_over()
    run.store(run.attempt.thinking(RUN, "plan B")[:1])
    run.take_over()
    assert_not_approved(run)


def test_an_answered_approval_does_not_hold_for_a_text_that_went_on_since(run: Run) -> None:
    run.write("send")
    run.take_over()
    answer(run, wait(run))  # before it had come to its message
    run.take_over()
    run.write("send it all")
    with pytest.raises(RunFailed, match="what was approved"):
        run.attempt.begin_wait(RUN, "approval", prompt=PLAN)
    # Nothing has changed: the message is still open, for whoever ends the run.
    assert [type(emit.data) for emit in run.attempt.closing(code="c", message="m")] == [MessageCompleted]


def test_an_answered_approval_does_not_hold_for_a_text_that_ends_before_its_end(run: Run) -> None:
    run.write("send it all")
    answer(run, wait(run))
    run.take_over()
    run.write("send")
    assert_not_approved(run)


def test_who_saw_the_other_words_before_answering_approved_them(run: Run) -> None:
    open_wait = approve(run, "plan A")
    run.take_over()
    approve(run, "plan B")
    answer(run, open_wait)
    run.take_over()
    assert approve(run, "plan B").recorded


def test_an_answered_question_holds_whatever_was_said(run: Run) -> None:
    run.say("one")
    answer(run, wait(run, "input"), "yes")
    run.take_over()
    run.say("1")
    assert wait(run, "input").recorded


# ── sub-agents ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_sub_agent_is_a_span_around_what_it_says_and_calls(run: Run) -> None:
    span = delegate(run)
    assert [emit.data for emit in span.emits] == [
        SubagentStarted(span=span.id, agent="critic", parent=None, input="look at this")
    ]
    assert run.write("Hm", scope=span.scope)[0] == MessageStarted(message="msg_1", span=span.id)
    step = begin(run, scope=span.scope)
    assert isinstance(step.emits[-1].data, ToolExecuting)
    assert step.emits[-1].data.span == span.id
    run.write("aside", scope=step.scope)
    inner = delegate(run, scope=step.scope)
    assert inner.emits[-1].data == SubagentStarted(span=inner.id, agent="critic", parent=span.id, input="look at this")
    assert [data.span for data in run.end(step) if isinstance(data, ToolCompleted)] == [span.id]
    assert run.store(run.attempt.end_span(span, output=5)) == [SubagentCompleted(span=span.id, output=5)]
    assert (run.attempt.text, run.attempt.has_message) == ("", False)


def test_a_finished_sub_agent_returns_what_it_returned_and_what_it_said_stands(run: Run) -> None:
    run.say("one")
    span = delegate(run)
    run.say("two", scope=span.scope)
    run.store(run.attempt.end_span(span, output=5))
    run.take_over()
    assert taken_back(run.say("1")[0])[2] == [3]
    again = delegate(run)
    assert (again.emits, again.recorded) == ([], SubagentCompleted(span=span.id, output=5))
    assert run.attempt.end_span(again, output=6) == []


def test_a_failed_sub_agent_fails_again(run: Run) -> None:
    span = delegate(run)
    run.store(run.attempt.end_span(span, error=ERROR))
    run.take_over()
    assert delegate(run).recorded == SubagentFailed(span=span.id, code="tool_error", message="no")


def test_an_open_sub_agent_is_entered_again_without_a_word(run: Run) -> None:
    span = delegate(run)
    run.write("Hel", scope=span.scope)
    assert [type(data) for data in run.take_over()] == [AgentRetrying]
    again = delegate(run)
    assert (again.id, again.emits, again.recorded) == (span.id, [], None)
    assert [type(data).__name__ for data in run.write("Hello", scope=again.scope)] == ["TextDelta"]


@pytest.mark.parametrize("change", [{"agent": "other"}, {"input": "that"}])
def test_another_sub_agent_than_the_journal_has_fails_the_run(run: Run, change: dict[str, str]) -> None:
    delegate(run)
    run.take_over()
    with pytest.raises(RunFailed, match='critic "look at this" in an earlier attempt'):
        run.attempt.begin_span(RUN, **{"agent": "critic", "input": "look at this"} | change)


def test_nondeterminism_names_the_place(run: Run) -> None:
    span = delegate(run)
    (branch,) = branches(run, 1, scope=span.scope)
    begin(run, scope=span.scope)
    begin(run, scope=branch)
    run.take_over()
    delegate(run)
    branches(run, 1, scope=span.scope)
    with pytest.raises(RunFailed, match=f"of sub-agent {span.id} "):
        run.attempt.begin_step(span.scope, "fetch", {})
    with pytest.raises(RunFailed, match=re.escape(f"of branch {branch} ")):
        run.attempt.begin_wait(branch, "timer")


def test_a_difference_takes_back_what_an_open_sub_agent_said_after_it(run: Run) -> None:
    run.say("one")
    span = delegate(run)
    run.say("two", scope=span.scope)
    run.take_over()
    assert taken_back(run.say("1")[0])[2] == [3, 5]
    assert run.say("two", scope=delegate(run).scope) == [AgentThinking(text="two")]


def test_an_open_sub_agent_that_nobody_enters_again_fails_with_its_scope(run: Run) -> None:
    span = delegate(run)
    run.say("two", scope=span.scope)
    run.take_over()
    superseded, closed = run.store(run.attempt.end_scope(RUN))
    assert taken_back(superseded)[2] == [4]
    assert isinstance(closed, SubagentFailed)
    assert (closed.span, closed.code) == (span.id, "worker_lost")


def test_a_sub_agent_that_its_agent_left_fails_and_what_it_said_stands(run: Run) -> None:
    span = delegate(run)
    run.say("two", scope=span.scope)
    (closed,) = run.store(run.attempt.end_scope(RUN))
    assert isinstance(closed, SubagentFailed)
    assert (closed.span, closed.code) == (span.id, "tool_cancelled")


# ── branches ─────────────────────────────────────────────────────────────────────────────────────────────


def test_branches_have_no_events_and_close_the_open_message(run: Run) -> None:
    run.write("Hello")
    gather = run.attempt.begin_gather(RUN, 2)
    assert [type(emit.data) for emit in gather.emits] == [MessageCompleted]
    assert gather.scopes == ["|g0.0", "|g0.1"]
    assert run.attempt.begin_gather(gather.scopes[1], 1).scopes == ["|g0.1|g0.0"]
    assert run.attempt.begin_gather(RUN, 1).scopes == ["|g1.0"]


def test_each_branch_matches_its_own_journal_in_whatever_order_they_come(run: Run) -> None:
    one, two = branches(run)
    steps = {scope: begin(run, scope=scope) for scope in (one, two)}
    for scope in (two, one):
        run.end(steps[scope], result=scope)
    run.say("from two", scope=two)
    run.take_over()
    branches(run)
    for scope in (two, one):
        recorded = begin(run, scope=scope).recorded
        assert recorded is not None
        assert recorded.result == scope
    assert run.say("from two", scope=two) == []


def test_a_difference_takes_back_what_branches_said_after_it(run: Run) -> None:
    run.say("one")
    for scope in branches(run):
        run.say("in a branch", scope=scope)
    run.take_over()
    assert taken_back(run.say("1")[0])[2] == [3, 4, 5]


def test_a_difference_in_a_branch_takes_nothing_back_in_another(run: Run) -> None:
    one, two = branches(run)
    run.say("one", scope=one)
    run.say("two", scope=two)
    run.take_over()
    branches(run)
    assert taken_back(run.say("1", scope=one)[0])[2] == [3]
    assert run.say("two", scope=two) == []


def test_branches_that_were_not_begun_again_are_taken_back_at_the_end(run: Run) -> None:
    for scope in branches(run):
        run.say("in a branch", scope=scope)
    run.take_over()
    branches(run, 1)
    run.say("in a branch", scope="|g0.0")
    assert [taken_back(data)[2] for data in run.store(run.attempt.end_scope(RUN))] == [[4]]


def test_a_scope_that_ends_ends_the_branches_that_it_left(run: Run) -> None:
    one, _ = branches(run)
    run.write("Hello", scope=one)
    assert run.store(run.attempt.end_scope(RUN)) == [MessageCompleted(message="msg_1", content="Hello")]
    assert run.attempt.end_scope(one) == []


def test_what_branches_wrote_is_output_in_the_order_of_the_branches(run: Run) -> None:
    run.write("a")
    one, two = branches(run)
    run.write("c", scope=two)
    run.write("b", scope=one)
    span = delegate(run, scope=two)
    run.write("as", scope=span.scope)
    run.write("ide", scope=branches(run, 1, scope=span.scope)[0])
    run.store([*run.attempt.end_scope(one), *run.attempt.end_scope(two)])
    run.write("d")
    assert run.attempt.text == "abcd"
    assert run.attempt.text_of(span.scope) == "aside"


# ── derived ids ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_derived_id_is_the_same_in_each_attempt_and_try(run: Run) -> None:
    step = begin(run)
    scopes = [RUN, step.scope, *branches(run, scope=step.scope)]
    first = [run.attempt.derive(scope, what) for scope in scopes for what in ("uuid", "random", "uuid")]
    assert len({*first}) == len(first)
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in first)
    run.take_over()
    step = begin(run)
    assert step.try_ == 2
    scopes = [RUN, step.scope, *branches(run, scope=step.scope)]
    assert first == [run.attempt.derive(scope, what) for scope in scopes for what in ("uuid", "random", "uuid")]
    elsewhere = Replay(run="run_2", attempt=1, logged=[], new_id=str)
    assert elsewhere.derive(RUN, "uuid") != first[0]


# ── going on after a wait, and closing ───────────────────────────────────────────────────────────────────


def test_who_goes_on_after_a_wait_says_nothing_of_it_and_closes_what_was_cut_off(run: Run) -> None:
    begin(run)
    assert [type(data) for data in run.take_over(None)] == [ToolCompleted]
    run = Run()
    run.number = 1
    assert run.take_over(None) == [STARTED]


def test_closing_says_what_close_all_would_and_changes_nothing(run: Run) -> None:
    span = delegate(run)
    one, two = branches(run, scope=span.scope)
    step = begin(run, scope=one)
    run.write("Hello", scope=step.scope)
    asked = wait(run, scope=two)
    run.write("bye", scope=two)
    told = run.attempt.closing(code="cancelled", message="m")
    assert [type(emit.data) for emit in told] == [
        AgentResumed,
        MessageCompleted,
        ToolCompleted,
        MessageCompleted,
        SubagentFailed,
    ]
    assert told[0].data == AgentResumed(wait=asked.id, value=None, by="ended")
    assert [emit.scope for emit in told] == [two, step.scope, one, two, RUN]
    assert run.attempt.closing(code="cancelled", message="m") == told
    assert [emit.scope for emit in closers(run.log, code="cancelled", message="m")] == [emit.scope for emit in told]
    assert run.write(" you", scope=two) != []
    assert len(run.attempt.close_all(code="cancelled", message="m")) == len(told)
    assert run.attempt.closing(code="cancelled", message="m") == []
    assert run.attempt.open_waits == []


# ── attempts that got nowhere ────────────────────────────────────────────────────────────────────────────


def lost(run: Run, *attempts: int) -> int:
    return lost_attempts_without_progress(run.log, run.number + 1, attempts)


def test_only_attempts_whose_worker_was_lost_count(run: Run) -> None:
    run.take_over()
    run.take_over()
    run.take_over(None)
    assert lost(run) == 0  # handed over, or parked
    assert lost(run, 1, 2, 3) == 3
    assert lost(run, 2) == 1
    assert lost(run, 1, 2, 3, 4, 5, 6) == 4  # not the attempt that begins, nor a later one


@pytest.mark.parametrize("what", ["answer", "sub-agent", "step", "words"])
def test_an_answered_wait_and_a_finished_sub_agent_are_progress(run: Run, what: str) -> None:
    asked = wait(run)
    delegate(run)
    run.take_over()
    run.take_over()
    assert lost(run, 1, 2, 3) == 3
    match what:
        case "answer":
            answer(run, asked)
        case "sub-agent":
            wait(run)
            run.store(run.attempt.end_span(delegate(run), output=1))
        case "step":
            wait(run)
            delegate(run)
            run.end(begin(run, kind="step"))
        case _:
            run.store(run.attempt.custom(RUN, "n", 1))
    assert lost(run, 1, 2, 3) == 0
