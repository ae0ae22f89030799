"""An agent: it thinks, calls a tool, and streams its answer. Start it with `runwire dev examples/agent.py`."""

import asyncio


async def count_words(text: str) -> int:
    return len(text.split())


async def agent(ctx, message):
    await ctx.thinking("I count before I speak.")
    words = await ctx.tool(count_words, text=message)
    for word in f"Hello {ctx.user.name}, your message has {words} words.".split(" "):
        yield word + " "
        await asyncio.sleep(0.05)
