"""Agents of a deployment of many processes: they say who runs them, and go on until they are told."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from runwire.agents.context import Context


async def look_up(query: str) -> dict[str, str]:
    """Say who found it."""
    return {"found": f"all about {query}", "by": str(os.getpid())}


async def golden(ctx: Context, message: str) -> AsyncIterator[str]:
    """Think, call one tool, stream an answer."""
    await ctx.thinking(f"thinking about {message}")
    found = await ctx.tool(look_up, query=message)
    for word in f"I found {found['found']}".split():
        yield word + " "
        await asyncio.sleep(0.005)


def _note(run: str) -> bool:
    with Path(f"walked-{run}").open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    return Path("over").exists()


async def one_more(run: str, pause_s: float = 0.05) -> bool:
    """Leave a mark, and say whether it is over."""
    await asyncio.sleep(pause_s)
    return await asyncio.to_thread(_note, run)


async def walk(ctx: Context, message: str) -> AsyncIterator[str]:
    """Deterministic: say numbers, a step before each, until the file `over` is there."""
    n, is_over = 0, False
    while not is_over:
        is_over = await ctx.tool(one_more, run=ctx.run)
        yield f"[{n}]"
        n += 1


async def stroll(ctx: Context, message: str) -> AsyncIterator[str]:
    """Walk at a pace at which hundreds can watch."""
    n, is_over = 0, False
    while not is_over:
        is_over = await ctx.tool(one_more, run=ctx.run, pause_s=1.0)
        yield f"[{n}]"
        n += 1


async def asks(ctx: Context, message: str) -> str:
    """Wait for somebody's word."""
    return "yes" if await ctx.approve(f"{message}?") else "no"


agents = {"golden": golden, "walk": walk, "stroll": stroll, "asks": asks}
