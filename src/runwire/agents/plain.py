"""The adapter for plain functions: `async def agent(ctx, message)` that returns a value or yields text."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from runwire.agents.streams import closing

if TYPE_CHECKING:
    from runwire.agents.context import Context

__all__ = ["Agent", "fault_of", "plain_agent"]

Agent = Callable[["Context", str], Awaitable[object]]
"""How every agent looks to the runtime, whatever framework it is written in: it says what it has to say on its
Context and returns its output, or None if what it wrote is its output."""


def plain_agent(fn: Callable[..., Any]) -> Agent:
    """Wrap an async function, or an async generator of text, as an agent."""

    async def run(ctx: Context, message: str) -> object:
        made = fn(ctx, message)
        if inspect.isawaitable(made):
            made = await made
        if not isinstance(made, AsyncIterator):
            return made
        async with closing(made) as texts:
            async for text in texts:
                await ctx.write(text)
        return None

    return run


def fault_of(fn: Any) -> str | None:
    """Return why this cannot be an agent, in words for its author; None if it can."""
    if isinstance(fn, type) or not callable(fn):
        return f"is a {type(fn).__name__}; write `async def agent(ctx, message): …`"
    target = fn if inspect.isroutine(fn) else getattr(fn, "__call__", fn)  # noqa: B004 - an object with an async __call__
    if not (inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target) or _is_wrapped(fn)):
        return "is not async; write `async def` instead of `def`"
    try:
        inspect.signature(fn).bind(None, "")
    except TypeError:
        return "must take two arguments: `async def agent(ctx, message): …`"
    except ValueError:  # no signature to be had, e.g. written in C
        return None
    return None


def _is_wrapped(fn: Callable[..., Any]) -> bool:
    inner = inspect.unwrap(fn)
    return inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)
