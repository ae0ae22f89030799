"""Every event of PROTOCOL §2: its type, the shape of its data, and how a segment packs events.

An event's data is encoded to JSON once, where it is emitted, and carried as bytes
(`msgspec.Raw`) through outbox, log, bus, tail and socket.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final, Literal, Protocol

import msgspec

__all__ = [
    "CLIENT_TYPES",
    "DELTA_TYPES",
    "EVENT_DATA",
    "INTERNAL_TYPES",
    "TERMINAL_TYPES",
    "AgentCancelled",
    "AgentCompleted",
    "AgentFailed",
    "AgentResumed",
    "AgentRetrying",
    "AgentStarted",
    "AgentThinking",
    "AgentWaiting",
    "Custom",
    "EmittedEvent",
    "EventData",
    "EventError",
    "EventType",
    "HasData",
    "MessageCompleted",
    "MessageStarted",
    "StepCompleted",
    "StepStarted",
    "StoredEvent",
    "SubagentCompleted",
    "SubagentFailed",
    "SubagentStarted",
    "Superseded",
    "TextDelta",
    "ThinkingDelta",
    "ToolArgsDelta",
    "ToolCompleted",
    "ToolExecuting",
    "UserMessage",
    "View",
    "decode_data",
    "emitted",
    "pack",
    "pack_stored",
    "unpack",
    "view_has",
]

View = Literal["all", "lifecycle"]


class EventType(StrEnum):
    """The type of an event, exactly as on the wire."""

    USER_MESSAGE = "user_message"
    AGENT_STARTED = "agent_started"
    AGENT_THINKING = "agent_thinking"
    TOOL_EXECUTING = "tool_executing"
    TOOL_COMPLETED = "tool_completed"
    MESSAGE_STARTED = "message_started"
    MESSAGE_COMPLETED = "message_completed"
    AGENT_COMPLETED = "agent_completed"
    AGENT_FAILED = "agent_failed"
    AGENT_CANCELLED = "agent_cancelled"
    AGENT_WAITING = "agent_waiting"
    AGENT_RESUMED = "agent_resumed"
    AGENT_RETRYING = "agent_retrying"
    SUPERSEDED = "superseded"
    SUBAGENT_STARTED = "subagent_started"
    SUBAGENT_COMPLETED = "subagent_completed"
    SUBAGENT_FAILED = "subagent_failed"
    CUSTOM = "custom"
    TEXT_DELTA = "text_delta"
    THINKING_DELTA = "thinking_delta"
    TOOL_ARGS_DELTA = "tool_args_delta"
    STEP_STARTED = "step_started"
    STEP_COMPLETED = "step_completed"


TERMINAL_TYPES: Final = frozenset({EventType.AGENT_COMPLETED, EventType.AGENT_FAILED, EventType.AGENT_CANCELLED})
DELTA_TYPES: Final = frozenset({EventType.TEXT_DELTA, EventType.THINKING_DELTA, EventType.TOOL_ARGS_DELTA})
INTERNAL_TYPES: Final = frozenset({EventType.STEP_STARTED, EventType.STEP_COMPLETED})
CLIENT_TYPES: Final = frozenset(EventType) - INTERNAL_TYPES


def view_has(view: View, event_type: str) -> bool:
    """Return whether an event of this type is in the view; unknown types are, opaque."""
    if event_type in INTERNAL_TYPES:
        return False
    return view == "all" or event_type not in DELTA_TYPES


class EventData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The `data` of one type of event. Optional fields are left out when unset.

    Events hold JSON and therefore no cycle. The garbage collector is spared them (`gc=False`, here and below): to walk
    those that rings and buffers keep took two fifths of an event's way to a socket (measured).
    """


class EventError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a tool or a run failed, in words fit for the person who started it."""

    code: str
    message: str
    retry_after_s: float | None = None


class UserMessage(EventData, frozen=True):
    """A person's message; carries the run it starts, with attempt 0."""

    message: str
    content: Any  # str | [{"type": "text", "text": str}, …]
    metadata: dict[str, Any] | None = None
    retry_of: str | None = None  # the ended run whose message this is again


class AgentStarted(EventData, frozen=True):
    """A worker began the run; first and once."""

    agent: str
    message: str  # id of the user's message
    version: str | None = None


class AgentThinking(EventData, frozen=True):
    """A thought; with `thinking` it completes that stream of deltas."""

    text: Any = None
    thinking: str | None = None


class ToolExecuting(EventData, frozen=True):
    """A tool is about to be called; committed before the call."""

    call: str
    step: str
    try_: int = msgspec.field(name="try")
    name: str
    args: Any
    span: str | None = None


class ToolCompleted(EventData, frozen=True, omit_defaults=False):
    """A tool call ended; `final=False` closes a try that will be repeated or was cut off."""

    call: str
    step: str
    try_: int = msgspec.field(name="try")
    name: str
    ok: bool
    final: bool
    duration_ms: int
    result: Any = msgspec.UNSET
    error: EventError | msgspec.UnsetType = msgspec.UNSET
    span: str | msgspec.UnsetType = msgspec.UNSET


class MessageStarted(EventData, frozen=True, omit_defaults=False):
    """The agent opened a message."""

    message: str
    role: str = "assistant"
    span: str | msgspec.UnsetType = msgspec.UNSET


class TextDelta(EventData, frozen=True):
    """Apply as `text[:offset] + text`; offset counts Unicode code points."""

    message: str
    offset: int
    text: str


class MessageCompleted(EventData, frozen=True, omit_defaults=False):
    """The message's full content; `complete=False` if the run ended inside it."""

    message: str
    content: Any
    complete: bool = True


class ThinkingDelta(EventData, frozen=True):
    """A piece of a thought being streamed."""

    thinking: str
    offset: int
    text: str


class ToolArgsDelta(EventData, frozen=True):
    """A piece of a tool call's arguments being streamed by the model."""

    call: str
    offset: int
    text: str


class Custom(EventData, frozen=True, omit_defaults=False):
    """Whatever the agent's author wants to show."""

    name: str
    value: Any


class Superseded(EventData, frozen=True, omit_defaults=False):
    """The view drops what is named; history and output never contain it."""

    messages: list[str]
    thinking: list[str]
    events: list[int]
    reason: Literal["differs", "try_closed"]


class AgentCompleted(EventData, frozen=True, omit_defaults=False):
    """The run ended well."""

    output: Any
    duration_ms: int
    usage: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class AgentFailed(EventData, frozen=True):
    """The run ended badly, visibly."""

    code: str
    message: str
    error_id: str
    retryable: bool
    retry_after_s: float | None = None


class AgentCancelled(EventData, frozen=True):
    """The run was called off."""

    by: Literal["user", "operator", "policy", "revoked"]
    reason: str | None = None


class AgentWaiting(EventData, frozen=True):
    """The run waits for a person or a time."""

    wait: str
    kind: Literal["approval", "input", "timer"]
    prompt: Any = None
    call: str | None = None
    due_at: int | None = None  # ms, UTC


class AgentResumed(EventData, frozen=True, omit_defaults=False):
    """A wait ended; `by` is a user id, `timer` or `ended`."""

    wait: str
    value: Any
    by: str


class AgentRetrying(EventData, frozen=True):
    """A later attempt goes on with the run."""

    attempt: int
    reason: Literal["worker_lost", "drained", "deploy"]


class SubagentStarted(EventData, frozen=True):
    """A span of another agent inside the run."""

    span: str
    agent: str
    parent: str | None = None
    input: Any = None  # what it was given


class SubagentCompleted(EventData, frozen=True):
    """The span ended well."""

    span: str
    output: Any = None


class SubagentFailed(EventData, frozen=True):
    """The span ended badly."""

    span: str
    code: str
    message: str


class StepStarted(EventData, frozen=True):
    """Internal: a journalled step began."""

    step: str
    try_: int = msgspec.field(name="try")
    name: str
    args: Any = None


class StepCompleted(EventData, frozen=True, omit_defaults=False):
    """Internal: a journalled step ended."""

    step: str
    try_: int = msgspec.field(name="try")
    ok: bool
    final: bool
    duration_ms: int = 0
    result: Any = msgspec.UNSET
    error: EventError | msgspec.UnsetType = msgspec.UNSET


EVENT_DATA: Final[dict[EventType, type[EventData]]] = {
    EventType.USER_MESSAGE: UserMessage,
    EventType.AGENT_STARTED: AgentStarted,
    EventType.AGENT_THINKING: AgentThinking,
    EventType.TOOL_EXECUTING: ToolExecuting,
    EventType.TOOL_COMPLETED: ToolCompleted,
    EventType.MESSAGE_STARTED: MessageStarted,
    EventType.MESSAGE_COMPLETED: MessageCompleted,
    EventType.AGENT_COMPLETED: AgentCompleted,
    EventType.AGENT_FAILED: AgentFailed,
    EventType.AGENT_CANCELLED: AgentCancelled,
    EventType.AGENT_WAITING: AgentWaiting,
    EventType.AGENT_RESUMED: AgentResumed,
    EventType.AGENT_RETRYING: AgentRetrying,
    EventType.SUPERSEDED: Superseded,
    EventType.SUBAGENT_STARTED: SubagentStarted,
    EventType.SUBAGENT_COMPLETED: SubagentCompleted,
    EventType.SUBAGENT_FAILED: SubagentFailed,
    EventType.CUSTOM: Custom,
    EventType.TEXT_DELTA: TextDelta,
    EventType.THINKING_DELTA: ThinkingDelta,
    EventType.TOOL_ARGS_DELTA: ToolArgsDelta,
    EventType.STEP_STARTED: StepStarted,
    EventType.STEP_COMPLETED: StepCompleted,
}

_TYPE_OF: Final[dict[type[EventData], EventType]] = {data: kind for kind, data in EVENT_DATA.items()}
_DECODERS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    str(kind): msgspec.json.Decoder(data) for kind, data in EVENT_DATA.items()
}


class EmittedEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event that has no seq yet: what a run emits and an append takes."""

    type: EventType
    ts: int  # ms since 1970, UTC; for people, never for order
    data: msgspec.Raw  # the encoded JSON object
    scope: str = ""  # who said it: "" the run, else `<step>/<try>`; for replay only, never on the wire


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event as the log has it."""

    seq: int
    run: str
    attempt: int
    type: str
    ts: int
    data: msgspec.Raw
    scope: str = ""


class _Packed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One event of a segment: `[offset from first_seq, type, ts, data, scope]`."""

    at: int
    type: str
    ts: int
    data: msgspec.Raw
    scope: str


_encode: Final = msgspec.json.Encoder().encode
_packed_decoder: Final = msgspec.json.Decoder(list[_Packed])


def emitted(data: EventData, *, ts: int, scope: str = "") -> EmittedEvent:
    """Encode an event's data.

    Raises:
        TypeError, msgspec.EncodeError: a value that is not JSON; agent code is guarded in `agents.payload`.
    """
    return EmittedEvent(type=_TYPE_OF[type(data)], ts=ts, data=msgspec.Raw(_encode(data)), scope=scope)


class HasData(Protocol):
    """An event in any of its forms: new, stored, or as a frame."""

    @property
    def type(self) -> str:
        """Its type, as on the wire."""
        ...

    @property
    def data(self) -> msgspec.Raw:
        """Its data, encoded."""
        ...


def decode_data(event: HasData) -> Any:
    """Decode an event's data into its struct; of an unknown type into plain JSON."""
    decoder = _DECODERS.get(event.type)
    return decoder.decode(event.data) if decoder else msgspec.json.decode(event.data)


def pack(events: Sequence[EmittedEvent]) -> bytes:
    """Pack a segment's events; the k-th gets offset k."""
    return _encode([(at, e.type, e.ts, e.data, e.scope) for at, e in enumerate(events)])  # as `_Packed`


def pack_stored(events: Iterable[StoredEvent], *, first_seq: int) -> bytes:
    """Pack events that have their seqs, so that `unpack` gives them back with the same first seq."""
    return _encode([(e.seq - first_seq, e.type, e.ts, e.data, e.scope) for e in events])


def unpack(packed: bytes, *, first_seq: int, run: str, attempt: int) -> Iterable[StoredEvent]:
    """Yield a segment's events in order; offsets left out by compaction are skipped."""
    for entry in _packed_decoder.decode(packed):
        yield StoredEvent(
            seq=first_seq + entry.at,
            run=run,
            attempt=attempt,
            type=entry.type,
            ts=entry.ts,
            data=entry.data,
            scope=entry.scope,
        )
