"""An agent that says when it speaks, and how long it waited for its own commits."""

import asyncio
import json
import time

from runwire.agents.context import Context


async def _nothing(number: int) -> int:
    return number


async def ticking(ctx: Context, message: str) -> dict[str, int]:
    """Say the time so often with so long a pause; before every tenth word a step is committed."""
    order = json.loads(message)
    for number in range(order["ticks"]):
        began_s = time.monotonic()
        if number % 10 == 0:
            await ctx.step("nothing", _nothing, number)
        now_s = time.monotonic()
        await ctx.custom("tick", {"at_s": now_s, "waited_s": now_s - began_s})
        await asyncio.sleep(order["pause_s"])
    return {"ticks": order["ticks"]}


agents = {"ticking": ticking}
