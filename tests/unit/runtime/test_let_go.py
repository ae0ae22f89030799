"""A run that has ended is let go of at once, with all that it has read, and not when the collector comes by."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict
from tests.unit.runtime.bench import PATIENCE_S, Bench, bench, play

from runwire.agents.context import Context
from runwire.protocol.replay import Replay
from runwire.runtime.journal import Past
from runwire.runtime.outbox import Buffer
from runwire.runtime.run import Run
from runwire.runtime.speech import Speaker
from runwire.runtime.transcript import Transcript
from runwire.storage import base
from runwire.storage.base import CancelRequest

_KINDS = (Run, Past, Speaker, Transcript, Replay, Buffer, Context)


def _alive() -> Counter[str]:
    # Also what nobody can reach any more: the collector is off.
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one) in _KINDS)


async def _golden(ctx: Context, message: str) -> str:
    async def find(what: str) -> str:
        return what

    async def branch(name: str) -> str:
        await ctx.thinking(name)
        return str(await ctx.tool(find, what=name))

    await ctx.gather(branch("a"), branch("b"))
    await ctx.message("said")
    return message


async def _raises(ctx: Context, message: str) -> str:
    await ctx.thinking(message)
    raise ValueError(message)


async def _raises_in_branches(ctx: Context, message: str) -> str:
    async def branch(error: type[Exception]) -> str:
        await ctx.thinking(message)
        raise error(message)

    found = await ctx.gather(branch(KeyError), branch(ValueError), return_exceptions=True)
    del found  # with what was raised in the frames of this agent: its own cycle, not ours
    return str(await ctx.gather(branch(KeyError), branch(ValueError)))


async def _hangs(ctx: Context, message: str) -> str:
    await ctx.message("here")
    await asyncio.sleep(3600)
    return message


async def _end(b: Bench, run: str) -> None:
    await b.ended(run)


async def _until_said(b: Bench, run: str, kind: str) -> None:
    async def is_said() -> bool:
        return any(event.type == kind for event in await b.events(run))

    await b.until(is_said)


async def _cancel(b: Bench, run: str) -> None:
    await _until_said(b, run, "message_completed")
    await b.storage.runs.cancel("usr_ann", run, CancelRequest(by="user"))
    await b.ended(run)


async def _lose(b: Bench, run: str) -> None:
    await _until_said(b, run, "message_completed")
    for held in tuple(b.worker._runs):
        held.lose(base.Fenced())
    await b.storage.runs.cancel("usr_ann", run, CancelRequest(by="user"))  # this worker takes it over
    await b.ended(run)


_WAYS: dict[str, tuple[Callable[[Context, str], Awaitable[str]], Callable[[Bench, str], Awaitable[None]]]] = {
    "ends": (_golden, _end),
    "raises": (_raises, _end),
    "raises in branches": (_raises_in_branches, _end),
    "is cancelled": (_hangs, _cancel),
    "is lost": (_hangs, _lose),
}


@pytest.mark.parametrize("way", _WAYS)
def test_a_run_that_is_over_leaves_nothing_to_the_collector(way: str) -> None:
    agent, see_through = _WAYS[way]

    async def body() -> None:
        # Not onto the screen: what is made for that of a traceback holds its frames, and they what they ran.
        with capture_logs() as logs:
            await see(logs)

    async def see(logs: list[EventDict]) -> None:
        async with bench(agent) as b:
            await see_through(b, await b.send("first"))
            await b.idle()
            gc.collect()
            gc.disable()
            try:
                before = _alive()
                for _ in range(3):
                    await see_through(b, await b.send("x"))
                    await b.idle()
                logs.clear()
                async with asyncio.timeout(PATIENCE_S):
                    while _alive() - before:  # noqa: ASYNC110 - of objects nobody tells
                        await asyncio.sleep(0.05)
            finally:
                gc.enable()

    play(body)
