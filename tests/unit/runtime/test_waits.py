"""`ctx.sleep`, `ctx.ask`, `ctx.approve`: a run waits for a person or a time, over any restart."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.unit.runtime.bench import QUICK, Bench, Gate, bench, types_of
from tests.unit.runtime.twice import ended, last, of_type, twice

from runwire import SubagentFailed, ToolFailed, WaitExpired, WrongAnswer
from runwire.agents.context import Context
from runwire.errors import PayloadError
from runwire.protocol.events import decode_data
from runwire.runtime.clock import now_ms
from runwire.storage.base import CancelRequest, Wake
from runwire.storage.memory.storage import MemoryStorage
from runwire.storage.open import open_storage

# Parked as soon as it waits, or never while the test looks.
PARKS = replace(QUICK, park_after_s=0.0)
STAYS = replace(QUICK, park_after_s=60.0)


@dataclass
class Trip:
    city: str
    nights: int


async def waiting(b: Bench, run: str, count: int = 1) -> list[Any]:
    """Wait until so many waits have begun; return their events."""

    async def have_begun() -> bool:
        return types_of(await b.events(run)).count("agent_waiting") >= count

    await b.until(have_begun)
    return of_type(await b.events(run), "agent_waiting")


async def answer(b: Bench, run: str, value: Any, *, wait: str | None = None) -> None:
    """Answer a wait of the run, its last one if none is named."""
    wait = wait or (await waiting(b, run))[-1].wait
    answered = await b.storage.runs.answer("usr_ann", run, wait, value)
    if answered.committed is not None:
        b.bus.publish(answered.committed)
    b.bus.publish(Wake(topic="runs" if answered.is_parked else "signals"))


async def parked(b: Bench, run: str) -> None:
    """Wait until nobody holds the run."""

    async def is_so() -> bool:
        return (await b.row(run)).status == "waiting"

    async with asyncio.timeout(5):
        while not await is_so():  # noqa: ASYNC110 - of parking nothing is said
            await asyncio.sleep(0.01)


async def test_an_answer_goes_to_the_agent_that_asked_and_a_replay_has_it_again() -> None:
    async def code(ctx: Context) -> Any:
        await ctx.write("One thing: ")
        city = await ctx.ask({"text": "Which city?"})
        return [city, await ctx.approve(f"Fly to {city}?", call="call_1")]

    async def help_(b: Bench, run: str) -> None:
        await answer(b, run, "Oslo")
        await waiting(b, run, 2)
        await answer(b, run, True)

    first, again, events = await twice(code, help_=help_)
    assert first == again == ["Oslo", True]
    waits = of_type(events, "agent_waiting")
    assert [(each.kind, each.prompt, each.call) for each in waits] == [
        ("input", {"text": "Which city?"}, None),
        ("approval", "Fly to Oslo?", "call_1"),
    ]
    answers = [(each.value, each.by) for each in of_type(events, "agent_resumed")]
    assert answers == [("Oslo", "usr_ann"), (True, "usr_ann")]
    assert types_of(events)[:5] == [
        "agent_started",
        "message_started",
        "text_delta",
        "message_completed",
        "agent_waiting",
    ]


async def test_who_does_not_approve_is_told_apart_from_who_does_not_answer() -> None:
    async def code(ctx: Context) -> Any:
        return await ctx.approve("Really?")

    async def help_(b: Bench, run: str) -> None:
        await answer(b, run, False)

    first, again, _ = await twice(code, help_=help_)
    assert first is again is False


@pytest.mark.parametrize("kind", ["ask", "approve"])
async def test_a_wait_that_nobody_answers_expires(kind: str) -> None:
    async def code(ctx: Context) -> Any:
        try:
            await (ctx.ask("?", timeout_s=0.05) if kind == "ask" else ctx.approve("?", timeout_s=0.05))
        except WaitExpired as error:
            return error.message

    first, again, events = await twice(code)
    assert first == again == "nobody answered in time"
    assert [(each.value, each.by) for each in of_type(events, "agent_resumed")] == [(None, "timer")]


@pytest.mark.parametrize("length", [0.05, timedelta(milliseconds=50), 0])
async def test_a_sleep_ends_when_its_time_has_come(length: Any) -> None:
    times: list[int] = []

    async def code(ctx: Context) -> Any:
        times.append(now_ms())
        await ctx.sleep(length)
        times.append(now_ms())

    _, _, events = await twice(code)
    (wait,) = of_type(events, "agent_waiting")
    assert wait.kind == "timer"
    assert times[0] <= wait.due_at <= times[1]
    # A replay does not sleep again.
    assert len(times) == 4


async def test_an_answer_is_made_into_the_type_that_was_asked_for() -> None:
    async def code(ctx: Context) -> Any:
        found: list[Any] = []
        for _ in range(2):
            try:
                found.append(await ctx.ask("How many?", returns=int))
            except WrongAnswer as error:
                found.append(error.message)
        found.append(await ctx.ask("Where?", returns=Trip))
        return found

    async def help_(b: Bench, run: str) -> None:
        for n, value in enumerate(["many", "5", {"city": "Oslo", "nights": "2"}], start=1):
            await waiting(b, run, n)
            await answer(b, run, value)

    first, again, _ = await twice(code, help_=help_)
    assert first == again
    assert first == ["the answer is not what was asked for: Expected `int`, got `str`", 5, Trip("Oslo", 2)]


async def test_waits_in_branches_tools_and_sub_agents_are_open_side_by_side() -> None:
    async def code(ctx: Context) -> Any:
        async def tool() -> Any:
            return await ctx.ask("tool")

        async def helper(ctx: Context, message: str) -> Any:
            return await ctx.ask(message)

        async def branch() -> Any:
            return await ctx.ask("branch")

        return await ctx.gather(ctx.tool(tool), ctx.subagent(helper, "helper"), branch(), ctx.sleep(0.05))

    async def help_(b: Bench, run: str) -> None:
        for each in reversed(await waiting(b, run, 4)):
            if each.kind == "input":
                await answer(b, run, f"to {each.prompt}", wait=each.wait)

    first, again, _ = await twice(code, help_=help_)
    assert first == again == ["to tool", "to helper", "to branch", None]


async def test_a_run_in_which_everything_waits_is_put_aside_and_goes_on_when_it_is_answered(tmp_path: Path) -> None:
    began: list[int] = []

    async def agent(ctx: Context, message: str) -> Any:
        began.append(1)
        await ctx.thinking("A plan")

        async def tool() -> Any:
            return await ctx.ask("one")

        one, two = await ctx.gather(ctx.tool(tool), ctx.approve("two"))
        await ctx.sleep(0.3)
        return [one, two]

    storage = await open_storage(f"sqlite:///{tmp_path / 'runs.db'}")
    try:
        async with bench(agent, storage=storage, settings=PARKS) as b:
            run = await b.send()
            one, two = sorted(await waiting(b, run, 2), key=lambda each: each.prompt)
            await parked(b, run)
            await b.idle()  # the worker lets go of it after it was put aside
            assert len(began) == 1
            await answer(b, run, 1, wait=one.wait)
            await answer(b, run, True, wait=two.wait)
            events = await b.ended(run)
    finally:
        await storage.close()
    assert last(events).output == [1, True]
    assert types_of(events).count("agent_thinking") == 1
    assert types_of(events).count("agent_waiting") == 3
    assert types_of(events).count("tool_executing") == 1
    assert "agent_retrying" not in types_of(events)
    assert len(began) >= 3, "it was put aside for the people and for the sleep"


async def test_code_that_does_anything_else_keeps_its_run_from_being_put_aside() -> None:
    gates = {"thread": Gate(), "sleep": Gate()}

    async def agent(ctx: Context, message: str) -> Any:
        gate = gates[message]

        async def busy() -> None:
            if message == "thread":
                await ctx.tool(gate.block)
            else:
                await gate.pass_()

        return (await ctx.gather(ctx.ask("?"), busy()))[0]

    async with bench(agent, settings=PARKS) as b:
        for message, gate in gates.items():
            run = await b.send(message)
            await waiting(b, run)
            await gate.arrival()
            await b.agent_turns(20)
            await asyncio.sleep(0.05)  # so long it must not be put aside
            assert (await b.row(run)).status == "running"
            gate.open()
            await parked(b, run)
            await answer(b, run, message)
            assert last(await b.ended(run)).output == message


async def test_a_time_limit_of_asyncio_around_a_wait_goes_the_same_way_in_a_replay() -> None:
    async def code(ctx: Context) -> Any:
        try:
            async with asyncio.timeout(0.05):
                return await ctx.ask("Quick?")
        except TimeoutError:
            await ctx.thinking("nobody there")
            return await ctx.ask("And now?")

    async def help_(b: Bench, run: str) -> None:
        late, now = await waiting(b, run, 2)
        await answer(b, run, "late", wait=late.wait)
        await answer(b, run, "now", wait=now.wait)

    first, again, events = await twice(code, help_=help_)
    assert first == again == "now"
    assert [each.value for each in of_type(events, "agent_resumed")] == ["late", "now"]


async def test_a_time_limit_of_asyncio_that_comes_before_the_wait_has_begun_goes_the_same_way_in_a_replay() -> None:
    """A limit may come while the wait has to give others their turn; a replay may come at once to where it waits."""
    pieces = iter([["a"] * 31, ["a" * 31]])  # the 32nd word waits for its turn

    async def step() -> str:
        return "stepped"

    async def code(ctx: Context) -> Any:
        for piece in next(pieces):
            await ctx.write(piece)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await ctx.ask("Quick?")
        return await ctx.tool(step)

    async def help_(b: Bench, run: str) -> None:
        await answer(b, run, "late")

    first, again, events = await twice(code, help_=help_)
    assert first == again == "stepped"
    assert len(of_type(events, "agent_waiting")) == 1


async def test_a_large_value_of_a_wait_or_step_that_is_left_before_its_turn_is_kept() -> None:
    async def step(text: str) -> None: ...

    async def code(ctx: Context) -> None:
        for number in range(80):  # some of them wait for their turn
            large = f"{number}" + "x" * 100_000
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await (ctx.ask(large) if number % 2 else ctx.tool(step, text=large))

    storage = MemoryStorage()
    events = await ended(code, storage=storage)
    values = [each.prompt for each in of_type(events, "agent_waiting")]
    values += [each.args for each in of_type(events, "tool_executing")]
    assert len(values) == 80
    for value in values:
        assert await storage.events.run_blob(events[0].run, value["$ref"])


async def test_an_answer_stored_before_the_agent_was_seen_to_leave_is_ignored_by_a_replay_too() -> None:
    """The answer stands in the log before the word that the agent had stopped waiting for it."""
    storage, gates, seen = MemoryStorage(), [Gate(), Gate()], list[Any]()
    gates[1].open()
    limits: list[tuple[asyncio.AbstractEventLoop, asyncio.Timeout]] = []

    async def step() -> None: ...

    async def agent(ctx: Context, message: str) -> Any:
        try:
            async with asyncio.timeout(0.2 if limits else None) as limit:
                limits.append((asyncio.get_running_loop(), limit))
                seen.append(await ctx.ask("Quick?"))
        except TimeoutError:
            seen.append("left")
            await ctx.tool(step)
        await gates.pop(0).pass_()
        return seen[-1]

    async with bench(agent, storage=storage, settings=replace(STAYS, signals_s=60.0)) as b:
        run, gate = await b.send(), gates[0]
        (wait,) = await waiting(b, run)
        # Its holder never hears of it.
        await storage.runs.answer("usr_ann", run, wait.wait, "in time, unheard")
        loop, limit = limits[0]
        loop.call_soon_threadsafe(limit.reschedule, 0.0)  # it leaves now, however long the answer took
        await gate.arrival()
    logged = types_of(await storage.events.read_run(run))
    assert logged.index("agent_resumed") < logged.index("step_started")
    async with bench(agent, storage=storage.restarted(), settings=STAYS) as b:
        assert last(await b.ended(run)).output == "left"
    assert seen == ["left", "left"]


async def test_waits_that_are_open_at_the_end_are_closed_with_it() -> None:
    async def code(ctx: Context) -> Any:
        try:
            async with asyncio.timeout(0.02):
                await ctx.ask("Anybody?")
        except TimeoutError:
            return "nobody"

    events = await ended(code)
    assert types_of(events)[-2:] == ["agent_resumed", "agent_completed"]
    assert [(each.value, each.by) for each in of_type(events, "agent_resumed")] == [(None, "ended")]


async def test_cancelling_a_run_that_waits_closes_its_waits_parked_or_not() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        await ctx.gather(ctx.ask("a"), ctx.approve("b"))

    for settings in (STAYS, PARKS):
        async with bench(agent, settings=settings) as b:
            run = await b.send()
            await waiting(b, run, 2)
            if settings is PARKS:
                await parked(b, run)
            await b.storage.runs.cancel("usr_ann", run, CancelRequest(by="user"))
            events = await b.ended(run)
        assert types_of(events)[-3:] == ["agent_resumed", "agent_resumed", "agent_cancelled"]


async def test_waiting_does_not_count_towards_the_deadline() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        before, began_s = ctx.deadline, time.monotonic()
        await ctx.sleep(0.4)
        return time.monotonic() - began_s - (before - ctx.deadline)

    async with bench(agent, settings=replace(STAYS, deadline_s=10.0)) as b:
        began_s = time.monotonic()
        events = await b.ended(await b.send())
        took_ms = (time.monotonic() - began_s) * 1000
    assert last(events).output > 0.3
    assert last(events).duration_ms < took_ms - 300


async def test_a_drained_worker_lets_go_of_a_run_that_waits_at_once() -> None:
    storage = MemoryStorage()

    async def agent(ctx: Context, message: str) -> Any:
        return await ctx.ask("?")

    async with bench(agent, storage=storage, settings=replace(STAYS, drain_s=30.0)) as b:
        run = await b.send()
        await waiting(b, run)
        async with asyncio.timeout(5):
            await b.worker.drain()
    async with bench(agent, storage=storage.restarted(), settings=STAYS) as b:
        await answer(b, run, "late shift")
        events = await b.ended(run)
    assert last(events).output == "late shift"
    assert types_of(events).count("agent_waiting") == 1


async def test_expired_waits_fail_in_words_for_the_person() -> None:
    async def helper(ctx: Context, message: str) -> None:
        await ctx.approve("?", timeout_s=0)

    async def code(ctx: Context) -> Any:
        async def tool() -> None:
            await ctx.ask("?", timeout_s=0)

        found = await ctx.gather(ctx.tool(tool), ctx.subagent(helper, "x"), return_exceptions=True)
        assert [type(each) for each in found] == [ToolFailed, SubagentFailed]
        assert {(each.code, each.message) for each in found} == {("wait_expired", "nobody answered in time")}
        await ctx.ask("?", timeout_s=0)

    events = await ended(code)
    assert last(events).message == "nobody answered in time"


REFUSED: dict[str, tuple[Callable[[Context], Any], str]] = {
    "a negative time": (
        lambda ctx: ctx.sleep(-1),
        "`seconds` is a number of seconds from 0 to a hundred years, not -1",
    ),
    "no time": (
        lambda ctx: ctx.sleep("soon"),  # type: ignore[arg-type] # the mistake
        "`seconds` is a number of seconds from 0 to a hundred years, not 'soon'",
    ),
    "no number": (
        lambda ctx: ctx.ask("?", timeout_s=float("nan")),
        "`timeout_s` is a number of seconds from 0 to a hundred years, not nan",
    ),
    "for ever": (
        lambda ctx: ctx.approve("?", timeout_s=float("inf")),
        "`timeout_s` is a number of seconds from 0 to a hundred years, not inf",
    ),
    "no prompt": (lambda ctx: ctx.ask(""), "`prompt` is what the person is asked, and is empty"),
    "an odd prompt": (
        lambda ctx: ctx.approve({"what": object()}),
        "the prompt: a value of type object has no JSON form; give a dict, list, text or number",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
async def test_a_mistake_is_told_to_its_author(mistake: str) -> None:
    call, sentence = REFUSED[mistake]

    async def code(ctx: Context) -> Any:
        with pytest.raises(PayloadError):
            await call(ctx)
        await call(ctx)

    events = await ended(code)
    assert types_of(events) == ["agent_started", "agent_failed"]
    assert last(events).message == sentence
    assert decode_data(events[-1]).code == "agent_error"
