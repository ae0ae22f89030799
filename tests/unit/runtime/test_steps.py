"""What is called through the Context: once, with its result recorded, as the type it says, tried again if it may be."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from tests.unit.runtime.bench import Gate, bench, types_of
from tests.unit.runtime.faults import FaultyStorage
from tests.unit.runtime.twice import ended, last, of_type, twice

import runwire
from runwire import OutcomeUnknown, ToolFailed
from runwire.agents import steps
from runwire.agents.context import Context
from runwire.errors import PayloadError
from runwire.storage.memory.storage import MemoryStorage


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_FIRST_PAUSE_S", 0.002)


@dataclass(frozen=True)
class Order:
    number: int
    at: datetime
    tags: frozenset[str]


ORDER = Order(7, datetime(2026, 11, 22, tzinfo=UTC), frozenset({"a", "b"}))


async def test_a_step_is_like_a_tool_that_no_client_sees() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    async def code(ctx: Context) -> Any:
        return [await ctx.step("add", add, 1, 2), await ctx.step("add", functools.partial(add, b=3), 1)]

    first, again, events = await twice(code)
    assert first == again == [3, 4]
    assert types_of(events)[:5] == ["agent_started", *["step_started", "step_completed"] * 2]
    assert [(each.name, each.args) for each in of_type(events, "step_started")] == [("add", [1, 2]), ("add", [1])]
    assert [each.result for each in of_type(events, "step_completed")] == [3, 4]


async def test_a_result_has_its_declared_type_live_and_in_a_replay() -> None:
    calls: list[str] = []

    async def find() -> Order:
        calls.append("find")
        return ORDER

    def untyped():  # type: ignore[no-untyped-def] # that it has no annotation is the point
        return ORDER

    @runwire.tool(returns=dict[str, Any])
    def asked() -> Order:
        return ORDER

    async def code(ctx: Context) -> Any:
        return [
            await ctx.tool(find),
            await ctx.step("find", find),
            await ctx.tool(untyped),
            await ctx.step("number", lambda: "5", returns=str),
            await ctx.step("untyped", untyped, returns=Order),
            await ctx.tool(asked),
        ]

    first, again, _ = await twice(code)
    plain = {"number": 7, "at": "2026-11-22T00:00:00Z", "tags": ["a", "b"]}
    assert first == again == [ORDER, ORDER, plain, "5", ORDER, plain]
    assert calls == ["find", "find"]


async def test_a_result_that_is_not_what_it_says_fails_once_and_names_the_place() -> None:
    calls: list[int] = []

    @runwire.tool(retry=3)
    def count() -> list[int]:
        calls.append(1)
        return [1, "two"]  # type: ignore[list-item] # that it is wrong is the point

    async def code(ctx: Context) -> Any:
        try:
            await ctx.tool(count)
        except ToolFailed as error:
            return error.code, error.message

    first, again, events = await twice(code)
    assert first == again
    assert first == (
        "result_type",
        "What count returned is not what it says it returns: Expected `int`, got `str` - at `$[1]`",
    )
    assert calls == [1]
    assert [(each.ok, each.final, each.error.code) for each in of_type(events, "tool_completed")] == [
        (False, True, "result_type")
    ]


@pytest.mark.parametrize("is_tool", [True, False], ids=["tool", "step"])
async def test_a_function_that_raises_is_tried_again_and_what_it_said_is_taken_back(is_tool: bool) -> None:
    keys: list[str] = []

    async def code(ctx: Context) -> Any:
        @runwire.tool(name="flaky", retry=3)
        async def flaky() -> str:
            keys.append(ctx.idempotency_key)
            await ctx.thinking(f"try {len(keys)}")
            await ctx.custom("try", len(keys))
            if len(keys) < 3:
                raise OSError("busy")
            return "at last"

        return await (ctx.tool(flaky) if is_tool else ctx.step("flaky", flaky, retry=3))

    first, again, events = await twice(code)
    assert first == again == "at last"
    assert len(keys) == 3
    assert len(set(keys)) == 1, "it is the same call to the other side"
    kind = "tool" if is_tool else "step"
    tries = of_type(events, f"{kind}_completed")
    assert [(each.try_, each.ok, each.final) for each in tries] == [
        (1, False, False),
        (2, False, False),
        (3, True, True),
    ]
    thoughts = [event for event in events if event.type in ("agent_thinking", "custom")]
    taken_back = [seq for each in of_type(events, "superseded") for seq in each.events]
    assert taken_back == [event.seq for event in thoughts[:4]]


async def test_what_a_try_said_is_taken_back_only_once_it_has_a_seq() -> None:
    storage, gate, tries = FaultyStorage(), Gate(), list[int]()

    @runwire.tool(retry=2)
    async def flaky(ctx: Context) -> int:
        tries.append(1)
        if len(tries) == 1:
            storage.events.is_open.clear()  # what it says now is not stored yet when it raises
            await ctx.thinking("a try")
            gate.arrive()
            raise ToolFailed("no")
        return 1

    async def agent(ctx: Context, message: str) -> Any:
        return await ctx.tool(functools.partial(flaky, ctx))

    async with bench(agent, storage=storage) as b:
        run = await b.send()
        await gate.arrival()
        await b.agent_turns(5)
        storage.events.is_open.set()
        events = await b.ended(run)
    assert len(tries) == 2
    (thought,) = [event for event in events if event.type == "agent_thinking"]
    assert [each.events for each in of_type(events, "superseded")] == [[thought.seq]]


async def test_tries_come_to_an_end_and_the_last_failure_is_what_the_agent_gets() -> None:
    calls: list[int] = []

    @runwire.tool(retry=2)
    async def broken() -> None:
        calls.append(1)
        raise ToolFailed(f"The shop is closed ({len(calls)}).", code="closed")

    async def code(ctx: Context) -> Any:
        try:
            await ctx.tool(broken)
        except ToolFailed as error:
            return error.code, error.message

    first, again, events = await twice(code)
    assert first == again == ("closed", "The shop is closed (2).")
    assert [each.final for each in of_type(events, "tool_completed")] == [False, True]


async def test_tries_that_raised_count_after_a_crash_and_one_that_was_cut_off_does_not() -> None:
    storage, gates, calls = MemoryStorage(), [Gate(), Gate()], list[int]()
    gates[1].open()

    @runwire.tool(retry=3)
    async def flaky() -> str:
        calls.append(len(calls) + 1)
        if len(calls) == 2:
            await gates[0].pass_()  # and here the process dies
        if len(calls) < 4:
            raise OSError
        return "fourth"

    async def agent(ctx: Context, message: str) -> Any:
        return await ctx.tool(flaky)

    async with bench(agent, storage=storage) as b:
        run = await b.send()
        await gates[0].arrival()
    async with bench(agent, storage=storage.restarted()) as b:
        events = await b.ended(run)
    # 1 raised, 2 was cut off and does not count, 3 raised, 4 was the third of those that count.
    assert last(events).output == "fourth"
    assert [each.final for each in of_type(events, "tool_completed")] == [False, False, False, True]


async def test_a_step_that_must_not_be_repeated_says_that_its_outcome_is_unknown() -> None:
    storage, gate, calls, keys = MemoryStorage(), Gate(), list[str](), list[str]()

    async def agent(ctx: Context, message: str) -> Any:
        @runwire.tool(on_crash="fail")
        async def pay() -> None:
            calls.append(ctx.idempotency_key)
            await gate.pass_()

        try:
            await ctx.tool(pay)
        except OutcomeUnknown as error:
            keys.append(error.idempotency_key)
            return error.message

    async with bench(agent, storage=storage) as b:
        run = await b.send()
        await gate.arrival()
    async with bench(agent, storage=storage.restarted()) as b:
        events = await b.ended(run)
    assert len(calls) == 1
    assert keys == calls
    assert last(events).output.startswith("A crash cut off pay. Whether it took effect is unknown")
    assert [each.final for each in of_type(events, "tool_completed")] == [False]


async def test_a_time_limit_between_two_tries_ends_the_call_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_pause_s", lambda _key, _raised: 60.0)
    calls: list[int] = []

    @runwire.tool(retry=5)
    async def broken() -> None:
        calls.append(1)
        raise OSError

    async def code(ctx: Context) -> Any:
        try:
            async with asyncio.timeout(0.05):
                await ctx.tool(broken)
        except TimeoutError:
            return "too slow"

    first, again, events = await twice(code)
    assert first == again == "too slow"
    assert calls == [1]
    assert [(each.try_, each.final) for each in of_type(events, "tool_completed")] == [(1, False), (2, True)]


def test_pauses_grow_differ_and_are_the_same_again() -> None:
    drawn = [steps._pause_s("run_1:st_1", n) for n in range(1, 40)]
    assert drawn == [steps._pause_s("run_1:st_1", n) for n in range(1, 40)]
    assert all(0 <= each <= min(0.002 * 2 ** (n - 1), 30) for n, each in enumerate(drawn, start=1))
    assert drawn != [steps._pause_s("run_2:st_1", n) for n in range(1, 40)]
    assert max(drawn) > 10


async def test_an_unknown_outcome_inside_a_tool_is_not_tried_again() -> None:
    storage, gate, calls = MemoryStorage(), Gate(), list[str]()

    async def agent(ctx: Context, message: str) -> Any:
        async def pay() -> None:
            calls.append("pay")
            await gate.pass_()

        @runwire.tool(retry=5)
        async def order() -> None:
            calls.append("order")
            await ctx.step("pay", pay, on_crash="fail")

        try:
            await ctx.tool(order)
        except ToolFailed as error:
            return error.code

    async with bench(agent, storage=storage) as b:
        run = await b.send()
        await gate.arrival()
    async with bench(agent, storage=storage.restarted()) as b:
        events = await b.ended(run)
    assert last(events).output == "outcome_unknown"
    assert calls == ["order", "pay", "order"]


async def test_the_idempotency_key_is_seen_by_threads_and_inner_calls_have_their_own() -> None:
    keys: dict[str, str] = {}

    async def code(ctx: Context) -> Any:
        def inner() -> None:
            keys[threading.current_thread().name[:12]] = ctx.idempotency_key

        async def outer() -> None:
            keys["before"] = ctx.idempotency_key
            await ctx.tool(inner)
            keys["after"] = ctx.idempotency_key

        await ctx.tool(outer)
        return ctx.idempotency_key == ctx.run

    assert last(await ended(code)).output is True
    assert keys["before"] == keys["after"] != keys["runwire-call"]


async def test_the_time_and_what_is_drawn_are_the_same_in_a_replay_and_close_no_message() -> None:
    async def code(ctx: Context) -> Any:
        async def inside() -> list[Any]:
            return [ctx.random(), str(ctx.uuid())]

        await ctx.write("It is ")
        at = await ctx.now()
        await ctx.write("now.")
        return [at, ctx.random(), ctx.random(), ctx.uuid(), ctx.uuid(), await ctx.tool(inside), await ctx.now()]

    first, again, events = await twice(code)
    assert first == again
    at, a, b, one, two, inside, later = first
    assert at <= later <= datetime.now(tz=UTC)
    assert at.utcoffset().total_seconds() == 0
    assert all(0 <= each < 1 for each in (a, b, inside[0]))
    assert len({a, b, inside[0]}) == 3
    assert len({one, two, UUID(inside[1])}) == 3
    assert [each.version for each in (one, two)] == [4, 4]
    assert [each.content for each in of_type(events, "message_completed")] == ["It is now."]
    assert [each.name for each in of_type(events, "step_started")] == ["ctx.now"] * 2


def _never() -> None:
    raise AssertionError("it must not be called")


async def _coroutine() -> None: ...


REFUSED: dict[str, tuple[Callable[[Context], Any], str]] = {
    "a call": (
        lambda ctx: ctx.tool(_coroutine()),  # type: ignore[arg-type] # the mistake
        "`fn` is called already: give the function and its arguments, as in `ctx.tool(_coroutine, …)`",
    ),
    "no function": (lambda ctx: ctx.tool(7), "`fn` is a function to call, not 7"),  # type: ignore[arg-type] # the mistake
    "an argument": (
        lambda ctx: ctx.tool(_never, text=object()),
        "argument text of _never: a value of type object has no JSON form; give a dict, list, text or number",
    ),
    "an argument of a step": (
        lambda ctx: ctx.step("count", _never, 1, float("nan")),
        "argument 2 of count: NaN and Infinity are not JSON; give None or text",
    ),
    "no name": (lambda ctx: ctx.step("", _never), "`name` is a text of 1 to 200 characters, not ''"),
    "another name": (
        lambda ctx: ctx.step(7, _never),  # type: ignore[arg-type] # the mistake
        "`name` is a text of 1 to 200 characters, not 7",
    ),
    "no tries": (
        lambda ctx: ctx.step("x", _never, retry=0),
        "`retry` says how many tries a call has, 1 to 100, and is not 0",
    ),
    "another word": (
        lambda ctx: ctx.step("x", _never, on_crash="ignore"),  # type: ignore[arg-type] # the mistake
        '`on_crash` is "retry" or "fail", not \'ignore\'',
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
async def test_a_mistake_is_told_to_its_author(mistake: str) -> None:
    call, sentence = REFUSED[mistake]

    async def code(ctx: Context) -> Any:
        with pytest.raises(PayloadError) as raised:
            await call(ctx)
        assert raised.value.message == sentence
        await call(ctx) if mistake != "a call" else await ctx.tool(None)  # type: ignore[arg-type] # the mistake

    events = await ended(code)
    assert types_of(events) == ["agent_started", "agent_failed"]
    assert last(events).code == "agent_error"
    assert last(events).message in (sentence, "`fn` is a function to call, not None")
