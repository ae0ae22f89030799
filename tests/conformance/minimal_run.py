"""Threads, runs and agents of the minimal server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Frame = dict[str, Any]
Emit = Callable[[str, Frame], Awaitable[None]]
Agent = Callable[[str, Emit], Awaitable[Any]]

TERMINAL = {"agent_completed", "agent_failed", "agent_cancelled"}
DELTAS = {"text_delta", "thinking_delta", "tool_args_delta"}


class Failed(Exception):
    """A run ends as agent_failed."""

    def __init__(self, code: str, **more: Any) -> None:
        super().__init__(code)
        self.data = {"code": code, "message": "it failed", "error_id": fresh("err"), "retryable": True, **more}


def fresh(prefix: str) -> str:
    """Return a new id."""
    return f"{prefix}_{secrets.token_hex(12)}"


def now_ms() -> int:
    """Return the time as the wire has it."""
    return int(datetime.now(tz=UTC).timestamp() * 1000)


async def with_tool(content: str, emit: Emit) -> str:
    """Think, count the letters with a tool, answer in a few pieces."""
    await emit("agent_thinking", {"text": f"How long is {len(content.split())} words?"})
    call = {"call": fresh("call"), "step": "count:1", "try": 1, "name": "count"}
    await emit("tool_executing", {**call, "args": {"text": content}})
    await emit("tool_completed", {**call, "ok": True, "final": True, "result": len(content), "duration_ms": 1})
    return await say(f"That is {len(content)} letters: {content[:99]}", emit)


async def without_tools(content: str, emit: Emit) -> str:
    """Answer at once."""
    return await say(f"You said: {content}", emit)


async def say(text: str, emit: Emit) -> str:
    """Stream a message in pieces of eight code points."""
    message = fresh("msg")
    await emit("message_started", {"message": message, "role": "assistant"})
    for offset in range(0, len(text), 8):
        await emit("text_delta", {"message": message, "offset": offset, "text": text[offset : offset + 8]})
    await emit("message_completed", {"message": message, "content": text, "complete": True})
    return text


@dataclass
class Run:
    """One execution of the agent."""

    run: str
    thread: Thread
    user: str
    content: str
    message: str
    agent: str | None = None
    status: str = "queued"
    attempt: int = 1
    task: asyncio.Task[None] | None = None
    waits: list[Frame] = field(default_factory=list)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    by: str = "user"  # who called it off
    is_called_off: bool = False
    has_begun: bool = False  # its task: one that is cancelled before never runs

    @property
    def is_over(self) -> bool:
        """Return whether it has ended."""
        return self.status not in ("queued", "running")


@dataclass
class Thread:
    """A thread's log; the k-th event has seq k + 1."""

    thread: str
    user: str
    log: str
    events: list[Frame] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def head(self) -> int:
        """Return the last seq."""
        return len(self.events)

    def wake(self) -> None:
        """Let everybody who waits for events look again."""
        self.changed.set()
        self.changed = asyncio.Event()
