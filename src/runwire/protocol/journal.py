"""What a run's log holds, as a later attempt must read it: sayings and steps, by scope.

The address of a saying is `(scope, n)`, its place in `ScopeLog.sayings`; what was taken back has none.
Steps have no address: they are found by their key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from runwire.protocol.events import (
    TERMINAL_TYPES,
    AgentThinking,
    Custom,
    EventError,
    EventType,
    MessageCompleted,
    MessageStarted,
    StoredEvent,
    Superseded,
    TextDelta,
    ThinkingDelta,
    ToolCompleted,
    ToolExecuting,
    decode_data,
)
from runwire.protocol.sayings import Kind, Saying

__all__ = ["Journal", "LoggedStep", "ScopeLog", "Try", "scope_of"]


@dataclass(slots=True, kw_only=True, eq=False)
class Try:
    """One try of a step."""

    step: LoggedStep
    number: int  # from 1
    call: str
    parent: str  # the scope that began the step
    seq: int = 0  # of its beginning; 0: begun by this attempt
    begun_at: int = 0  # ms UTC, as logged
    seen_at: int = 0  # ms UTC of the last event it is known by
    completion: ToolCompleted | None = None
    is_entered: bool = False  # this attempt executes it: what it says is this attempt's own

    @property
    def scope(self) -> str:
        """Return the scope of what this try says."""
        return scope_of(self.step.key, self.number)

    @property
    def executing(self) -> ToolExecuting:
        """Return the event that begins it."""
        step = self.step
        return ToolExecuting(call=self.call, step=step.key, try_=self.number, name=step.name, args=step.args)

    def complete(
        self,
        *,
        ok: bool,
        final: bool = True,
        result: Any = msgspec.UNSET,
        error: EventError | msgspec.UnsetType = msgspec.UNSET,
        duration_ms: int | None = None,
    ) -> ToolCompleted:
        """Close it and return the event that says so.

        Without a duration (nobody saw it end) it lasted as long as the log knows.
        """
        self.completion = ToolCompleted(
            call=self.call,
            step=self.step.key,
            try_=self.number,
            name=self.step.name,
            ok=ok,
            final=final,
            duration_ms=self.seen_at - self.begun_at if duration_ms is None else duration_ms,
            result=result,
            error=error,
        )
        return self.completion

    @property
    def is_open(self) -> bool:
        """Return whether nothing has closed it."""
        return self.completion is None

    @property
    def is_final(self) -> bool:
        """Return whether its result is the step's, for ever."""
        return self.completion is not None and self.completion.final


@dataclass(slots=True, kw_only=True, eq=False)
class LoggedStep:
    """A step and its tries, oldest first."""

    key: str
    name: str
    args: Any
    tries: list[Try] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class ScopeLog:
    """What stands of one scope, each in the order it began."""

    sayings: list[Saying] = field(default_factory=list)
    steps: list[LoggedStep] = field(default_factory=list)


def scope_of(step: str, number: int) -> str:
    """Return the scope text of a try of a step: `st_…/1`."""
    return f"{step}/{number}"


class Journal:
    """What stands in a run's log. Feed it every event of the run in order, from the first."""

    def __init__(self, logged: Iterable[StoredEvent] = ()) -> None:
        self.scopes: dict[str, ScopeLog] = {}
        self.tries: dict[str, Try] = {}  # by their scope, in the order they began
        self.has_started = False
        self.is_ended = False
        self._streams: dict[str, Saying] = {}  # by id of message or thinking stream
        self._steps: dict[str, LoggedStep] = {}  # by key
        for event in logged:
            self.add(event)

    def scope(self, key: str) -> ScopeLog:
        """Return what stands of a scope."""
        return self.scopes.setdefault(key, ScopeLog())

    @property
    def open_tries(self) -> list[Try]:
        """Return the tries that nothing has closed, in the order they began."""
        return [each for each in self.tries.values() if each.is_open]

    def is_inside(self, scope: str, outer: str) -> bool:
        """Return whether a scope was begun by `outer`, or by a scope inside it."""
        while scope:
            scope = self.tries[scope].parent
            if scope == outer:
                return True
        return False

    def begin_try(self, begun: Try) -> None:
        """Note a new try; its step is new too if it is the first."""
        if begun.number == 1:
            self._steps[begun.step.key] = begun.step
            self.scope(begun.parent).steps.append(begun.step)
        begun.step.tries.append(begun)
        self.tries[begun.scope] = begun

    def add(self, event: StoredEvent) -> None:
        """Read the next event. Types that neither say nor do anything are skipped."""
        if event.scope in self.tries:
            self.tries[event.scope].seen_at = event.ts
        reader = self._readers.get(event.type)
        if reader:
            reader(self, event, decode_data(event))
        elif event.type == EventType.AGENT_STARTED:
            self.has_started = True
        elif event.type in TERMINAL_TYPES:
            self.is_ended = True

    def _say(self, event: StoredEvent, saying: Saying) -> Saying:
        saying.seq = event.seq
        self.scope(event.scope).sayings.append(saying)
        return saying

    def _message_started(self, event: StoredEvent, data: MessageStarted) -> None:
        self._streams[data.message] = self._say(event, Saying(kind=Kind.MESSAGE, id=data.message))

    def _text_delta(self, _event: StoredEvent, data: TextDelta) -> None:
        self._streams[data.message].put(data.offset, data.text)

    def _message_completed(self, _event: StoredEvent, data: MessageCompleted) -> None:
        message = self._streams[data.message]
        if isinstance(data.content, str):
            # A short whole message has no deltas; a long one (whose content may be a `$ref`) has them all.
            message.put(0, data.content)
        # A message that an unwinding closed was cut off, not ended by its author: it may still go on.
        message.is_ended = data.complete

    def _thinking_delta(self, event: StoredEvent, data: ThinkingDelta) -> None:
        if data.thinking not in self._streams:
            self._streams[data.thinking] = self._say(event, Saying(kind=Kind.STREAM, id=data.thinking))
        self._streams[data.thinking].put(data.offset, data.text)

    def _agent_thinking(self, event: StoredEvent, data: AgentThinking) -> None:
        if data.thinking is None:
            self._say(event, Saying(kind=Kind.THOUGHT, words=data, is_ended=True))
        else:
            self._streams[data.thinking].is_ended = True

    def _custom(self, event: StoredEvent, data: Custom) -> None:
        self._say(event, Saying(kind=Kind.CUSTOM, words=data, is_ended=True))

    def _superseded(self, _event: StoredEvent, data: Superseded) -> None:
        ids, seqs = {*data.messages, *data.thinking}, set(data.events)
        for scope in self.scopes.values():
            scope.sayings[:] = [each for each in scope.sayings if each.id not in ids and each.seq not in seqs]

    def _tool_executing(self, event: StoredEvent, data: ToolExecuting) -> None:
        step = self._steps.get(data.step) or LoggedStep(key=data.step, name=data.name, args=data.args)
        begun = Try(step=step, number=data.try_, call=data.call, parent=event.scope, seq=event.seq)
        begun.begun_at = begun.seen_at = event.ts
        self.begin_try(begun)

    def _tool_completed(self, _event: StoredEvent, data: ToolCompleted) -> None:
        self.tries[scope_of(data.step, data.try_)].completion = data

    _readers: ClassVar[Mapping[str, Callable[[Journal, StoredEvent, Any], None]]] = {
        EventType.MESSAGE_STARTED: _message_started,
        EventType.TEXT_DELTA: _text_delta,
        EventType.MESSAGE_COMPLETED: _message_completed,
        EventType.THINKING_DELTA: _thinking_delta,
        EventType.AGENT_THINKING: _agent_thinking,
        EventType.CUSTOM: _custom,
        EventType.SUPERSEDED: _superseded,
        EventType.TOOL_EXECUTING: _tool_executing,
        EventType.TOOL_COMPLETED: _tool_completed,
    }
