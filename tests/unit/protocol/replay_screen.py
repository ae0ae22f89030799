"""What a person sees of a run with branches, sub-agents and waits; knows events, and nothing of the matcher.

Each event is checked as it comes: nothing is said twice, ends twice, goes on after its end, or begins while its
scope is still speaking; nothing is taken back that is not there or that must stand.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field, replace
from typing import Any

from runwire.protocol.events import EventType, StoredEvent, decode_data

Said = tuple[str, Any]  # ("message" | "stream" | "thought" | "custom", what)
_CRASHED = ("worker_lost", "drained", "deploy")


@dataclass(slots=True)
class Shown:
    scope: str
    seq: int
    kind: str
    what: Any
    is_ended: bool = False
    attempt: int = 0  # that said the last of it


@dataclass(frozen=True, slots=True)
class Begun:
    kind: str  # "call" | "span" | "wait"
    parent: str
    owner: str  # who it is, whatever its keys: the owner around it and its number in the program
    seq: int
    is_open: bool = True
    is_final: bool = False  # of a call: a recorded result


@dataclass(slots=True)
class Screen:
    shown: dict[str | int, Shown] = field(default_factory=dict)  # by id of message or stream, else by seq
    begun: dict[str, Begun] = field(default_factory=dict)  # by scope, waits by id
    lost: dict[str, bool] = field(default_factory=dict)  # by step: whether a crash cut off its last try
    answers: dict[str, Any] = field(default_factory=dict)  # by wait, open ones: what a person will say
    approved: dict[str, dict[str, list[Said]]] = field(default_factory=dict)  # by wait: what stood when it was answered
    reasons: set[str] = field(default_factory=set)
    passages: Counter[str] = field(default_factory=Counter)
    entered: Container[str] = ()  # the scopes that the attempt at work has entered

    def copy(self) -> Screen:
        return Screen(
            {key: replace(shown) for key, shown in self.shown.items()},
            dict(self.begun), dict(self.lost), dict(self.answers), dict(self.approved), set(self.reasons),
            Counter(self.passages),
        )  # fmt: skip

    def apply(self, event: StoredEvent, *, is_closing: bool = False) -> None:
        data = decode_data(event)
        match event.type:
            case EventType.SUPERSEDED:
                self.take_back(event, data)
            case EventType.TOOL_EXECUTING | EventType.STEP_STARTED:
                self.begin(event, f"{data.step}/{data.try_}", "call", data.args, closes=data.name != "now")
                self.lost[data.step] = False
            case EventType.TOOL_COMPLETED | EventType.STEP_COMPLETED:
                self.end(f"{data.step}/{data.try_}", is_final=data.final, is_closing=is_closing)
                self.lost[data.step] = not data.final and data.error.code in _CRASHED
            case EventType.SUBAGENT_STARTED:
                assert data.parent == self.span_of(event.scope), "a sub-agent of another one"
                self.begin(event, data.span, "span", data.input)
            case EventType.SUBAGENT_COMPLETED | EventType.SUBAGENT_FAILED:
                self.end(data.span, is_final=True, is_closing=is_closing)
            case EventType.AGENT_WAITING:
                self.begin(event, data.wait, "wait", None)
                self.answers[data.wait] = data.prompt
            case EventType.AGENT_RESUMED:
                self.resume(data)
            case _:
                self.hear(event, data)

    def hear(self, event: StoredEvent, data: Any) -> None:
        match event.type:
            case EventType.CUSTOM:
                self.say(event, event.seq, Shown(event.scope, event.seq, "custom", data.value, is_ended=True))
            case EventType.AGENT_THINKING | EventType.THINKING_DELTA:
                self.think(event, data)
            case EventType.MESSAGE_STARTED | EventType.TEXT_DELTA | EventType.MESSAGE_COMPLETED:
                self.write(event, data)

    # what is begun

    def begin(self, event: StoredEvent, key: str, kind: str, given: Any, *, closes: bool = True) -> None:
        assert key not in self.begun, "begins twice"
        if closes:
            self.assert_silent(event.scope, event.attempt)
        number = given["number"] if isinstance(given, dict) else kind
        self.begun[key] = Begun(kind, event.scope, f"{self.owner(event.scope)}.{number}", event.seq)

    def end(self, key: str, *, is_final: bool, is_closing: bool) -> None:
        begun = self.begun[key]
        assert begun.is_open, "ends twice"
        assert all(shown.is_ended for shown in self.shown.values() if self.is_inside(shown.scope, key)), "still speaks"
        for inner in self.begun.values():
            if inner.is_open and (is_closing or inner.kind != "wait"):
                assert not self.is_inside(inner.parent, key), "ends before what is inside"
        self.begun[key] = replace(begun, is_open=False, is_final=is_final)

    def resume(self, data: Any) -> None:
        wait = self.begun[data.wait]
        assert wait.is_open, "a wait ends twice"
        self.begun[data.wait] = replace(wait, is_open=False, is_final=True)
        del self.answers[data.wait]
        standing = self.standing()
        self.approved[data.wait] = {scope: standing.get(scope, []) for scope in self.chain(wait.parent)}

    def chain(self, scope: str) -> list[str]:
        chain = [scope]
        while scope:
            outer, bar, _ = scope.rpartition("|")
            scope = outer if bar else self.begun[scope].parent
            chain.append(scope)
        return chain

    def is_inside(self, scope: str, outer: str) -> bool:
        return outer in self.chain(scope)

    def owner(self, scope: str) -> str:
        base, bar, rest = scope.partition("|")
        return (self.begun[base].owner if base else "") + bar + rest

    def span_of(self, scope: str) -> str | None:
        return next(
            (each for each in self.chain(scope) if each in self.begun and self.begun[each].kind == "span"), None
        )

    # what is said

    def assert_silent(self, scope: str, attempt: int) -> None:
        """What an earlier attempt was cut off in may stand open: nobody has come to its address yet."""
        speaking = [each for each in self.shown.values() if each.scope == scope and not each.is_ended]
        assert all(each.attempt < attempt for each in speaking), "still speaks"

    def say(self, event: StoredEvent, key: str | int, shown: Shown) -> None:
        self.assert_silent(event.scope, event.attempt)
        outer, bar, _ = event.scope.rpartition("|")
        if bar:
            self.assert_silent(outer, event.attempt)
        shown.attempt = event.attempt
        self.shown[key] = shown
        self.count(shown.what, 1)

    def count(self, what: Any, times: int) -> None:
        for passage in re.findall("⟦[^⟧]*⟧", str(what)):
            self.passages[passage] += times
            assert self.passages[passage] <= 1, f"shown twice: {passage}"

    def think(self, event: StoredEvent, data: Any) -> None:
        if event.type == EventType.THINKING_DELTA:
            if data.thinking not in self.shown:
                self.say(event, data.thinking, Shown(event.scope, event.seq, "stream", ""))
            self.put(event, data.thinking, data.offset, data.text)
        elif data.thinking is None:
            self.say(event, event.seq, Shown(event.scope, event.seq, "thought", data.text, is_ended=True))
        else:
            self.finish(event, data.thinking, data.text)

    def write(self, event: StoredEvent, data: Any) -> None:
        if event.type == EventType.MESSAGE_STARTED:
            assert (data.span or None) == self.span_of(event.scope), "a message of another sub-agent"
            self.say(event, data.message, Shown(event.scope, event.seq, "message", ""))
        elif event.type == EventType.TEXT_DELTA:
            self.put(event, data.message, data.offset, data.text)
        else:
            self.finish(event, data.message, data.content)

    def put(self, event: StoredEvent, key: str, offset: int, text: str) -> None:
        shown = self.shown[key]
        shown.attempt = event.attempt
        assert not shown.is_ended, "goes on after its end"
        assert offset <= len(shown.what), "an offset beyond the end"
        self.count(shown.what, -1)
        shown.what = shown.what[:offset] + text
        self.count(shown.what, 1)

    def finish(self, event: StoredEvent, key: str, content: str) -> None:
        shown = self.shown[key]
        assert not shown.is_ended, "ends twice"
        assert content.startswith(shown.what), "ends as another one"
        self.put(event, key, 0, content)
        shown.is_ended = True

    def take_back(self, event: StoredEvent, data: Any) -> None:
        self.reasons.add(data.reason)
        keys: list[str | int] = [*data.messages, *data.thinking, *data.events]
        assert keys, "takes back nothing"
        taken = [self.shown.pop(key) for key in keys]  # a KeyError: it takes back what is not there
        for shown in taken:
            self.count(shown.what, -1)
            # What is inside a finished step or sub-agent always stands.
            around = self.chain(shown.scope)
            for scope in around[: around.index(event.scope)]:
                assert scope not in self.begun or self.begun[scope].is_open, "takes back what finished"
        if data.reason == "differs":
            first = min((shown.seq for shown in taken if shown.scope == event.scope), default=None)
            left = [each for each in self.shown.values() if first is not None and each.seq > first]
            assert not any(self.must_go(each.scope, event.scope) for each in left), "not all taken back"

    def must_go(self, scope: str, differing: str) -> bool:
        """Return whether a difference takes back what a scope said after it."""
        around = self.chain(scope)
        if differing not in around or (scope in self.entered and scope != differing):
            return False
        return all(self.begun[each].is_open for each in around[: around.index(differing)] if each in self.begun)

    def standing(self) -> dict[str, list[Said]]:
        standing: dict[str, list[Said]] = {}
        for shown in self.shown.values():
            standing.setdefault(shown.scope, []).append((shown.kind, shown.what))
        return standing

    def by_owner(self) -> dict[str, list[Said]]:
        """Return what stands, by who said it; all tries of a step together."""
        standing: dict[str, list[Said]] = {}
        for shown in self.shown.values():
            # A try that a crash cut off counts in the keys of what the next one begins, and so in what derives there.
            outer = self.chain(shown.scope.partition("|")[0])[1:]
            is_in_try = any(self.begun[each].kind == "call" for each in outer if each in self.begun)
            what = "derived" if is_in_try and re.fullmatch("[0-9a-f]{64}", str(shown.what)) else shown.what
            standing.setdefault(self.owner(shown.scope), []).append((shown.kind, what))
        return standing

    @property
    def is_over(self) -> bool:
        return all(shown.is_ended for shown in self.shown.values()) and not any(
            begun.is_open for begun in self.begun.values()
        )
