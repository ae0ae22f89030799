"""An agent whose run is long enough to happen a lot to: deterministic, about six seconds, mostly in tools."""

import asyncio
from collections.abc import AsyncIterator

from runwire.agents.context import Context


async def sail(part: int) -> dict[str, int]:
    """Take a while."""
    await asyncio.sleep(0.15)
    return {"reached": part}


async def voyage(ctx: Context, message: str) -> AsyncIterator[str]:
    """Say 24 times a thought, call a tool and stream a message of 10 numbered pieces."""
    for part in range(24):
        await ctx.thinking(f"part {part} of {message}")
        await ctx.tool(sail, part=part)
        for n in range(10):
            yield f"[{part}.{n}]"
            await asyncio.sleep(0.01)
