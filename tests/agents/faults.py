"""Agents that stream from a provider over HTTP, model by model. Its address is in the file `provider`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2

from runwire import Context

IDLE_S = 0.7  # without a word of the model


def client(idle_s: float) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx2.AsyncClient(timeout=idle_s, trust_env=False, verify=False, limits=limits)


async def told(http: httpx2.AsyncClient, url: str) -> AsyncIterator[str]:
    async with http.stream("GET", url) as response:
        response.raise_for_status()
        async for piece in response.aiter_text():
            yield piece


def provider(model: str) -> str:
    """Return where a model is: those called `dead` have an address of their own."""
    return Path("dead" if model == "dead" else "provider").read_text(encoding="utf-8")


async def asks(ctx: Context, message: str) -> object:
    """Ask the model that the message names: `MODEL [TRIES [IDLE_S]]`."""
    model, *more = message.split()
    tries, idle_s = (*more, *("1", str(IDLE_S))[len(more) :])

    async def ask(model: str) -> str:
        said = ""
        async with client(float(idle_s)) as http:
            async for piece in told(http, f"{provider(model)}/{model}"):
                said += piece
                await ctx.write(piece)
        return said

    return await ctx.step("model", ask, model, retry=int(tries), breaker=f"test/{model}")


async def storms(ctx: Context, message: str) -> object:
    """Ask a model many times at once, three tries each: `MODEL TIMES`; return how many were answered."""
    model, times = message.split()

    async with client(20.0) as http:

        async def ask(model: str) -> str:
            return "".join([piece async for piece in told(http, f"{provider(model)}/{model}")])

        asked = [ctx.step("model", ask, model, retry=3, breaker=f"test/{model}") for _ in range(int(times))]
        answers = await ctx.gather(*asked, return_exceptions=True)
    return sum(isinstance(each, str) for each in answers)


agents = {"asks": asks, "storms": storms}
