"""Blocking calls of the user's code: they hang alone, are counted, and hold up neither others nor the exit."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.runtime.bench import PATIENCE_S, QUICK, Gate, bench, play

from runwire.agents.context import Context, ToolFailed
from runwire.errors import Unavailable
from runwire.protocol.events import decode_data
from runwire.runtime.call_threads import CallThreads
from runwire.storage.base import CancelRequest


def _length(text: str) -> int:
    return len(text)


def test_calls_that_hang_neither_starve_others_nor_go_uncounted() -> None:
    wall = Gate()

    async def hang(ctx: Context, message: str) -> Any:
        if message == "tool":
            await ctx.tool(wall.block)
        await asyncio.to_thread(wall.block)

    async def look_up(ctx: Context, message: str) -> Any:
        found = await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80)
        return bool(found) and await ctx.tool(_length, text="abc")

    async def body() -> None:
        async with bench({"hang": hang, "look_up": look_up}, settings=replace(QUICK, user_limit=50)) as b:
            runs = [await b.send("tool" if n % 2 else "thread", agent="hang") for n in range(40)]
            await wall.arrival(40)
            for run in runs:
                await b.storage.runs.cancel("usr_ann", run, CancelRequest(by="user"))
            for run in runs:
                assert (await b.ended(run))[-1].type == "agent_cancelled"
            await b.idle()
            assert b.worker.abandoned == 40
            assert decode_data((await b.ended(await b.send(agent="look_up")))[-1]).output == 3
            wall.open()

    play(body)


def test_over_the_limit_a_call_is_refused_with_an_error_that_says_so() -> None:
    wall = Gate()

    async def hang(ctx: Context, message: str) -> Any:
        await asyncio.to_thread(wall.block)
        return "done"

    async def agent(ctx: Context, message: str) -> Any:
        said = []
        try:
            await asyncio.to_thread(_length, "abc")
        except Unavailable as error:
            said.append(error.message)
        try:
            await ctx.tool(_length, text="abc")
        except ToolFailed as error:
            said.append(error.message)
        return said

    async def body() -> None:
        async with bench({"hang": hang, "agent": agent}, settings=replace(QUICK, max_threads=2)) as b:
            hanging = [await b.send(agent="hang") for _ in range(2)]
            await wall.arrival(2)
            said = decode_data((await b.ended(await b.send()))[-1]).output
            assert "2 blocking calls" in said[0]
            assert "Unavailable in the tool" in said[1]
            wall.open()
            for run in hanging:
                assert decode_data((await b.ended(run))[-1]).output == "done"
            assert decode_data((await b.ended(await b.send()))[-1]).output == []

    play(body)


def test_a_call_that_raises_what_no_future_can_carry_is_over_all_the_same() -> None:
    async def body() -> None:
        asyncio.get_running_loop().set_default_executor(CallThreads(limit=2))
        for _ in range(5):
            with pytest.raises(RuntimeError, match="StopIteration"):
                await asyncio.to_thread(next, iter(()))
            with pytest.raises(SystemExit):
                await asyncio.to_thread(sys.exit, 3)

    play(body)


def test_calls_are_counted_by_whose_they_are() -> None:
    threads, go = CallThreads(limit=9), threading.Event()
    future = threads.submit(go.wait, PATIENCE_S)
    assert (threads.live(None), threads.live("somebody else")) == (1, 0)
    go.set()
    assert future.result(PATIENCE_S)
    assert threads.live(None) == 0


_SCRIPT = """
import asyncio, time
from tests.unit.runtime.bench import Gate, bench

gates = [Gate(), Gate()]

def hang(gate):
    gate.arrive()
    time.sleep(60)

async def agent(ctx, message):
    asyncio.get_running_loop().run_in_executor(None, hang, gates[0])
    await asyncio.to_thread(hang, gates[1])

async def main():
    async with bench(agent) as b:
        await b.send()
        for gate in gates:  # both calls hang before the process ends
            await gate.arrival()

asyncio.run(main())
print("over")
"""


def test_a_call_that_hangs_does_not_hold_up_the_end_of_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.stdout.endswith("over\n"), done.stderr
