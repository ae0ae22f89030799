"""Agents whose traces are looked at: a tool, a model, an agent below, and a tool that waits to be killed."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from runwire import Context, ToolFailed


async def look_up(query: str) -> str:
    return f"result-canary of {query}"


async def breaks(query: str) -> str:
    raise RuntimeError(f"error-canary of {query}")


async def ask(prompt: str) -> str:
    return f"answer-canary to {prompt}"


async def waits(query: str) -> str:
    """Wait until the test says otherwise."""
    while not Path("over").exists():  # noqa: ASYNC110, ASYNC240 - another process says so
        await asyncio.sleep(0.02)
    return query


async def helper(ctx: Context, message: str) -> str:
    return str(await ctx.tool(look_up, query=message))


async def whole(ctx: Context, message: str) -> str:
    """Do one of each."""
    await ctx.tool(look_up, query=message)
    with contextlib.suppress(ToolFailed):
        await ctx.tool(breaks, query=message)

    async def asked(prompt: str) -> str:
        await ctx.usage(input_tokens=7, output_tokens=5)
        return await ask(prompt)

    answer = await ctx.step("model", asked, message, breaker="openai/gpt-test")
    await ctx.usage(input_tokens=1, output_tokens=1)
    both = await ctx.gather(ctx.subagent(helper, message), ctx.step("note", ask, message))
    return f"{answer} {both}"


async def killed(ctx: Context, message: str) -> str:
    """Finish a tool, then wait in another one."""
    found = await ctx.tool(look_up, query=message)
    return f"{found} {await ctx.tool(waits, query=message)}"


async def quick(_ctx: Context, message: str) -> str:
    return message


agents = {"whole": whole, "killed": killed, "quick": quick}
