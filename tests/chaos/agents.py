"""Agents of the campaigns. Each notes its side effects in a journal of its own, one line per effect, in one write."""

import asyncio
import json
import os
import re
import secrets
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

from runwire.agents.context import Context, ToolFailed

PIECES = 6


def _note(ctx: Context, **what: Any) -> None:
    line = json.dumps({"key": ctx.idempotency_key, "pid": os.getpid(), **what}) + "\n"
    fd = os.open(Path(f"effects-{ctx.run}"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode())
    os.close(fd)


def parts_of(message: str) -> int:
    """Read `parts=N` from a message."""
    found = re.search(r"parts=(\d+)", message)
    return int(found[1]) if found else 3


def expected(agent: str, message: str) -> str:
    """Return what a deterministic agent writes, if it comes to its end."""
    if agent in ("voyage", "blocking"):
        return "".join(f"[{p}.{n}]" for p in range(parts_of(message)) for n in range(PIECES))
    if agent == "long":
        return "it is done"
    if agent == "troubled":
        return "".join(f"[{n} {'failed' if n % 2 else 'went well'}]" for n in range(4))
    raise LookupError(agent)


async def effect(ctx: Context, *, n: int, seconds: float) -> dict[str, Any]:
    """Do something to the world that must not happen twice unseen."""
    _note(ctx, phase="begun", n=n)
    await asyncio.sleep(seconds)
    token = secrets.token_hex(6)
    _note(ctx, phase="ended", n=n, token=token)
    return {"n": n, "token": token}


def blocking_effect(ctx: Context, *, n: int, seconds: float) -> dict[str, Any]:
    """Do the same in a thread."""
    _note(ctx, phase="begun", n=n)
    time.sleep(seconds)
    token = secrets.token_hex(6)
    _note(ctx, phase="ended", n=n, token=token)
    return {"n": n, "token": token}


async def odd_effect(ctx: Context, *, n: int) -> dict[str, Any]:
    """Fail if the number is odd."""
    _note(ctx, phase="begun", n=n)
    await asyncio.sleep(0.02)
    if n % 2:
        raise ToolFailed(f"{n} is odd")
    token = secrets.token_hex(6)
    _note(ctx, phase="ended", n=n, token=token)
    return {"n": n, "token": token}


async def _musing(message: str) -> AsyncIterator[str]:
    for word in message.split():
        yield word + " "
        await asyncio.sleep(0.002)


async def voyage(ctx: Context, message: str) -> AsyncIterator[str]:
    """Deterministic: a thought, a streamed thought, a tool and a message in pieces, part by part."""
    for part in range(parts_of(message)):
        await ctx.thinking(f"part {part} of {message}")
        await ctx.thinking(_musing(message))
        await ctx.tool(partial(effect, ctx), n=part, seconds=0.05)
        for n in range(PIECES):
            yield f"[{part}.{n}]"
            await asyncio.sleep(0.004)


async def blocking(ctx: Context, message: str) -> AsyncIterator[str]:
    """Deterministic, its tools in threads."""
    for part in range(parts_of(message)):
        await ctx.tool(partial(blocking_effect, ctx), n=part, seconds=0.05)
        await ctx.custom("progress", {"part": part})
        for n in range(PIECES):
            yield f"[{part}.{n}]"


async def fickle(ctx: Context, message: str) -> AsyncIterator[str]:
    """Say something else each time, as models do; its tools are always the same."""
    for part in range(parts_of(message)):
        await ctx.thinking(f"{secrets.choice(('perhaps', 'maybe', 'surely'))} {part}")
        for _ in range(PIECES):
            yield f"<{secrets.token_hex(2)}>"
            await asyncio.sleep(0.004)
        await ctx.tool(partial(effect, ctx), n=part, seconds=0.03)


async def long(ctx: Context, message: str) -> str:
    """Call one tool that takes long: kills hit it in the middle."""
    await ctx.tool(partial(effect, ctx), n=0, seconds=0.6)
    return "it is done"


async def troubled(ctx: Context, message: str) -> AsyncIterator[str]:
    """Go on when a tool fails."""
    for n in range(4):
        try:
            await ctx.tool(partial(odd_effect, ctx), n=n)
            yield f"[{n} went well]"
        except ToolFailed:
            yield f"[{n} failed]"


async def breaks(ctx: Context, message: str) -> AsyncIterator[str]:
    """Raise in the middle of a message."""
    await ctx.tool(partial(effect, ctx), n=0, seconds=0.02)
    yield "so far so "
    raise ValueError(message)


async def steady(ctx: Context, message: str) -> AsyncIterator[str]:
    """Stream until told to stop."""
    for n in range(20_000):
        yield f"{n} "
        await asyncio.sleep(0.005)


agents = {
    "voyage": voyage,
    "blocking": blocking,
    "fickle": fickle,
    "long": long,
    "troubled": troubled,
    "breaks": breaks,
    "steady": steady,
}
