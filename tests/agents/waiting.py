"""Agents that wait: for an approval, for words, for a time, inside a helper; and one that works the second time."""

import asyncio
from pathlib import Path
from typing import Any

from runwire.agents.context import Context


def _mark(name: str, text: str) -> bool:
    """Add a line to a file of the working folder; return whether it is the first one."""
    with Path(name).open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")
        return file.tell() == len(text.encode()) + 1


async def delete_files(path: str) -> str:
    """Leave a mark each time it is called."""
    _mark("deleted", path)
    await asyncio.sleep(0)
    return f"deleted {path}"


async def approves(ctx: Context, message: str) -> str:
    """Ask before it acts."""
    await ctx.thinking("This cannot be undone, so I ask first.")
    if not await ctx.approve(f"Delete everything in {message}?"):
        return "Nothing was deleted."
    return str(await ctx.tool(delete_files, path=message))


async def asks(ctx: Context, message: str) -> str:
    """Ask for words, for ten minutes."""
    return f"Going to {await ctx.ask('Which city?', timeout_s=600)}."


async def sleeps(ctx: Context, message: str) -> str:
    """Sleep so many seconds."""
    await ctx.sleep(float(message))
    return "Awake."


async def helper(ctx: Context, message: str) -> str:
    """Work for `delegates`: a tool, a message, an approval."""
    await ctx.thinking("helping")
    found = await ctx.tool(delete_files, path="tmp")
    await ctx.message(f"I have {found}.")
    return "helped" if await ctx.approve("May the helper go on?") else "stopped"


async def delegates(ctx: Context, message: str) -> Any:
    """Have a helper do it."""
    return {"the helper": await ctx.subagent(helper, message)}


async def three_times(ctx: Context, message: str) -> list[bool]:
    """Say a plan, then ask three times, and do one thing after each answer."""
    await ctx.message("The plan: one, two, three.")
    given = []
    for step in ("one", "two", "three"):
        given.append(await ctx.approve(f"Do {step}?"))
        await ctx.tool(delete_files, path=step)
    return given


async def fails_first(ctx: Context, message: str) -> str:
    """Fail once, then work."""
    if _mark("tries", message):
        raise ValueError("the secret reason")
    return "It worked this time."


agents = {each.__name__: each for each in (approves, asks, sleeps, delegates, three_times, fails_first)}
