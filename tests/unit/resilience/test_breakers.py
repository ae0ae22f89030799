"""All breakers of a process: one for each thing, never too many, and what an operator set stays."""

from __future__ import annotations

import pytest

from runwire.resilience.breaker import CircuitOpen, State, Terms, Transition
from runwire.resilience.breakers import Breakers, Kind

ONE = Terms(failures_in_row=1)


def fail(breakers: Breakers, kind: Kind, name: str) -> None:
    breakers.of(kind, name).acquire().failure()


def test_one_thing_that_fails_is_nobody_elses_trouble() -> None:
    breakers = Breakers({Kind.MODEL: ONE, Kind.TOOL: ONE})
    fail(breakers, Kind.MODEL, "a/small")
    with pytest.raises(CircuitOpen):
        breakers.of(Kind.MODEL, "a/small").acquire()
    breakers.of(Kind.MODEL, "a/large").acquire()
    breakers.of(Kind.TOOL, "a/small").acquire()


def test_each_kind_has_its_terms() -> None:
    breakers = Breakers({Kind.AUTH: ONE})
    for kind, state in ((Kind.AUTH, State.OPEN), (Kind.BUS, State.CLOSED)):
        fail(breakers, kind, "x")
        assert breakers.of(kind, "x").state is state


def test_past_the_bound_the_closed_one_goes_that_was_used_longest_ago() -> None:
    breakers = Breakers({Kind.TOOL: ONE}, most=4)
    fail(breakers, Kind.TOOL, "open")
    breakers.force_open(Kind.TOOL, "forced")
    for number in range(50):
        breakers.of(Kind.TOOL, f"t{number}")
    assert [each.name for each in breakers.shown()] == ["forced", "open", "t48", "t49"]
    breakers.of(Kind.TOOL, "t48")
    breakers.of(Kind.TOOL, "t50")
    assert [each.name for each in breakers.shown()] == ["forced", "open", "t48", "t50"]


def test_what_an_operator_has_set_goes_last() -> None:
    breakers = Breakers({Kind.TOOL: ONE}, most=3)
    breakers.force_open(Kind.TOOL, "forced")
    breakers.disable(Kind.TOOL, "disabled")
    for number in range(10):
        fail(breakers, Kind.TOOL, f"open{number}")
    assert [each.name for each in breakers.shown()] == ["disabled", "forced", "open9"]


def test_what_is_shown_is_what_was_counted() -> None:
    breakers = Breakers({Kind.MODEL: Terms(slow_s=1.0)}, now_s=lambda: 5.0)
    model = breakers.of(Kind.MODEL, "a/small")
    model.acquire().success(0.1)
    model.acquire().success(2.0)
    model.acquire().failure()
    breakers.force_open(Kind.AGENT, "guide")
    agent, shown = breakers.shown()
    assert (agent.kind, agent.name, agent.state, agent.generation) == ("agent", "guide", "forced_open", 1)
    assert agent.retry_after_s > 0
    assert (shown.kind, shown.name, shown.state, shown.retry_after_s) == ("model", "a/small", "closed", 0.0)
    assert (shown.calls, shown.failures, shown.slow) == (3, 1, 1)


def test_an_operator_is_heard_and_every_change_is_told() -> None:
    told: list[tuple[Kind, Transition]] = []
    breakers = Breakers(on_change=lambda kind, change: told.append((kind, change)))
    breakers.force_open(Kind.WEBHOOK, "hooks.test")
    with pytest.raises(CircuitOpen):
        breakers.of(Kind.WEBHOOK, "hooks.test").acquire()
    breakers.disable(Kind.WEBHOOK, "hooks.test")
    breakers.reset(Kind.WEBHOOK, "hooks.test")
    assert [(kind, each.name, each.after) for kind, each in told] == [
        ("webhook", "hooks.test", "forced_open"),
        ("webhook", "hooks.test", "disabled"),
        ("webhook", "hooks.test", "closed"),
    ]
