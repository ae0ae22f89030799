"""An agent: it thinks, calls a tool, and streams its answer. Start it with `runwire dev examples/agent.py`."""

import asyncio


async def count_words(text: str) -> int:
    await asyncio.sleep(0.5)  # pretend that it is hard
    return len(text.split())


async def agent(ctx, message):
    await ctx.thinking("I count before I speak.")
    words = await ctx.tool(count_words, text=message)
    answer = (
        f"Hello {ctx.user.name}, your message has {words} words. I say them slowly, so that there is time "
        f"to pull the plug in the middle: {message} And those were all {words} of them, each one once."
    )
    for word in answer.split():
        yield word + " "
        await asyncio.sleep(0.4)  # some 15 seconds for the whole answer, more for a longer message
