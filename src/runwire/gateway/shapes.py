"""JSON shapes of HTTP answers and bodies that are no frames (PROTOCOL §3)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from runwire.protocol.shown import Run
from runwire.protocol.strict_json import Inbound
from runwire.storage.base import RunRow, RunStatus, ThreadRow, WaitKind

__all__ = [
    "Accepted",
    "AgentPage",
    "BreakerPage",
    "BreakerShape",
    "Events",
    "Me",
    "MessagePage",
    "NoBody",
    "RunDetail",
    "RunPage",
    "RunShape",
    "Snapshot",
    "ThreadBody",
    "ThreadPage",
    "ThreadPatch",
    "ThreadShape",
    "Ticket",
    "page",
    "run_detail",
    "run_shape",
    "thread_shape",
]


class NoBody(Inbound, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body that says nothing: empty, or `{}`."""


class ThreadBody(Inbound, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/threads`."""

    title: str | None = None


class ThreadPatch(Inbound, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`PATCH /v1/threads/{id}`: null erases, what is absent stays."""

    title: str | msgspec.UnsetType | None = msgspec.UNSET


class ThreadShape(msgspec.Struct, frozen=True, kw_only=True):
    """A thread in a list."""

    thread: str
    title: str | None
    log: str
    seq: int  # of its last event
    created_at: int
    updated_at: int


class RunShape(msgspec.Struct, frozen=True, kw_only=True):
    """A run."""

    run: str
    thread: str
    agent: str
    status: RunStatus
    attempt: int
    message: str
    seq: int  # of its user_message
    started_seq: int | None
    terminal_seq: int | None
    error: dict[str, Any] | None
    created_at: int
    ended_at: int | None


class ThreadPage(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/threads`."""

    items: list[ThreadShape]
    next_cursor: str | None


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/runs`."""

    items: list[RunShape]
    next_cursor: str | None


class MessageShape(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a thread."""

    message: str
    role: str
    content: Any  # text, parts, or a reference to a blob
    run: str
    seq: int  # of its first event
    complete: bool
    span: str | msgspec.UnsetType = msgspec.UNSET  # the sub-agent that said it


class MessagePage(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/threads/{id}/messages`."""

    items: list[MessageShape]
    next_cursor: int | None  # `before` of the next request


class ShownStep(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call of a run in a snapshot."""

    call: str
    name: str | None
    args: Any
    ok: bool | None  # null: it runs
    result: Any
    error: dict[str, Any] | None


class ShownWait(msgspec.Struct, frozen=True, kw_only=True):
    """What a run waits for, or waited for."""

    wait: str
    kind: WaitKind | None  # null: its beginning is no longer kept
    prompt: Any
    call: str | None
    due_at: int | None  # ms, UTC
    value: Any  # the answer
    by: str | None  # a user's id, "timer" or "ended"; null: it is open


class ShownSpan(msgspec.Struct, frozen=True, kw_only=True):
    """A sub-agent of a run."""

    span: str
    parent: str | None
    agent: str | None  # null: its beginning is no longer kept
    ok: bool | None  # null: at work
    output: Any
    error: dict[str, Any] | None


class ShownRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a snapshot."""

    run: str
    agent: str | None
    status: RunStatus
    attempt: int
    error: dict[str, Any] | None
    steps: list[ShownStep]
    waits: list[ShownWait]


class RunDetail(RunShape, frozen=True, kw_only=True):
    """`GET /v1/runs/{id}`."""

    steps: list[ShownStep]
    waits: list[ShownWait]
    spans: list[ShownSpan]
    output: Any  # of a completed run


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/threads/{id}`."""

    thread: str
    title: str | None
    log: str
    seq: int  # what is shown is exact at it
    messages: list[MessageShape]
    runs: list[ShownRun]


class Events(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`GET /v1/threads/{id}/events` as JSON: events, or a reset."""

    thread: str | None = None
    log: str | None = None
    after: int | None = None
    through: int | None = None
    events: list[dict[str, Any]] = []
    reset: dict[str, Any] | None = None


class AgentShape(msgspec.Struct, frozen=True, kw_only=True):
    """An agent that may be asked."""

    agent: str
    default: bool


class AgentPage(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/agents`."""

    items: list[AgentShape]
    next_cursor: None


class BreakerShape(msgspec.Struct, frozen=True, kw_only=True):
    """A circuit breaker of the process that answers."""

    kind: Literal["agent", "model", "tool", "auth", "bus", "webhook"]
    name: str
    state: Literal["closed", "open", "half_open", "forced_open", "disabled"]
    generation: int  # how often it has changed
    retry_after_s: float  # 0: it lets calls through
    calls: int  # in its window
    failures: int
    slow: int


class BreakerPage(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /admin/v1/breakers`."""

    items: list[BreakerShape]
    next_cursor: None


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/me`."""

    user: str
    name: str
    roles: list[str]
    session: str | None  # null: the credential is an API key


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/ws-ticket`."""

    ticket: str
    expires_in: int  # s


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/threads/{id}/messages`: 202."""

    thread: str
    log: str
    run: str
    message: str
    seq: int


def thread_shape(row: ThreadRow, *, log: str) -> ThreadShape:
    """Show a thread."""
    return ThreadShape(
        thread=row.thread,
        title=row.title,
        log=log,
        seq=row.head,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def run_shape(row: RunRow) -> RunShape:
    """Show a run."""
    return RunShape(
        run=row.run,
        thread=row.thread,
        agent=row.agent,
        status=row.status,
        attempt=row.attempt,
        message=row.message,
        seq=row.seq,
        started_seq=row.started_seq,
        terminal_seq=row.terminal_seq,
        error=row.error,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


def run_detail(row: RunRow, shown: Run) -> RunDetail:
    """Show a run with what its events tell."""
    told = msgspec.structs.asdict(run_shape(row)) | {
        # A run that is held waits as well as one that was put aside; one that was answered works, claimed or not.
        "status": shown.status if row.status in ("running", "waiting") and not shown.is_ended else row.status,
        "steps": [msgspec.convert(step.to_json(), ShownStep) for step in shown.steps.values()],
        "waits": [msgspec.convert(wait.to_json(), ShownWait) for wait in shown.waits.values()],
        "spans": [msgspec.convert(span, ShownSpan, from_attributes=True) for span in shown.spans.values()],
        "output": shown.output,
    }
    return RunDetail(**told)


def page(items: list[Any], *, next_cursor: str | int | None) -> dict[str, Any]:
    """Make one page of a list."""
    return {"items": items, "next_cursor": next_cursor}
