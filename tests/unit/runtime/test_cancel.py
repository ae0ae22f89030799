"""Cancelling: the code stops, the person sees one outcome, and code that does not stop harms nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.runtime.bench import QUICK, Bench, Gate, bench, play, types_of

from runwire.agents.context import Context, RunEnded
from runwire.protocol.events import decode_data
from runwire.runtime.speech import HandOver
from runwire.storage.base import CancelRequest, Fenced, Wake
from runwire.storage.memory.storage import MemoryStorage

USER = CancelRequest(by="user", reason="enough")


def test_a_cancel_stops_the_code_at_once_and_closes_what_is_open() -> None:
    gate, told = Gate(), Gate()

    async def slow() -> None:
        try:
            await gate.pass_()
        finally:
            told.arrive()

    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        yield "before"
        await ctx.tool(slow)
        yield "never"

    async def body() -> None:
        # Without the poll: the hint alone must be enough.
        async with bench(agent, settings=replace(QUICK, signals_s=60)) as b:
            run = await b.send()
            await gate.arrival()
            await _cancel(b, run)
            await told.arrival()
            events = await b.ended(run)
            assert types_of(events)[-3:] == ["tool_executing", "tool_completed", "agent_cancelled"]
            closed, cancelled = decode_data(events[-2]), decode_data(events[-1])
            assert (closed.ok, closed.final, closed.error.code) == (False, True, "cancelled")
            assert (cancelled.by, cancelled.reason) == ("user", "enough")
            assert (await b.row(run)).status == "cancelled"
            assert b.worker.abandoned == 0

    play(body)


def test_a_cancel_without_a_hint_is_found_by_the_poll() -> None:
    gate = Gate()

    async def agent(ctx: Context, message: str) -> Any:
        await ctx.message("half")
        await gate.pass_()

    async def body() -> None:
        async with bench(agent) as b:
            run = await b.send()
            await gate.arrival()
            await b.storage.runs.cancel("usr_ann", run, USER)
            assert (await b.ended(run))[-1].type == "agent_cancelled"

    play(body)


def test_of_several_reasons_to_stop_the_first_one_counts() -> None:
    gate = Gate()

    async def agent(ctx: Context, message: str) -> Any:
        await gate.pass_()

    async def body() -> None:
        async with bench(agent) as b:
            run = await b.send()
            await gate.arrival()
            [held] = b.worker._runs
            held.stop(USER)
            held.stop(CancelRequest(by="operator"))
            held.stop(HandOver("drained"))
            assert decode_data((await b.ended(run))[-1]).by == "user"

    play(body)


def test_an_agent_that_never_pauses_can_be_cancelled_and_leaves_others_their_turn() -> None:
    talking = Gate()

    async def talker(ctx: Context, message: str) -> AsyncIterator[str]:
        while True:
            yield "bla "
            talking.arrive()

    async def quiet(ctx: Context, message: str) -> Any:
        return "my turn"

    async def body() -> None:
        async with bench({"talker": talker, "quiet": quiet}) as b:
            loud = await b.send(agent="talker")
            await talking.arrival()
            other = await b.send(agent="quiet", user="usr_bob")
            assert decode_data((await b.ended(other, user="usr_bob"))[-1]).output == "my turn"
            await _cancel(b, loud)
            assert (await b.ended(loud))[-1].type == "agent_cancelled"
            await b.idle()
            assert b.worker.abandoned == 0

    play(body)


def test_an_open_message_of_a_cancelled_run_is_completed_as_incomplete() -> None:
    gate = Gate()

    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        yield "half a sen"
        await gate.pass_()

    async def body() -> None:
        async with bench(agent) as b:
            run = await b.send()
            await gate.arrival()
            await _cancel(b, run)
            message = decode_data((await b.ended(run))[-2])
            assert (message.content, message.complete) == ("half a sen", False)

    play(body)


def test_code_that_ignores_its_cancel_is_abandoned_and_its_context_is_dead() -> None:
    gate, last = Gate(), Gate()
    raised: list[BaseException] = []

    async def agent(ctx: Context, message: str) -> Any:
        while True:
            try:
                await gate.pass_()
                break
            except asyncio.CancelledError:
                pass
        for use in (ctx.thinking("zombie"), ctx.message("zombie"), ctx.custom("x", 1), ctx.tool(len, obj="")):
            try:
                await use
            except RunEnded as error:
                raised.append(error)
        last.arrive()

    async def body() -> None:
        async with bench(agent) as b:
            run = await b.send()
            await gate.arrival()
            await _cancel(b, run)
            events = await b.ended(run)
            assert types_of(events) == ["agent_started", "agent_cancelled"]
            await b.idle()
            assert b.worker.abandoned == 1
            gate.open()
            await last.arrival()
            assert len(raised) == 4
            assert await b.events(run) == events

    play(body)


def test_code_may_clean_up_and_speak_during_its_grace_but_the_run_is_cancelled() -> None:
    gate = Gate()

    async def agent(ctx: Context, message: str) -> Any:
        try:
            await gate.pass_()
        finally:
            await ctx.thinking("tidying up")
        return "never"

    async def body() -> None:
        async with bench(agent) as b:
            run = await b.send()
            await gate.arrival()
            await _cancel(b, run)
            assert types_of(await b.ended(run)) == ["agent_started", "agent_thinking", "agent_cancelled"]

    play(body)


def test_code_that_returns_although_it_was_cancelled_is_cancelled() -> None:
    gate = Gate()

    async def agent(ctx: Context, message: str) -> Any:
        try:
            await gate.pass_()
        except asyncio.CancelledError:
            return "I go on"

    async def body() -> None:
        async with bench(agent) as b:
            run = await b.send()
            await gate.arrival()
            await _cancel(b, run)
            assert (await b.ended(run))[-1].type == "agent_cancelled"

    play(body)


def test_a_run_whose_holder_died_after_a_cancel_is_ended_without_running_its_code() -> None:
    gate = Gate()

    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        yield "half a sen"
        await gate.pass_()

    async def body() -> None:
        storage = MemoryStorage()
        async with bench(agent, storage=storage, settings=replace(QUICK, signals_s=60)) as b:
            run = await b.send()
            await gate.arrival()
            await b.until(lambda: _has(b, run, "text_delta"))
            await storage.runs.cancel("usr_ann", run, USER)  # no hint: the holder dies before it learns of it
        async with bench(agent, storage=storage.restarted(), settings=replace(QUICK, signals_s=60)) as b:
            events = await b.ended(run)
            assert types_of(events)[-2:] == ["message_completed", "agent_cancelled"]
            assert (decode_data(events[-2]).content, decode_data(events[-2]).complete) == ("half a sen", False)
            assert gate.arrivals == 1

    play(body)


def test_a_user_without_access_cannot_call_another_tool() -> None:
    gate = Gate()
    may = True
    called: list[int] = []

    async def note(n: int) -> None:
        called.append(n)

    async def agent(ctx: Context, message: str) -> Any:
        await ctx.tool(note, n=1)
        await gate.pass_()
        await ctx.tool(note, n=2)

    async def body() -> None:
        nonlocal may
        async with bench(agent, is_allowed=lambda user: may and user == "usr_ann") as b:
            run = await b.send()
            await gate.arrival()
            may = False
            gate.open()
            events = await b.ended(run)
            assert decode_data(events[-1]).by == "revoked"
            assert called == [1]

    play(body)


async def _cancel(b: Bench, run: str) -> None:
    await b.storage.runs.cancel("usr_ann", run, USER)
    b.bus.publish(Wake(topic="signals"))


async def _has(b: Bench, run: str, event_type: str) -> bool:
    return any(event.type == event_type for event in await b.events(run))


_USES: Any = {
    "write": lambda ctx: ctx.write("x"),
    "thinking": lambda ctx: ctx.thinking("x"),
    "tool": lambda ctx: ctx.tool(_nothing),
}


async def _nothing() -> None: ...


@pytest.mark.parametrize("use", _USES)
@pytest.mark.parametrize("why", ["fenced", "failed"])
def test_code_that_tries_again_on_any_error_leaves_others_their_turn(use: str, why: str) -> None:
    gate = Gate()

    async def stubborn(ctx: Context, message: str) -> Any:
        if gate.arrivals:
            return "in another attempt"
        gate.arrive()
        if why == "failed":
            task = asyncio.get_running_loop().create_task(ctx.thinking("from another task"))
            await asyncio.wait([task])
        while True:
            with contextlib.suppress(Exception):
                await _USES[use](ctx)

    async def quiet(ctx: Context, message: str) -> Any:
        return "my turn"

    async def body() -> None:
        # Long before anything else would help: a blocked loop is named after two seconds.
        async with bench({"stubborn": stubborn, "quiet": quiet}) as b:
            await b.send(agent="stubborn")
            await gate.arrival()
            for run in b.worker._runs if why == "fenced" else ():
                run.lose(Fenced())
            async with asyncio.timeout(1.5):
                for _ in range(3):
                    other = await b.send(agent="quiet", user="usr_bob")
                    assert decode_data((await b.ended(other, user="usr_bob"))[-1]).output == "my turn"
                await b.idle()
            assert b.worker.abandoned == 0

    play(body)
