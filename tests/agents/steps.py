"""Agents that leave traces of what they did to the world: one line per effect, on the disk before the effect is over.

They work together with `mission_critical/fleet.py`, which reads the traces and kills, stops and wakes their servers.
"""

import asyncio
import json
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

from runwire.agents.context import Context

STEPS = 20
PLACES = 3 * STEPS + 1  # before each step, in it before and after its effect; and after the last one


def _note(name: str, **what: Any) -> None:
    line = json.dumps({"pid": os.getpid(), "at_s": time.monotonic(), **what}) + "\n"
    fd = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode())
    os.fsync(fd)
    os.close(fd)


def _effect(ctx: Context, phase: str, **what: Any) -> None:
    _note(f"effects-{ctx.run}", step=ctx.idempotency_key.partition(":")[2], phase=phase, **what)


# ── to be killed ────────────────────────────────────────────────────────────────────────────────────────────


def _is_here(ctx: Context, message: str, place: int) -> bool:
    """Note that this is a place to be killed at, if it is; each life comes further than the one before."""
    path = Path(f"stood-{ctx.run}")
    stood = (
        [json.loads(line)["place"] for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )
    if place not in json.loads(message) or place in stood:
        return False
    _note(path.name, place=place)
    return True


async def _stand(ctx: Context, message: str, place: int) -> None:
    if _is_here(ctx, message, place):
        await asyncio.Event().wait()


async def effect(ctx: Context, *, n: int, message: str) -> str:
    """Do something to the world that must not happen twice unseen."""
    await _stand(ctx, message, 3 * n + 1)
    token = secrets.token_hex(4)
    _effect(ctx, "done", n=n, token=token)
    await _stand(ctx, message, 3 * n + 2)
    return token


def blocking_effect(ctx: Context, n: int, message: str) -> str:
    """Do the same in a thread."""
    if _is_here(ctx, message, 3 * n + 1):
        threading.Event().wait()
    token = secrets.token_hex(4)
    _effect(ctx, "done", n=n, token=token)
    if _is_here(ctx, message, 3 * n + 2):
        threading.Event().wait()
    return token


async def twenty(ctx: Context, message: str) -> AsyncIterator[str]:
    """Take twenty steps, tools and others by turns; stand still at the places that the message lists, to be killed."""
    for n in range(STEPS):
        await _stand(ctx, message, 3 * n)
        if n % 2:
            token = await ctx.step("effect", partial(blocking_effect, ctx), n, message)
        else:
            token = await ctx.tool(partial(effect, ctx), n=n, message=message)
        yield f"[{n} {token}]"
    await _stand(ctx, message, 3 * STEPS)


# ── to be stopped, to be drained, to be left in peace ───────────────────────────────────────────────────────


async def _is_over() -> bool:
    return await asyncio.to_thread(Path("over").exists)


async def tick(ctx: Context, *, n: int) -> bool:
    """Do something to the world a hundred times a second, for two seconds, and say whether the test is over."""
    _effect(ctx, "begun", n=n)
    for ticks in range(200):
        _effect(ctx, "tick")
        await asyncio.sleep(0.01)
        if ticks % 20 == 19 and await _is_over():
            return True
    return False


async def ticking(ctx: Context, message: str) -> str:
    """Take steps that take long, and are nearly always under way, until the test is over."""
    n = 0
    while not await ctx.tool(partial(tick, ctx), n=n):
        n += 1
    return "over"


async def one_more(ctx: Context, *, n: int) -> bool:
    """Do one thing and say whether the test is over."""
    _effect(ctx, "begun", n=n)
    await asyncio.sleep(0.02)
    _effect(ctx, "done", n=n)
    return await _is_over()


async def walking(ctx: Context, message: str) -> AsyncIterator[str]:
    """Take short steps and talk meanwhile, until the test is over."""
    n, is_over = 0, False
    while not is_over:
        is_over = await ctx.tool(partial(one_more, ctx), n=n)
        yield f"[{n}]"
        n += 1


async def working(ctx: Context, message: str) -> str:
    """Wait so many seconds for something outside, and say when that was."""
    _note("working", user=ctx.user.id, run=ctx.run, phase="begun")
    await asyncio.sleep(float(message))
    _note("working", user=ctx.user.id, run=ctx.run, phase="done")
    return "done"


agents = {each.__name__: each for each in (twenty, ticking, walking, working)}
