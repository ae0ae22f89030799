"""What a run's log holds, as a later attempt must read it: what each scope said, and what it began.

The address of a saying is `(scope, n)`, its place in `ScopeLog.sayings`; what was taken back has none. Steps, waits
and sub-agents have no address: they are found by their key, and by their place in `ScopeLog.begun`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import msgspec

from runwire.protocol.acts import RUN, StepKind, WaitKind, outer_of_branch, owner_of, try_scope
from runwire.protocol.events import (
    TERMINAL_TYPES,
    AgentResumed,
    AgentThinking,
    AgentWaiting,
    Custom,
    EventData,
    EventError,
    EventType,
    MessageCompleted,
    MessageStarted,
    StepCompleted,
    StepStarted,
    StoredEvent,
    SubagentCompleted,
    SubagentFailed,
    SubagentStarted,
    Superseded,
    TextDelta,
    ThinkingDelta,
    ToolCompleted,
    ToolExecuting,
    decode_data,
)
from runwire.protocol.sayings import Kind, Saying

__all__ = ["CUT_OFF", "Act", "Journal", "LoggedSpan", "LoggedStep", "LoggedWait", "Opened", "ScopeLog", "Try"]

CUT_OFF: Final = frozenset({"worker_lost", "drained", "deploy"})
"""Codes of a try that its worker left: nobody knows how it ended."""


@dataclass(slots=True, kw_only=True, eq=False)
class Try:
    """One try of a step."""

    step: LoggedStep
    number: int  # from 1
    call: str
    parent: str  # the scope that began the step
    span: str | None = None  # the sub-agent around it
    seq: int = 0  # of its beginning; 0: begun by this attempt
    begun_at: int = 0  # ms UTC, as logged
    seen_at: int = 0  # ms UTC of the last event it is known by
    completion: ToolCompleted | StepCompleted | None = None
    is_closing: bool = False  # all it said was taken back: it was being closed

    @property
    def scope(self) -> str:
        """Return the scope of what this try says."""
        return try_scope(self.step.key, self.number)

    @property
    def beginning(self) -> EventData:
        """Return the event that begins it."""
        key, name, args = self.step.key, self.step.name, self.step.args
        if self.step.kind == "step":
            return StepStarted(step=key, try_=self.number, name=name, args=args)
        return ToolExecuting(call=self.call, step=key, try_=self.number, name=name, args=args, span=self.span)

    def completed(
        self,
        *,
        ok: bool,
        final: bool = True,
        result: Any = msgspec.UNSET,
        error: EventError | msgspec.UnsetType = msgspec.UNSET,
        duration_ms: int | None = None,
    ) -> ToolCompleted | StepCompleted:
        """Return the event that closes it; without a duration (nobody saw it end) it lasted as the log knows."""
        if duration_ms is None:
            duration_ms = self.seen_at - self.begun_at
        if self.step.kind == "step":
            return StepCompleted(
                step=self.step.key,
                try_=self.number,
                ok=ok,
                final=final,
                duration_ms=duration_ms,
                result=result,
                error=error,
            )
        return ToolCompleted(
            call=self.call,
            step=self.step.key,
            try_=self.number,
            name=self.step.name,
            ok=ok,
            final=final,
            duration_ms=duration_ms,
            result=result,
            error=error,
            span=self.span or msgspec.UNSET,
        )

    def failed(self, error: EventError) -> EventData:
        """Return the event that closes it for good."""
        return self.completed(ok=False, error=error)

    @property
    def is_open(self) -> bool:
        """Return whether nothing has closed it."""
        return self.completion is None

    @property
    def is_final(self) -> bool:
        """Return whether its result is the step's, for ever."""
        return self.completion is not None and self.completion.final

    @property
    def cut_off(self) -> EventError | None:
        """Return how it was closed if its worker left it; None: it is open, ended or raised."""
        error = self.completion.error if self.completion and not self.completion.final else None
        return error if error and error.code in CUT_OFF else None


@dataclass(slots=True, kw_only=True, eq=False)
class LoggedStep:
    """A step and its tries, oldest first."""

    key: str
    kind: StepKind
    name: str
    args: Any
    tries: list[Try] = field(default_factory=list)

    @property
    def last(self) -> Try:
        """Return its last try."""
        return self.tries[-1]

    @property
    def seq(self) -> int:
        """Return the seq of its first try's beginning."""
        return self.tries[0].seq

    @property
    def raised(self) -> int:
        """Return how many of its tries raised and were to be repeated."""
        return sum(not (each.is_open or each.is_final or each.cut_off) for each in self.tries)


@dataclass(slots=True, kw_only=True, eq=False)
class LoggedWait:
    """A wait."""

    key: str  # its id
    kind: WaitKind
    parent: str  # the scope that waits
    prompt: Any = None
    call: str | None = None
    due_at: int | None = None
    seq: int = 0  # of its beginning; 0: begun by this attempt
    completion: AgentResumed | None = None
    completed_seq: int = 0  # 0: not known

    def ended(self) -> EventData:
        """Return the event that closes it without an answer."""
        return AgentResumed(wait=self.key, value=None, by="ended")


@dataclass(slots=True, kw_only=True, eq=False)
class LoggedSpan:
    """A sub-agent at work."""

    key: str  # its id, and its scope
    agent: str
    input: Any
    parent: str  # the scope that began it
    outer: str | None = None  # the sub-agent around it
    seq: int = 0  # of its beginning; 0: begun by this attempt
    completion: SubagentCompleted | SubagentFailed | None = None

    @property
    def scope(self) -> str:
        """Return the scope of what it says."""
        return self.key

    def failed(self, error: EventError) -> EventData:
        """Return the event that closes it for good."""
        return SubagentFailed(span=self.key, code=error.code, message=error.message)


Act = LoggedStep | LoggedWait | LoggedSpan  # what a scope begins
Opened = Try | LoggedWait | LoggedSpan  # what has a beginning and an end in the log


@dataclass(slots=True, eq=False)
class ScopeLog:
    """What stands of one scope, each in the order it began."""

    sayings: list[Saying] = field(default_factory=list)
    taken: list[tuple[int, int]] = field(default_factory=list)  # of what was taken back: its seq, and when
    begun: list[Act] = field(default_factory=list)
    branches: list[str] = field(default_factory=list)  # their scopes


class Journal:
    """What stands in a run's log. Feed it every event of the run in order, from the first."""

    def __init__(self, logged: Iterable[StoredEvent] = ()) -> None:
        self.scopes: dict[str, ScopeLog] = {}
        self.tries: dict[str, Try] = {}  # by their scope
        self.waits: dict[str, LoggedWait] = {}  # by id
        self.spans: dict[str, LoggedSpan] = {}  # by id, which is their scope
        self.open: dict[str, Opened] = {}  # what nothing has closed, by scope or id, in the order it began
        self.has_started = False
        self.is_ended = False
        self.last_seq = 0
        self._streams: dict[str, Saying] = {}  # by id of message or thinking stream
        self._steps: dict[str, LoggedStep] = {}  # by key
        for event in logged:
            self.add(event)

    # ── scopes ───────────────────────────────────────────────────────────────────────────────────────────

    def scope(self, key: str) -> ScopeLog:
        """Return what stands of a scope."""
        log = self.scopes.get(key)
        if log is None:
            log = self.scopes[key] = ScopeLog()
            outer = outer_of_branch(key)
            if outer is not None:
                self.scope(outer).branches.append(key)
        return log

    def outer(self, scope: str) -> str:
        """Return the scope around a scope that is not the run's."""
        outer = outer_of_branch(scope)
        if outer is not None:
            return outer
        return self.spans[scope].parent if scope in self.spans else self.tries[scope].parent

    def chain(self, scope: str) -> Iterator[str]:
        """Yield a scope and those around it, the run's last."""
        while scope != RUN:
            yield scope
            scope = self.outer(scope)
        yield RUN

    def span_of(self, scope: str) -> str | None:
        """Return the innermost sub-agent that a scope belongs to."""
        return next((each for each in self.chain(scope) if each in self.spans), None)

    def branches_of(self, scope: str) -> list[str]:
        """Return the branches of a scope and theirs, outer ones first."""
        return [each for branch in self.scope(scope).branches for each in (branch, *self.branches_of(branch))]

    def has_begun(self, scope: str) -> bool:
        """Return whether a step, wait or sub-agent began in a scope or in a branch of it."""
        return any(self.scope(each).begun for each in (scope, *self.branches_of(scope)))

    def unfinished(self, scope: str) -> Iterator[str]:
        """Yield the scopes inside a scope, outer ones first; not those of finished steps and sub-agents."""
        log = self.scope(scope)
        opened = [act.last if isinstance(act, LoggedStep) else act for act in log.begun]
        inner = [each.scope for each in opened if not isinstance(each, LoggedWait) and each.completion is None]
        for each in (*log.branches, *inner):
            yield each
            yield from self.unfinished(each)

    def open_inside(self, scope: str) -> list[Opened]:
        """Return what is open inside a scope, in the order it began."""
        return [each for each in self.open.values() if scope in self.chain(each.parent)]

    # ── what begins and ends ─────────────────────────────────────────────────────────────────────────────

    def begin_try(self, begun: Try) -> None:
        """Note a new try; its step is new too if it is the first."""
        if begun.number == 1:
            self._steps[begun.step.key] = begun.step
            self.scope(begun.parent).begun.append(begun.step)
        begun.step.tries.append(begun)
        self.tries[begun.scope] = self.open[begun.scope] = begun

    def begin(self, begun: LoggedWait | LoggedSpan) -> None:
        """Note a new wait or sub-agent."""
        self.scope(begun.parent).begun.append(begun)
        self.open[begun.key] = begun
        if isinstance(begun, LoggedWait):
            self.waits[begun.key] = begun
        else:
            self.spans[begun.key] = begun

    def close(self, opened: Opened, completion: Any) -> None:
        """Note how something ended."""
        opened.completion = completion
        del self.open[opened.scope if isinstance(opened, Try) else opened.key]

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────

    def add(self, event: StoredEvent) -> None:
        """Read the next event. Types that neither say nor do anything are skipped."""
        self.last_seq = event.seq
        owner = self.tries.get(owner_of(event.scope))
        if owner:
            owner.seen_at = event.ts
        reader = self._readers.get(event.type)
        if reader:
            reader(self, event, decode_data(event))
        elif event.type == EventType.AGENT_STARTED:
            self.has_started = True
        elif event.type in TERMINAL_TYPES:
            self.is_ended = True

    def _say(self, event: StoredEvent, saying: Saying) -> Saying:
        saying.seq = saying.last_seq = event.seq
        self.scope(event.scope).sayings.append(saying)
        return saying

    def _message_started(self, event: StoredEvent, data: MessageStarted) -> None:
        self._streams[data.message] = self._say(event, Saying(kind=Kind.MESSAGE, id=data.message))

    def _text_delta(self, event: StoredEvent, data: TextDelta) -> None:
        self._go_on(event, self._streams[data.message], data)

    def _go_on(self, event: StoredEvent, saying: Saying, data: TextDelta | ThinkingDelta) -> None:
        saying.put(data.offset, data.text)
        saying.last_seq = event.seq

    def _message_completed(self, event: StoredEvent, data: MessageCompleted) -> None:
        message = self._streams[data.message]
        # A short whole message has no deltas; a long one (whose content may be a `$ref`) has them all.
        if isinstance(data.content, str) and len(data.content) > message.length:
            message.put(0, data.content)
            message.last_seq = event.seq
        # A message that an unwinding closed was cut off, not ended by its author: it may still go on.
        message.is_ended = data.complete

    def _thinking_delta(self, event: StoredEvent, data: ThinkingDelta) -> None:
        if data.thinking not in self._streams:
            self._streams[data.thinking] = self._say(event, Saying(kind=Kind.STREAM, id=data.thinking))
        self._go_on(event, self._streams[data.thinking], data)

    def _agent_thinking(self, event: StoredEvent, data: AgentThinking) -> None:
        if data.thinking is None:
            self._say(event, Saying(kind=Kind.THOUGHT, words=data, is_ended=True))
        else:
            self._streams[data.thinking].is_ended = True

    def _custom(self, event: StoredEvent, data: Custom) -> None:
        self._say(event, Saying(kind=Kind.CUSTOM, words=data, is_ended=True))

    def _superseded(self, event: StoredEvent, data: Superseded) -> None:
        if data.reason == "try_closed" and event.scope in self.tries:
            self.tries[event.scope].is_closing = True
        ids, seqs = {*data.messages, *data.thinking}, set(data.events)
        for scope in self.scopes.values():
            scope.taken += [(each.seq, event.seq) for each in scope.sayings if each.id in ids or each.seq in seqs]
            scope.sayings[:] = [each for each in scope.sayings if each.id not in ids and each.seq not in seqs]

    def _tool_executing(self, event: StoredEvent, data: ToolExecuting) -> None:
        self._try(event, data, kind="tool", call=data.call, span=data.span)

    def _step_started(self, event: StoredEvent, data: StepStarted) -> None:
        self._try(event, data, kind="step", call="", span=None)

    def _try(
        self, event: StoredEvent, data: ToolExecuting | StepStarted, *, kind: StepKind, call: str, span: str | None
    ) -> None:
        step = self._steps.get(data.step) or LoggedStep(key=data.step, kind=kind, name=data.name, args=data.args)
        begun = Try(step=step, number=data.try_, call=call, parent=event.scope, span=span, seq=event.seq)
        begun.begun_at = begun.seen_at = event.ts
        self.begin_try(begun)

    def _try_completed(self, _event: StoredEvent, data: ToolCompleted | StepCompleted) -> None:
        self.close(self.tries[try_scope(data.step, data.try_)], data)

    def _agent_waiting(self, event: StoredEvent, data: AgentWaiting) -> None:
        self.begin(
            LoggedWait(
                key=data.wait,
                kind=data.kind,
                parent=event.scope,
                prompt=data.prompt,
                call=data.call,
                due_at=data.due_at,
                seq=event.seq,
            )
        )

    def _agent_resumed(self, event: StoredEvent, data: AgentResumed) -> None:
        self.close(self.waits[data.wait], data)
        self.waits[data.wait].completed_seq = event.seq

    def _subagent_started(self, event: StoredEvent, data: SubagentStarted) -> None:
        self.begin(
            LoggedSpan(
                key=data.span,
                agent=data.agent,
                input=data.input,
                parent=event.scope,
                outer=data.parent,
                seq=event.seq,
            )
        )

    def _subagent_ended(self, _event: StoredEvent, data: SubagentCompleted | SubagentFailed) -> None:
        self.close(self.spans[data.span], data)

    _readers: ClassVar[Mapping[str, Callable[[Journal, StoredEvent, Any], None]]] = {
        EventType.MESSAGE_STARTED: _message_started,
        EventType.TEXT_DELTA: _text_delta,
        EventType.MESSAGE_COMPLETED: _message_completed,
        EventType.THINKING_DELTA: _thinking_delta,
        EventType.AGENT_THINKING: _agent_thinking,
        EventType.CUSTOM: _custom,
        EventType.SUPERSEDED: _superseded,
        EventType.TOOL_EXECUTING: _tool_executing,
        EventType.TOOL_COMPLETED: _try_completed,
        EventType.STEP_STARTED: _step_started,
        EventType.STEP_COMPLETED: _try_completed,
        EventType.AGENT_WAITING: _agent_waiting,
        EventType.AGENT_RESUMED: _agent_resumed,
        EventType.SUBAGENT_STARTED: _subagent_started,
        EventType.SUBAGENT_COMPLETED: _subagent_ended,
        EventType.SUBAGENT_FAILED: _subagent_ended,
    }
