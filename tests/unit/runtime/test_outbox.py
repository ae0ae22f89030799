"""The outbox: bounded, merged until frozen, resent byte for byte, and nothing doubled or lost."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.unit.runtime.bench import QUICK, Gate, bench, play, types_of
from tests.unit.runtime.faults import FaultyStorage

from runwire.agents.context import Context
from runwire.errors import Fenced
from runwire.protocol.events import (
    AgentCancelled,
    Custom,
    MessageCompleted,
    MessageStarted,
    StoredEvent,
    TextDelta,
    decode_data,
)
from runwire.protocol.replay import Emit
from runwire.runtime.lease import Lease
from runwire.runtime.outbox import MAX_BUFFER_EVENTS, Buffer, Outbox
from runwire.storage.base import IncomingMessage, RunEnd
from runwire.storage.bus_local import LocalBus


def test_a_full_buffer_makes_the_agent_wait_and_nothing_is_lost() -> None:
    said = 0
    total = MAX_BUFFER_EVENTS * 3

    async def agent(ctx: Context, message: str) -> Any:
        nonlocal said
        for n in range(total):
            await ctx.custom("n", n)
            said = n + 1
        return "done"

    async def body() -> None:
        storage = FaultyStorage()
        async with bench(agent, storage=storage) as b:
            storage.events.is_open.clear()
            run = await b.send()
            await storage.events.is_asked.wait()
            # The agent runs into the bound and stays there: it says nothing more however often it is looked at.
            await b.agent_turns(1000)
            assert said == MAX_BUFFER_EVENTS - 1
            await b.agent_turns(1000)
            assert said == MAX_BUFFER_EVENTS - 1
            storage.events.is_open.set()
            events = await b.ended(run)
            assert [decode_data(each).value for each in events if each.type == "custom"] == list(range(total))
            assert all(len(batch.events) <= 500 for batches in storage.events.appends for batch in batches)

    play(body)


def test_a_lost_reply_is_answered_with_the_same_bytes_and_nothing_stands_twice() -> None:
    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        for n in range(20):
            await ctx.thinking(f"thought {n}")
            yield f"text {n} "

    async def body() -> None:
        storage = FaultyStorage()
        log = storage.events
        # Every batch is stored, its reply is lost, and it is sent again.
        log.lose_reply = lambda batches: log.appends.count(list(batches)) == 1
        async with bench(agent, storage=storage) as b:
            events = await b.ended(await b.send())
            sent = [msgspec.json.encode(batches) for batches in log.appends]
            assert sent[::2] == sent[1::2]
            assert len(set(sent)) == len(sent) / 2 > 0
            thoughts = [decode_data(each).text for each in events if each.type == "agent_thinking"]
            assert thoughts == [f"thought {n}" for n in range(20)]
            assert decode_data(events[-1]).output == "".join(f"text {n} " for n in range(20))

    play(body)


def test_a_tool_is_called_only_after_its_beginning_is_committed() -> None:
    gate = Gate()
    called: list[int] = []

    async def tool() -> None:
        called.append(1)

    async def agent(ctx: Context, message: str) -> Any:
        await gate.pass_()
        await ctx.tool(tool)
        return "done"

    async def body() -> None:
        storage = FaultyStorage()
        async with bench(agent, storage=storage) as b:
            run = await b.send()
            await gate.arrival()
            await b.until(lambda: _has(storage, run, "agent_started"))
            storage.events.is_open.clear()
            gate.open()
            await b.agent_turns(100)
            assert called == []
            storage.events.is_open.set()
            await b.ended(run)
            assert called == [1]

    play(body)


def test_one_refused_run_does_not_fail_the_others_and_ends_visibly() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        await ctx.custom("card", message)
        await gate.pass_()
        return message

    gate = Gate()

    async def body() -> None:
        storage = FaultyStorage()
        storage.events.refuse = lambda batch: any(b'"poison"' in bytes(event.data) for event in batch.events)
        async with bench(agent, storage=storage) as b:
            bad, good = await b.send("poison"), await b.send("fine")
            failed = await b.ended(bad)
            assert decode_data(failed[-1]).code == "internal"
            gate.open()
            assert decode_data((await b.ended(good))[-1]).output == "fine"

    play(body)


def test_adjacent_deltas_of_one_stream_are_one_event_until_frozen() -> None:
    async def body() -> None:
        async with _outbox() as (storage, buffer):
            storage.events.is_open.clear()
            buffer.put([Emit(MessageStarted(message="msg_1"))])
            await storage.events.is_asked.wait()
            for at, text in enumerate("abcdef"):
                buffer.put([Emit(TextDelta(message="msg_1", offset=at, text=text))])
            buffer.put([Emit(TextDelta(message="msg_2", offset=6, text="x"))])
            for offset in (9, 9):  # not where the one before it ended
                buffer.put([Emit(TextDelta(message="msg_1", offset=offset, text="y"))])
            storage.events.is_open.set()
            await buffer.flushed()
            deltas = [decode_data(each) for each in _sent(storage)[1:]]
            assert [(each.message, each.offset, each.text) for each in deltas] == [
                ("msg_1", 0, "abcdef"),
                ("msg_2", 6, "x"),
                ("msg_1", 9, "y"),
                ("msg_1", 9, "y"),
            ]

    play(body)


def test_merged_deltas_stay_below_the_size_at_which_a_field_is_put_aside() -> None:
    async def body() -> None:
        async with _outbox() as (storage, buffer):
            storage.events.is_open.clear()
            buffer.put([Emit(MessageStarted(message="msg_1"))])
            await storage.events.is_asked.wait()
            for at in range(0, 40_000, 1000):
                buffer.put([Emit(TextDelta(message="msg_1", offset=at, text="\x01" * 1000))])
            storage.events.is_open.set()
            await buffer.flushed()
            assert max(len(each.data) for each in _sent(storage)) < 65_536
            assert sum(len(decode_data(each).text) for each in _sent(storage)[1:]) == 40_000

    play(body)


def test_what_closes_a_run_shares_a_batch_with_its_terminal_event() -> None:
    async def body() -> None:
        async with _outbox() as (storage, buffer):
            storage.events.is_open.clear()
            buffer.put([Emit(Custom(name="n", value=n)) for n in range(499)])
            closing = [Emit(MessageCompleted(message="m", content="", complete=False)), Emit(AgentCancelled(by="user"))]
            buffer.put(closing, end=RunEnd(status="cancelled"))
            storage.events.is_open.set()
            await buffer.flushed()
            batches = [batch for batches in storage.events.appends for batch in batches]
            assert [len(batch.events) for batch in batches] == [499, 2]
            assert [batch.end is not None for batch in batches] == [False, True]

    play(body)


def test_a_closed_buffer_takes_nothing_and_lets_nobody_wait() -> None:
    async def body() -> None:
        async with _outbox() as (storage, buffer):
            storage.events.is_open.clear()
            buffer.put([Emit(Custom(name="n", value=1))])
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(_fenced(buffer))
                await storage.events.is_asked.wait()
                buffer.close()
                assert await waiting
            with pytest.raises(Fenced):
                buffer.put([Emit(Custom(name="n", value=2))])

    play(body)


def test_a_fenced_worker_writes_nothing_and_its_code_is_stopped() -> None:
    gate, stopped = Gate(), Gate()

    async def agent(ctx: Context, message: str) -> Any:
        await ctx.thinking("mine")
        try:
            await gate.pass_()
            while True:
                await ctx.thinking("not mine any more")
                await asyncio.sleep(0)
        finally:
            stopped.arrive()

    async def body() -> None:
        storage = FaultyStorage()
        async with bench(agent, storage=storage, settings=replace(QUICK, signals_s=60)) as b:
            run = await b.send()
            await gate.arrival()
            await b.until(lambda: _has(storage, run, "agent_thinking"))
            other = storage._inner.restarted()  # another process has come up and takes the run over
            claims = await other.runs.claim("wk_other", agents=["agent"], limit=1, user_limit=10)
            assert [claim.run for claim in claims] == [run]
            gate.open()
            await stopped.arrival()
            events = await b.events(run)
            assert types_of(events) == ["agent_started", "agent_thinking"]
            assert {each.attempt for each in events} == {1}

    play(body)


async def _has(storage: FaultyStorage, run: str, event_type: str) -> bool:
    logged: list[StoredEvent] = await storage.events.read_run(run)
    return any(event.type == event_type for event in logged)


async def _fenced(buffer: Buffer) -> bool:
    try:
        await buffer.flushed()
    except Fenced:
        return True
    return False


class _outbox:
    """An outbox at work, and the buffer of one claimed run."""

    async def __aenter__(self) -> tuple[FaultyStorage, Buffer]:
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        storage = FaultyStorage()
        await storage.runs.send(IncomingMessage(user="usr_ann", thread=None, agent="agent", content="x"))
        [claim] = await storage.runs.claim("wk", agents=["agent"], limit=1, user_limit=1)
        outbox = Outbox(storage, LocalBus())
        self._loop = self._tasks.create_task(outbox.run())
        return storage, outbox.open(claim, ordinal=0, lease=Lease(math.inf, sent_s=0), on_lost=lambda _lost: None)

    async def __aexit__(self, *error: object) -> None:
        self._loop.cancel()
        await self._tasks.__aexit__(None, None, None)


def _sent(storage: FaultyStorage) -> list[StoredEvent]:
    return [event for batches in storage.events.appends for batch in batches for event in batch.events]
