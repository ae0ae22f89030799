"""What a person sees of a thread: messages, and runs with their steps, waits and thoughts.

These records change in place while events arrive (`view.ThreadView`); readers keep none of their fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Message", "Opaque", "Run", "Span", "Step", "Text", "Thought", "Wait"]


class Text:
    """A text that grows by deltas; the pieces are joined only when somebody looks."""

    __slots__ = ("_pieces", "is_cut_off", "length")

    def __init__(self, text: str = "") -> None:
        self._pieces = [text]
        self.length = len(text)  # code points
        self.is_cut_off = False  # something in it will not come: it stays as it is until it is complete

    def put(self, offset: int, text: str) -> bool:
        """Apply a delta as `text[:offset] + text`; return False if the offset is beyond the end."""
        if self.is_cut_off:
            return True
        if offset > self.length:
            return False
        if offset < self.length:
            self._pieces = [str(self)[:offset]]
        self._pieces.append(text)
        self.length = offset + len(text)
        return True

    def __str__(self) -> str:
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0]


class _Streamed:
    """A value that is a text while it is streamed, and the full value once it is complete."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def _read(self) -> Any:
        return str(self._value) if isinstance(self._value, Text) else self._value

    def put(self, offset: int, text: str) -> bool | None:
        """Apply a delta; False: it does not fit, None: this is no stream that began here."""
        return self._value.put(offset, text) if isinstance(self._value, Text) else None

    def cut_off(self) -> None:
        """Take no more deltas: one of them will not come."""
        if isinstance(self._value, Text):
            self._value.is_cut_off = True


class Message(_Streamed):
    """One message of a person or an agent."""

    __slots__ = ("complete", "id", "role", "run", "seq", "span")

    def __init__(
        self,
        *,
        id: str,
        role: str,
        content: Any,  # str; list of parts; a `$ref` object; `Text` while it is streamed
        run: str,
        seq: int,
        complete: bool,
        span: str | None = None,
    ) -> None:
        super().__init__(content)
        self.id = id
        self.role = role  # "user" | "assistant"
        self.run = run
        self.seq = seq  # of the event that began it, or else of the first one seen
        self.complete = complete  # False: open, or its run ended inside it
        self.span = span  # the sub-agent that speaks

    @property
    def content(self) -> Any:
        """Return the text as it stands, the parts a person sent, or a `$ref` object."""
        return self._read()

    def complete_with(self, content: Any, *, complete: bool) -> None:
        """Replace what was streamed by the full content."""
        self._value = content
        self.complete = complete

    def to_json(self) -> dict[str, Any]:
        """Return its shape in `GET /v1/threads/{id}`; `span` only in what a sub-agent said."""
        shape = {
            "message": self.id,
            "role": self.role,
            "content": self.content,
            "run": self.run,
            "seq": self.seq,
            "complete": self.complete,
        }
        return shape | {"span": self.span} if self.span else shape


class Thought(_Streamed):
    """Something an agent thought: whole, or streamed under an id."""

    __slots__ = ("complete", "id", "seq")

    def __init__(self, *, id: str | None, seq: int, text: Any, complete: bool) -> None:
        super().__init__(text)
        self.id = id
        self.seq = seq  # of its first event seen
        self.complete = complete

    @property
    def text(self) -> Any:
        """Return the text as it stands."""
        return self._read()

    def complete_with(self, text: Any) -> None:
        """Replace what was streamed by the full text."""
        self._value = text
        self.complete = True


@dataclass(slots=True, kw_only=True)
class Step:
    """One tool call: one try of a step."""

    call: str
    name: str
    args: Any
    seq: int  # of its tool_executing, or else of the first event seen
    ok: bool | None = None  # None: it is under way
    result: Any = None
    error: dict[str, Any] | None = None  # {"code", "message"}
    final: bool | None = None  # False: the try was cut off or will be repeated
    duration_ms: int | None = None
    span: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return its shape in `GET /v1/threads/{id}`."""
        return {
            "call": self.call,
            "name": self.name,
            "args": self.args,
            "ok": self.ok,
            "result": self.result,
            "error": self.error,
        }


@dataclass(slots=True, kw_only=True)
class Wait:
    """What a run waits for; `by` says who ended it."""

    wait: str
    kind: str | None  # "approval" | "input" | "timer"; None: not seen to begin
    prompt: Any = None
    call: str | None = None
    due_at: int | None = None  # ms, UTC
    value: Any = None
    by: str | None = None  # None: still open

    def to_json(self) -> dict[str, Any]:
        """Return its shape in `GET /v1/threads/{id}`."""
        return {
            "wait": self.wait,
            "kind": self.kind,
            "prompt": self.prompt,
            "call": self.call,
            "due_at": self.due_at,
            "value": self.value,
            "by": self.by,
        }


@dataclass(slots=True, kw_only=True)
class Span:
    """A sub-agent at work inside a run."""

    span: str
    agent: str | None  # None: not seen to begin
    parent: str | None = None
    ok: bool | None = None  # None: at work
    output: Any = None
    error: dict[str, Any] | None = None


@dataclass(slots=True, kw_only=True)
class Opaque:
    """An event that only its author understands: `custom`, or of a type this version does not know."""

    seq: int
    type: str
    name: str | None  # of a custom event
    value: Any  # of a custom event, else the data


@dataclass(slots=True, kw_only=True)
class Run:
    """One execution of an agent, as its events told it."""

    id: str
    agent: str | None = None  # None: no worker has begun it
    status: str = "queued"
    attempt: int = 0
    error: dict[str, Any] | None = None  # of a failed run: code, message, error_id, retryable, retry_after_s?
    output: Any = None  # of a completed run
    usage: dict[str, Any] | None = None
    duration_ms: int | None = None
    cancelled: dict[str, Any] | None = None  # {"by", "reason"?}
    steps: dict[str, Step] = field(default_factory=dict)  # by call
    waits: dict[str, Wait] = field(default_factory=dict)  # by wait
    thinking: dict[str | int, Thought] = field(default_factory=dict)  # by stream, or by seq of a whole thought
    spans: dict[str, Span] = field(default_factory=dict)  # by span
    opaque: dict[int, Opaque] = field(default_factory=dict)  # by seq
    args: dict[str, Text] = field(default_factory=dict)  # arguments being streamed, by call

    @property
    def status_at_work(self) -> str:
        """Return the status of a run that has not ended: somebody or some time is waited for, or nothing is."""
        return "waiting" if any(wait.by is None for wait in self.waits.values()) else "running"

    @property
    def is_ended(self) -> bool:
        """Return whether its terminal event was seen."""
        return self.status in ("completed", "failed", "cancelled")

    def to_json(self) -> dict[str, Any]:
        """Return its shape in `GET /v1/threads/{id}`."""
        return {
            "run": self.id,
            "agent": self.agent,
            "status": self.status,
            "attempt": self.attempt,
            "error": self.error,
            "steps": [step.to_json() for step in self.steps.values()],
            "waits": [wait.to_json() for wait in self.waits.values()],
        }
