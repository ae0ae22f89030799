"""JSON shapes of HTTP answers and bodies that are no frames (PROTOCOL §3)."""

from __future__ import annotations

from typing import Any

import msgspec

from runwire.protocol.strict_json import Inbound
from runwire.storage.base import RunRow, RunStatus, ThreadRow

__all__ = [
    "Accepted",
    "NoBody",
    "RunShape",
    "ThreadBody",
    "ThreadPatch",
    "ThreadShape",
    "page",
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


def page(items: list[Any], *, next_cursor: str | int | None) -> dict[str, Any]:
    """Make one page of a list."""
    return {"items": items, "next_cursor": next_cursor}
