"""Agents of the mission-critical tests: each name shows one behaviour; marks go to the working folder."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from runwire.agents.context import Context


def _mark(name: str, text: str) -> None:
    with Path(name).open("a", encoding="utf-8") as file:
        file.write(text + "\n")


async def look_up(query: str) -> dict[str, str]:
    """Answer with what was asked, so that canaries travel the whole path."""
    await asyncio.sleep(0.01)
    return {"found": f"facts about {query}"}


async def golden(ctx: Context, message: str) -> AsyncIterator[str]:
    """Think, call one tool, stream an answer."""
    await ctx.thinking(f"thinking about {message}")
    found = await ctx.tool(look_up, query=message)
    for word in f"I found {found['found']}".split():
        yield word + " "
        await asyncio.sleep(0.005)


async def plain(ctx: Context, message: str) -> str:
    """Use no tools and return a string."""
    return f"echo {message}"


async def failing(ctx: Context, message: str) -> None:
    """Raise after a thought."""
    await ctx.thinking("this will go wrong")
    raise ValueError("the secret reason")


async def broken_tool() -> None:
    """Raise inside a tool."""
    raise RuntimeError("tool broke")


async def tool_fails(ctx: Context, message: str) -> str:
    """Let a tool raise and go on."""
    try:
        await ctx.tool(broken_tool)
    except Exception as error:
        return f"went on after {type(error).__name__}"
    return "never"


async def slow_tool(name: str, seconds: float) -> str:
    """Leave a mark that it ran to its end."""
    _mark(name, "begun")
    await asyncio.sleep(seconds)
    _mark(name, "ended")
    return "done"


async def steady(ctx: Context, message: str) -> AsyncIterator[str]:
    """Stream and leave a mark for each piece, until told to stop."""
    for n in range(2_000):
        _mark(f"steady-{ctx.run}", str(n))
        yield f"{n} "
        await asyncio.sleep(0.01)


async def journey(ctx: Context, message: str) -> AsyncIterator[str]:
    """Deterministic: 24 times a thought, a tool with a side effect and a message of 10 numbered pieces.

    The time is in the tools, whose results are recorded: so every life of a killed server gets further.
    """
    for part in range(24):
        await ctx.thinking(f"part {part} of {message}")
        await ctx.tool(slow_tool, name=f"journey-{ctx.run}-{part}", seconds=0.1)
        for n in range(10):
            yield f"[{part}.{n}]"
            await asyncio.sleep(0.002)


async def pausing(ctx: Context, message: str) -> AsyncIterator[str]:
    """Deterministic: 3 messages of 10 numbered pieces; stands still in the last one until the file `go on` is there."""
    for part in range(3):
        await ctx.thinking(f"part {part} of {message}")
        for n in range(10):
            if (part, n) == (2, 6):
                while not await asyncio.to_thread(Path("go on").exists):  # noqa: ASYNC110 - another process makes it
                    await asyncio.sleep(0.01)
            yield f"[{part}.{n}]"


async def is_over() -> bool:
    """Say whether the test has put the file `over` into the working folder."""
    await asyncio.sleep(0.4)
    return await asyncio.to_thread(Path("over").exists)


async def trip(ctx: Context, message: str) -> AsyncIterator[str]:
    """Deterministic: like `journey`, but it goes on until the test says that it is over."""
    part, over = 0, False
    while not over:
        await ctx.thinking(f"part {part} of {message}")
        over = await ctx.tool(is_over)
        for n in range(10):
            yield f"[{part}.{n}]"
            await asyncio.sleep(0.002)
        part += 1


async def flood(ctx: Context, message: str) -> None:
    """Stream much, fast: for readers that do not keep up."""
    for n in range(int(message)):
        await ctx.message(f"{n:06d} " + "x" * 4_000)
        if n % 20 == 0:
            await asyncio.sleep(0)


async def careful(ctx: Context, message: str) -> str:
    """Ask for approval, and say what the person said."""
    return "approved" if await ctx.approve(f"May I do this: {message}?") else "rejected"


agents = {
    "careful": careful,
    "golden": golden,
    "plain": plain,
    "failing": failing,
    "tool_fails": tool_fails,
    "steady": steady,
    "journey": journey,
    "pausing": pausing,
    "trip": trip,
    "flood": flood,
}
