"""R: the agent that Runwire serves. It does what the baselines do inside their servers."""

from __future__ import annotations

import asyncio
import time

from bench.servers.shape import FILL, TOKEN, read_work
from runwire.agents.context import Context

__all__ = ["agents"]


async def _bench(ctx: Context, message: str) -> dict[str, int] | None:
    work = read_work(message)
    await asyncio.sleep(work.first_pause_s)
    for _ in range(work.events):
        if work.kind == "text":
            await ctx.write(TOKEN)
        else:
            await ctx.custom("bench", FILL if work.kind == "custom" else time.monotonic_ns())
        await asyncio.sleep(work.pause_s)
    return None if work.kind == "text" else {"said": work.events}


agents = {"bench": _bench}
