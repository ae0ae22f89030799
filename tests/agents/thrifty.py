"""Agents of the tests of limits: one reports what it used, one holds memory, one takes its time, one answers."""

import asyncio
from pathlib import Path

from runwire.agents.context import Context


async def plain(_ctx: Context, message: str) -> str:
    """Answer at once."""
    return message


async def spend(ctx: Context, message: str) -> str:
    """Use so many tokens; then stop, or go on for a long time: `600`, `600 more`."""
    tokens, _, rest = message.partition(" ")
    await ctx.usage(input_tokens=int(tokens))
    if rest:
        await asyncio.sleep(60)
    return tokens


async def hold(_ctx: Context, message: str) -> str:
    """Hold so many megabytes until there is the file `let-go`."""
    held = bytearray(b"x" * (int(message) << 20))
    while not Path("let-go").exists():  # noqa: ASYNC240, ASYNC110  # a test's word, from another process
        await asyncio.sleep(0.02)
    size = len(held)
    del held
    return str(size)


async def slow(_ctx: Context, message: str) -> str:
    """Take a while, as a model does."""
    await asyncio.sleep(0.1)
    return message


agents = {each.__name__: each for each in (plain, spend, hold, slow)}
