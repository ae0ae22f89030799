"""What a run's log shows, judged: nothing twice, nothing torn, and what stands is what its agent said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.replay.mortal import CRASHED
from tests.replay.programs import DERIVED, Execution
from tests.unit.protocol.replay_screen import Said, Screen

from runwire.protocol.events import EventType, StoredEvent, decode_data
from runwire.protocol.lifecycle import RunOrder

__all__ = ["Judged", "judge"]

_INTERNAL = frozenset({"ctx.now", "ctx.left"})  # steps of the Context's own, which interrupt nothing


class _Owners:
    """The scopes that an attempt entered, known by their owners."""

    def __init__(self, screen: _LiveScreen, execution: Execution | None) -> None:
        self._screen = screen
        self._entered = execution.entered if execution else set[str]()

    def __contains__(self, scope: object) -> bool:
        return self._screen.owner(str(scope)) in self._entered


@dataclass(slots=True)
class _LiveScreen(Screen):
    """A screen that knows the events as the real Context makes them."""

    executions: Mapping[int, Execution] = field(default_factory=dict)  # by attempt
    raised: Counter[str] = field(default_factory=Counter)  # tries of a step that raised
    ended_by: dict[str, int] = field(default_factory=dict)  # attempt, by owner of a step or sub-agent that finished

    def apply(self, event: StoredEvent, *, is_closing: bool = False) -> None:
        self.entered = _Owners(self, self.executions.get(event.attempt))
        Screen.apply(self, event, is_closing=is_closing)
        if event.type in (EventType.TOOL_COMPLETED, EventType.STEP_COMPLETED):
            data = decode_data(event)
            begun = self.begun[f"{data.step}/{data.try_}"]
            if begun.is_final:
                self.ended_by[begun.owner] = event.attempt
            elif data.error.code not in CRASHED:
                self.raised[data.step] += 1
        elif event.type in (EventType.SUBAGENT_COMPLETED, EventType.SUBAGENT_FAILED):
            self.ended_by[self.begun[decode_data(event).span].owner] = event.attempt

    def begin(self, event: StoredEvent, key: str, kind: str, given: Any, *, closes: bool = True) -> None:
        if kind == "call":
            data = decode_data(event)
            closes = data.name not in _INTERNAL
            given = given[0] if isinstance(given, list) else given
            number = given["number"] if isinstance(given, dict) else f"{data.name} {event.seq}"
            given = {"number": f"{number}/{self.raised[data.step]}"}
        Screen.begin(self, event, key, kind, given, closes=closes)

    def resume(self, data: Any) -> None:
        wait = self.begun[data.wait]
        assert wait.is_open, "a wait ends twice"
        self.begun[data.wait] = replace(wait, is_open=False, is_final=True)
        del self.answers[data.wait]

    def by_owner(self) -> dict[str, list[Said]]:
        standing: dict[str, list[Said]] = {}
        for shown in self.shown.values():
            standing.setdefault(self.owner(shown.scope), []).append((shown.kind, shown.what))
        return standing


@dataclass(frozen=True, slots=True)
class Judged:
    """A run that was found right."""

    standing: dict[str, list[Said]]  # by owner; derived values without their digits
    end: str  # type of the terminal event
    has_lost: bool
    begun: int  # tries, waits and sub-agents
    reasons: frozenset[str]  # why something was taken back


def judge(logged: Sequence[StoredEvent], executions: Mapping[int, Execution], *, is_deterministic: bool) -> Judged:
    """Return what stands of a run.

    Args:
        logged: all of it.
        executions: of its agent, by attempt.
        is_deterministic: whether the agent says and does the same each time.

    Raises:
        AssertionError: a promise is broken.
    """
    order, screen = RunOrder(), _LiveScreen(executions=executions)
    for event in logged:
        order.accept(event.type, decode_data(event), event.attempt)
        screen.apply(event)
    assert order.is_ended, "it has not ended"
    assert screen.is_over, "left open"
    last = logged[-1]
    has_lost = any(each.has_lost for each in executions.values())
    code = getattr(decode_data(last), "code", None)
    if code == "nondeterministic_agent":
        assert not is_deterministic, "a deterministic agent is called nondeterministic"
        return Judged({}, "differs", has_lost, len(screen.begun), frozenset(screen.reasons))
    agent = executions[last.attempt].agent
    if agent.end == "raises":
        assert (last.type, code) == (EventType.AGENT_FAILED, "agent_error"), f"ended as {last.type} {code}"
    else:
        assert last.type == EventType.AGENT_COMPLETED, f"ended as {last.type} {code}"
        assert decode_data(last).output == {"end": True}
    standing = screen.by_owner()
    expected = _expected(screen, executions, last.attempt)
    assert standing == expected, f"not what was said: {_difference(standing, expected)}"
    if is_deterministic:
        assert "differs" not in screen.reasons, "a deterministic agent differs"
    return Judged(_plain(standing), last.type, has_lost, len(screen.begun), frozenset(screen.reasons))


def _expected(screen: _LiveScreen, executions: Mapping[int, Execution], last: int) -> dict[str, list[Said]]:
    """Return what the agent said: of who finished in an earlier attempt, in that one, else in the last."""
    expected: dict[str, list[Said]] = {}
    for owner in {owner for each in executions.values() for owner in each.said}:
        around = [each for each in screen.ended_by if f"{owner}.".startswith((f"{each}.", f"{each}|"))]
        attempt = screen.ended_by[max(around, key=len)] if around else last
        said = executions[attempt].said.get(owner) if attempt in executions else None
        if said:
            expected[owner] = said
    return expected


def _plain(standing: Mapping[str, list[Said]]) -> dict[str, list[Said]]:
    return {
        owner: [(kind, DERIVED if str(what).startswith(DERIVED) else what) for kind, what in said]
        for owner, said in standing.items()
    }


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    owners = sorted(one.keys() | other.keys())
    return {each: (one.get(each), other.get(each)) for each in owners if one.get(each) != other.get(each)}
