"""Agents that ask a provider over HTTP, which their test lets fail. Its address is in the file `provider`."""

from __future__ import annotations

from pathlib import Path

import httpx2

from runwire import CircuitOpen, Context, tool


async def ask(model: str, text: str) -> str:
    """Ask a model; who waits for its answer does so for ten seconds at most."""
    url = Path("provider").read_text(encoding="utf-8")  # noqa: ASYNC240 - one line
    async with httpx2.AsyncClient(timeout=10.0) as http:
        response = await http.post(f"{url}/{model}", content=text.encode())
        response.raise_for_status()
        return response.text


async def small(ctx: Context, message: str) -> object:
    return await ctx.step("model", ask, "small", message, breaker="test/small")


async def large(ctx: Context, message: str) -> object:
    return await ctx.step("model", ask, "large", message, breaker="test/large")


async def either(ctx: Context, message: str) -> object:
    try:
        return await small(ctx, message)
    except CircuitOpen:
        return await large(ctx, message)


@tool(breaker="test/tool", retry=3)
async def look_up(text: str) -> str:
    return await ask("tool", text)


async def looks_up(ctx: Context, message: str) -> object:
    return await ctx.tool(look_up, text=message)


agents = {"small": small, "large": large, "either": either, "looks_up": looks_up}
