"""Agents of `mission_critical/test_known_failures.py`: each does what once broke a system like this one."""

import asyncio
import datetime
import enum
import math
import time
from collections.abc import AsyncIterator

import pydantic

from runwire.agents.context import Context


class Colour(enum.Enum):
    RED = "red"


class Model(pydantic.BaseModel):
    name: str
    at: datetime.datetime


async def noted(n: int) -> int:
    """Answer with its number."""
    return n


async def offline(ctx: Context, message: str) -> AsyncIterator[str]:
    """Emit 1,200 events and more while nobody listens."""
    for n in range(1_200):
        await ctx.custom("mark", n)
        if n % 100 == 99:
            yield f"[{n}]"
            await asyncio.sleep(0.01)


async def mixed(ctx: Context, message: str) -> None:
    """Emit kinds that a careless server ranks, in turn; each names its place."""
    for n in range(0, 120, 4):
        await ctx.thinking(str(n))
        await ctx.custom("mark", n + 1)
        await ctx.tool(noted, n=n + 2)
        await ctx.message(str(n + 3))


async def hangs(ctx: Context, message: str) -> str:
    """Never end by itself."""
    await ctx.thinking("this takes for ever")
    await asyncio.Event().wait()
    return "never"


async def nothing(ctx: Context, message: str) -> None:
    """Return None and say nothing."""


async def blocks(ctx: Context, message: str) -> str:
    """Block the loop of agents, as a forgotten `time.sleep` does."""
    time.sleep(float(message))  # noqa: ASYNC251 - the fault itself
    return "done"


async def beats(ctx: Context, message: str) -> AsyncIterator[str]:
    """Stream for as long as it is let."""
    while True:
        yield "beat "
        await asyncio.sleep(0.05)


async def payloads(ctx: Context, message: str) -> str:
    """Emit what JSON does not know, and go on after each refusal."""
    at = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
    refused = []
    for name, value in (
        ("datetime", at),
        ("enum", Colour.RED),
        ("model", Model(name="ada", at=at)),
        ("bytes", b"\x00\xff"),
        ("NaN", math.nan),
        ("NUL", "a\0b"),
        ("surrogate", "\ud800"),
        ("object", object()),
        ("large", "x" * 1_048_576),
    ):
        try:
            await ctx.custom(name, value)
        except Exception as error:
            refused.append(name)
            await ctx.custom("refused", {"name": name, "error": type(error).__name__})
    return ",".join(refused)


async def unforgiving(ctx: Context, message: str) -> str:
    """Emit NaN and catch nothing."""
    await ctx.custom("before", 1)
    await ctx.custom("bad", math.nan)
    return "never"


async def plain(ctx: Context, message: str) -> str:
    """Return a string."""
    return f"echo {message}"


agents = {
    "beats": beats,
    "blocks": blocks,
    "hangs": hangs,
    "mixed": mixed,
    "nothing": nothing,
    "offline": offline,
    "payloads": payloads,
    "plain": plain,
    "unforgiving": unforgiving,
}
