"""Agents that a check can ask, each with one behaviour: `runwire serve --with-conformance-agents` offers them.

They are agents as people write them: plain functions of a context and a message that know nothing of the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

__all__ = ["SECRET", "agents"]

SECRET: Final = "the-words-of-an-exception-are-nobodys-business"  # noqa: S105 - no password
_PIECE: Final = "0123456789abcdef" * 128  # 2 KiB
_MOST_EVENTS, _MOST_TOOLS, _MOST_GAP_MS = 10_000, 100, 60_000.0
_LONG_S: Final = 15.0  # nobody waits longer for a check of a deadline


async def count(text: str) -> int:
    """Count the characters of a text."""
    return len(text)


async def check_plain(ctx: Any, message: str) -> str:
    """Use no tools."""
    return f"You said: {message}"


async def check_tool(ctx: Any, message: str) -> AsyncIterator[str]:
    """Think, use a tool, answer in pieces."""
    await ctx.thinking(f"How long is {message!r}?")
    length = await ctx.tool(count, text=message)
    for word in f"That is {length} characters.".split():
        yield f"{word} "


async def check_slow(ctx: Any, message: str) -> AsyncIterator[str]:
    """Say a word each 50 ms, for a minute."""
    for number in range(1_200):
        yield f"{number} "
        await asyncio.sleep(0.05)


async def rest(number: int) -> int:
    """Take a moment."""
    await asyncio.sleep(0.4)
    return number


async def check_steps(ctx: Any, message: str) -> AsyncIterator[str]:
    """Work for some seconds in steps that are recorded, and say each: what a crash can interrupt."""
    for number in range(6):
        yield f"{await ctx.tool(rest, number=number)} "


async def check_fails(ctx: Any, message: str) -> str:
    """Raise, after a thought."""
    await ctx.thinking("This will go wrong.")
    raise RuntimeError(SECRET)


async def check_deadline(ctx: Any, message: str) -> str:
    """Go on for longer than the deadline, if that is short."""
    left_s = float(ctx.deadline)
    if left_s > _LONG_S:
        await ctx.custom("deadline_s", left_s)
        return "The deadline is too long."
    await asyncio.sleep(left_s + _LONG_S)
    return "The deadline did not come."


async def check_flood(ctx: Any, message: str) -> str:
    """Say four megabytes."""
    for _ in range(2_000):
        await ctx.message(_PIECE)
    return "That was all."


async def check_asks(ctx: Any, message: str) -> str:
    """Ask for words and say them."""
    return f"You answered: {await ctx.ask('What shall I say?', timeout_s=120)}"


async def fail(word: str) -> str:
    """Fail as a provider does that is away."""
    raise ConnectionError("the provider is away")


async def work(word: str) -> str:
    """Answer as a provider does."""
    return word


_PROVIDER: Final[dict[str, Callable[[str], Awaitable[str]]]] = {"fail": fail, "work": work}


async def check_provider(ctx: Any, message: str) -> str:
    """Ask a provider: `fail NAME` and `work NAME` say how it is; each name is one of its own."""
    how, _, name = message.partition(" ")
    return str(await ctx.step("provider", _PROVIDER[how], name, breaker=f"check/{name[:32]}"))


async def check_load(ctx: Any, message: str) -> AsyncIterator[str]:
    """Be as long as asked, for `runwire bench`: `TAG EVENTS TOOLS GAP_MS`; says as many pieces, then the tag."""
    tag, events, tools, gap_ms = message.split(" ")
    for _ in range(min(int(tools), _MOST_TOOLS)):
        await ctx.tool(count, text=tag)
    for number in range(min(int(events), _MOST_EVENTS)):
        if float(gap_ms) > 0:
            await asyncio.sleep(min(float(gap_ms), _MOST_GAP_MS) / 1000)
        yield f"{number} "
    yield tag


agents: Final[dict[str, Callable[[Any, str], Any]]] = {
    each.__name__: each
    for each in (
        check_plain,
        check_tool,
        check_slow,
        check_steps,
        check_fails,
        check_deadline,
        check_flood,
        check_asks,
        check_provider,
        check_load,
    )
}
