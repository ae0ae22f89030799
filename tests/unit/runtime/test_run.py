"""What one run emits, and how it ends, when nothing goes wrong outside of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import structlog
from tests.unit.runtime.bench import QUICK, bench, play, types_of

from runwire.agents.context import Context, ToolFailed
from runwire.protocol.events import StoredEvent, decode_data
from runwire.storage.base import Storage

GOLDEN = [
    "agent_started",
    "agent_thinking",
    "tool_executing",
    "tool_completed",
    "message_started",
    "text_delta",
    "message_completed",
    "agent_completed",
]


def test_the_five_events_come_in_order() -> None:
    async def search(query: str) -> list[str]:
        return [query.upper()]

    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        await ctx.thinking(f"about {message}")
        found = await ctx.tool(search, query=message)
        for word in ("I ", "found ", found[0]):
            yield word

    async def body() -> None:
        async with bench(agent) as b:
            events = await b.ended(await b.send("x"))
            assert types_of(events) == GOLDEN
            by_type = {event.type: decode_data(event) for event in events}
            assert by_type["agent_started"].agent == "agent"
            assert by_type["agent_thinking"].text == "about x"
            assert by_type["tool_executing"].args == {"query": "x"}
            assert by_type["tool_completed"].result == ["X"]
            assert by_type["tool_completed"].call == by_type["tool_executing"].call
            assert by_type["message_completed"].content == "I found X"
            assert by_type["agent_completed"].output == "I found X"
            assert [event.attempt for event in events] == [1] * len(events)
            assert [event.seq for event in events] == list(range(2, 2 + len(events)))

    play(body)


def test_an_agent_without_tools_has_no_tool_events_and_its_string_is_a_message() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        return f"echo {message}"

    events = _ended(agent)
    assert types_of(events) == ["agent_started", "message_started", "message_completed", "agent_completed"]
    assert decode_data(events[2]).content == "echo hello"
    assert _last(events).output == "echo hello"


def test_a_returned_string_is_no_second_message_when_one_was_written() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        await ctx.message("shown")
        return "returned"

    events = _ended(agent)
    assert [decode_data(each).content for each in events if each.type == "message_completed"] == ["shown"]
    assert _last(events).output == "returned"


def test_yielded_text_is_one_message_for_each_stretch_and_joined_in_the_output() -> None:
    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        yield "one "
        yield "two"
        await ctx.thinking("hm")
        yield "three"

    events = _ended(agent)
    assert [decode_data(each).content for each in events if each.type == "message_completed"] == ["one two", "three"]
    assert _last(events).output == "one twothree"


def test_a_returned_value_is_the_output_as_json() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        return {"pair": (1, 2), "nothing": None}

    events = _ended(agent)
    assert types_of(events) == ["agent_started", "agent_completed"]
    assert _last(events).output == {"pair": [1, 2], "nothing": None}


def test_streams_of_thinking_and_messages_are_streamed_and_completed() -> None:
    async def pieces(*texts: str) -> AsyncIterator[str]:
        for text in texts:
            yield text

    async def agent(ctx: Context, message: str) -> Any:
        await ctx.thinking(pieces("let ", "me"))
        await ctx.message(pieces("a", "b"))
        await ctx.message(pieces("c"))

    events = _ended(agent)
    assert [decode_data(each).text for each in events if each.type == "agent_thinking"] == ["let me"]
    assert [decode_data(each).content for each in events if each.type == "message_completed"] == ["ab", "c"]


def test_a_tool_that_raises_fails_alone_and_shows_only_its_type() -> None:
    async def broken() -> None:
        raise ValueError("the secret reason")

    def spoken() -> None:
        raise ToolFailed("There is no such city.")

    async def agent(ctx: Context, message: str) -> Any:
        said = []
        for tool in (broken, spoken):
            try:
                await ctx.tool(tool)
            except ToolFailed as error:
                said.append(error.message)
        return said

    events = _ended(agent)
    completed = [decode_data(each) for each in events if each.type == "tool_completed"]
    assert [(each.ok, each.final) for each in completed] == [(False, True)] * 2
    assert "ValueError" in completed[0].error.message
    assert completed[1].error.message == "There is no such city."
    assert _last(events).output == [each.error.message for each in completed]
    assert b"secret" not in b"".join(bytes(each.data) for each in events)


def test_three_tools_in_a_row_have_a_beginning_and_an_end_each() -> None:
    def double(n: int) -> int:
        return n * 2

    async def agent(ctx: Context, message: str) -> Any:
        return [await ctx.tool(double, n=n) for n in range(3)]

    events = _ended(agent)
    assert types_of(events) == ["agent_started", *["tool_executing", "tool_completed"] * 3, "agent_completed"]
    calls = [decode_data(each).call for each in events if each.type.startswith("tool_")]
    assert calls[::2] == calls[1::2]
    assert len(set(calls)) == 3
    assert _last(events).output == [0, 2, 4]


def test_what_a_tool_says_is_said_inside_it_and_a_tool_may_call_tools() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        async def inner() -> str:
            return ctx.idempotency_key

        async def outer() -> Any:
            await ctx.thinking("inside")
            return await ctx.tool(inner)

        await ctx.tool(outer)
        return await ctx.tool(inner)

    events = _ended(agent)
    assert types_of(events)[1:6] == [
        "tool_executing",
        "agent_thinking",
        "tool_executing",
        "tool_completed",
        "tool_completed",
    ]
    outer = decode_data(events[1])
    assert events[2].scope.startswith(outer.step)
    assert [events[1].scope, events[3].scope, events[6].scope] == ["", events[2].scope, ""]


def test_a_plain_function_as_a_tool_runs_in_a_thread_of_its_own() -> None:
    def where() -> str:
        return threading.current_thread().name

    async def agent(ctx: Context, message: str) -> Any:
        return [threading.current_thread().name, await ctx.tool(where)]

    loop, tool = _last(_ended(agent)).output
    assert loop.startswith("runwire-agents")
    assert tool.startswith("runwire-call")


def test_a_tool_that_calls_sys_exit_ends_neither_the_loop_nor_the_server() -> None:
    def leave() -> None:
        raise SystemExit(3)

    async def agent(ctx: Context, message: str) -> Any:
        if message == "leave":
            await ctx.tool(leave)
        return "still here"

    async def body() -> None:
        async with bench(agent) as b:
            first = await b.ended(await b.send("leave"))
            assert _last(first).code == "agent_error"
            assert "SystemExit" in _last(first).message
            assert types_of(first)[-2:] == ["tool_completed", "agent_failed"]
            assert _last(await b.ended(await b.send("stay"))).output == "still here"

    play(body)


def test_a_task_that_calls_sys_exit_leaves_the_loop_alive() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        async def leave() -> None:
            raise SystemExit(3)

        if message == "leave":
            asyncio.get_running_loop().create_task(leave())
        await asyncio.sleep(0)
        return "still here"

    async def body() -> None:
        async with bench(agent) as b:
            for message in ("leave", "stay"):
                assert _last(await b.ended(await b.send(message))).output == "still here"

    play(body)


def test_an_agent_that_raises_fails_with_its_type_and_an_error_id_and_no_text() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        await ctx.thinking("this goes wrong")
        raise LookupError("the secret reason")

    events = _ended(agent)
    failed = _last(events)
    assert (events[-1].type, failed.code, failed.retryable) == ("agent_failed", "agent_error", False)
    assert "LookupError" in failed.message
    assert failed.error_id.startswith("err_")
    assert b"secret" not in b"".join(bytes(each.data) for each in events)


def test_an_agent_that_raises_inside_a_message_leaves_it_visibly_unfinished() -> None:
    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        yield "half a sen"
        raise LookupError

    events = _ended(agent)
    assert types_of(events)[-3:] == ["text_delta", "message_completed", "agent_failed"]
    assert decode_data(events[-2]).complete is False


class _Untold(ToolFailed):
    def __init__(self, *, city: str) -> None:
        self.city = city


_ERRORS: Any = [
    (lambda: ToolFailed(ValueError("boom")), "boom"),  # type: ignore[arg-type] # what authors write
    (lambda: ToolFailed(42), "42"),  # type: ignore[arg-type] # what authors write
    (lambda: ToolFailed("half \ud800 a pair\0"), "half ? a pair"),
    (lambda: ToolFailed("x" * 3_000), "x" * 2_000),
    (lambda: ToolFailed("x", code=["not text"]), "x"),  # type: ignore[arg-type] # what authors write
    (lambda: ToolFailed("x", retry_after_s="soon"), "x"),  # type: ignore[arg-type] # what authors write
    (lambda: _Untold(city="Ulm"), ""),
]


@pytest.mark.parametrize(("error", "said"), _ERRORS)
def test_whatever_an_agent_raises_as_an_error_of_its_own_can_be_stored(error: Any, said: str) -> None:
    async def agent(ctx: Context, message: str) -> Any:
        raise error()

    failed = _last(_ended(agent))
    assert (failed.code, failed.message, failed.retry_after_s) == ("agent_error", said, None)


@pytest.mark.parametrize(("error", "said"), _ERRORS)
def test_whatever_a_tool_raises_as_an_error_of_its_own_can_be_stored(error: Any, said: str) -> None:
    async def tool() -> None:
        raise error()

    async def agent(ctx: Context, message: str) -> Any:
        try:
            await ctx.tool(tool)
        except ToolFailed as failed:
            return failed.message

    events = _ended(agent)
    assert types_of(events)[1:3] == ["tool_executing", "tool_completed"]
    assert decode_data(events[2]).error.message == said
    assert _last(events).output == said


def test_a_tool_may_have_any_name() -> None:
    async def tool() -> str:
        return "fine"

    tool.__name__ = "\ud800\0" + "x" * 3_000

    async def agent(ctx: Context, message: str) -> Any:
        return await ctx.tool(tool)

    events = _ended(agent)
    assert decode_data(events[1]).name == "?" + "x" * 1_999
    assert _last(events).output == "fine"


@pytest.mark.parametrize("returned", [None, float("nan"), object(), "a\0b", {"x": {1, "\ud800"}}])
def test_what_is_no_result_fails_as_no_result(returned: object) -> None:
    async def agent(ctx: Context, message: str) -> Any:
        return returned

    assert _last(_ended(agent)).code == "no_result"


def test_an_agent_that_yields_nothing_has_no_result() -> None:
    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        for text in ("", ""):
            yield text

    assert _last(_ended(agent)).code == "no_result"


async def _written_too_much(ctx: Context, message: str) -> AsyncIterator[str]:
    for _ in range(2):
        await ctx.message("x" * 5_000_000)
    yield "and more"


async def _returned_nothing(ctx: Context, message: str) -> Any:
    return None


@pytest.mark.parametrize(
    ("agent", "code"), [(_written_too_much, "payload_too_large"), (_returned_nothing, "no_result")]
)
def test_the_log_names_the_ending_that_the_person_sees(agent: Any, code: str) -> None:
    with structlog.testing.capture_logs() as lines:
        failed = _last(_ended(agent))
    assert failed.code == code
    ended = [line for line in lines if line["event"] in {"run_completed", "run_failed"}]
    assert [(line["event"], line["code"], line["error_id"]) for line in ended] == [
        ("run_failed", code, failed.error_id)
    ]


@pytest.mark.parametrize(
    ("value", "code"),
    [("a\0b", "agent_error"), (float("inf"), "agent_error"), ("x" * 9_000_000, "payload_too_large")],
)
def test_a_value_that_cannot_be_stored_fails_where_it_is_emitted(value: Any, code: str) -> None:
    async def agent(ctx: Context, message: str) -> Any:
        await ctx.thinking("before")
        await ctx.custom("card", value)

    events = _ended(agent)
    assert types_of(events) == ["agent_started", "agent_thinking", "agent_failed"]
    assert _last(events).code == code


def test_an_agent_may_go_on_after_a_value_was_refused() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        try:
            await ctx.custom("card", float("nan"))
        except Exception as error:  # the author's way to find out
            return type(error).__name__

    assert _last(_ended(agent)).output == "PayloadError"


def test_large_fields_are_put_aside_and_can_be_read() -> None:
    long = "ä" * 70_000

    async def tool(text: str) -> str:
        return text

    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        await ctx.thinking(long)
        assert await ctx.tool(tool, text=long) == long
        await ctx.message(long)
        for start in range(0, len(long), 1000):
            yield long[start : start + 1000]

    async def body() -> None:
        async with bench(agent) as b:
            run = await b.send()
            events = await b.ended(run)
            assert max(len(each.data) for each in events) < 65_536
            by_type = {each.type: decode_data(each) for each in events}
            for field in (
                by_type["agent_thinking"].text,
                by_type["tool_completed"].result,
                by_type["message_completed"].content,
                by_type["agent_completed"].output,
            ):
                assert field["head"] == "ä" * 512
                expected = long * 2 if field == by_type["agent_completed"].output else long
                assert await _blob(b.storage, field["$ref"]) == expected
            assert await _blob(b.storage, by_type["tool_executing"].args["$ref"]) == {"text": long}

    play(body)


def test_history_is_what_was_said_in_ended_runs_then_the_own_message() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        if message == "second":
            return [ctx.history, ctx.user.id, ctx.run.startswith("run_"), ctx.thread.startswith("th_")]
        await ctx.thinking("not part of it")
        await ctx.write("answer ")
        await ctx.write("one")
        return None

    async def body() -> None:
        async with bench(agent) as b:
            first = await b.send("first")
            await b.ended(first)
            second = await b.send("second", thread=(await b.row(first)).thread)
            history = [
                {"role": "user", "content": "first"},
                {"role": "assistant", "content": "answer one"},
                {"role": "user", "content": "second"},
            ]
            assert _last(await b.ended(second)).output == [history, "usr_ann", True, True]

    play(body)


def test_the_deadline_ends_a_run_that_hangs_and_the_code_is_told() -> None:
    told = threading.Event()

    async def agent(ctx: Context, message: str) -> Any:
        await ctx.message("before")
        assert 0 < ctx.deadline <= 0.2
        try:
            await asyncio.Event().wait()
        finally:
            told.set()

    events = _ended(agent, deadline_s=0.2)
    assert _last(events).code == "deadline_exceeded"
    assert told.is_set()


def test_a_generator_that_is_not_read_to_its_end_is_closed_in_its_own_task() -> None:
    tasks: list[object] = []

    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        tasks.append(asyncio.current_task())
        try:
            yield "a\0b"
        finally:
            tasks.append(asyncio.current_task())

    assert _last(_ended(agent)).code == "agent_error"
    assert tasks[0] is tasks[1]


def test_a_deadline_inside_a_tool_closes_the_tool() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    async def agent(ctx: Context, message: str) -> Any:
        await ctx.tool(hang)

    events = _ended(agent, deadline_s=0.2)
    assert types_of(events) == ["agent_started", "tool_executing", "tool_completed", "agent_failed"]
    assert decode_data(events[2]).error.code == "deadline_exceeded"


def test_the_context_in_another_task_fails_the_run_even_if_nobody_looks() -> None:
    strays: list[asyncio.Task[None]] = []

    async def agent(ctx: Context, message: str) -> Any:
        async def stray() -> None:
            await ctx.thinking("beside")

        strays.append(asyncio.get_running_loop().create_task(stray()))
        await asyncio.Event().wait()

    events = _ended(agent)
    assert types_of(events) == ["agent_started", "agent_failed"]
    assert _last(events).code == "parallel_without_gather"


def test_parallel_tools_in_a_task_group_fail_the_run_with_what_to_do() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(ctx.tool(len, obj="x"))

    events = _ended(agent)
    assert _last(events).code == "parallel_without_gather"
    assert "another task" in _last(events).message


def test_tasks_that_an_agent_leaves_behind_are_cancelled_with_it() -> None:
    cancelled = threading.Event()

    async def agent(ctx: Context, message: str) -> Any:
        async def child() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        leftover = asyncio.get_running_loop().create_task(child())
        await asyncio.sleep(0)
        assert not leftover.done()
        return "done"

    async def body() -> None:
        async with bench(agent) as b:
            await b.ended(await b.send())
            await b.idle()
            await b.agent_turns(10)
            assert cancelled.is_set()

    play(body)


def _ended(agent: Any, **settings: Any) -> list[StoredEvent]:
    """Run an agent once and return its events."""
    events: list[StoredEvent] = []

    async def body() -> None:
        async with bench(agent, settings=replace(QUICK, **settings)) as b:
            events.extend(await b.ended(await b.send()))

    play(body)
    return events


def _last(events: list[StoredEvent]) -> Any:
    return decode_data(events[-1])


async def _blob(storage: Storage, ref: str) -> Any:
    return msgspec.json.decode(await storage.events.blob("usr_ann", ref))


class _Stream:
    """As clients of models have it: what is iterated over is made anew, and must be closed itself."""

    def __init__(self, log: list[str]) -> None:
        self._log = log

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            for part in ("a", 5, "b"):
                yield part
        finally:
            await asyncio.sleep(0)
            self._log.append("closed")


@pytest.mark.parametrize("use", ["message", "thinking"])
@pytest.mark.parametrize("kind", ["generator", "object"])
def test_a_stream_that_is_not_read_to_its_end_is_closed_before_the_agent_goes_on(use: str, kind: str) -> None:
    log: list[str] = []

    async def agent(ctx: Context, message: str) -> Any:
        made = _Stream(log)
        try:
            await getattr(ctx, use)(made if kind == "object" else made.__aiter__())
        except Exception as error:  # the author's way to find out
            log.append(type(error).__name__)

    _ended(agent)
    assert log == ["closed", "PayloadError"]


def test_what_a_stream_says_when_it_is_closed_is_said_at_its_place() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        async def words() -> AsyncIterator[Any]:
            try:
                yield "a"
                yield 5
            finally:
                await ctx.thinking("closed")

        try:
            await ctx.message(words())
        except Exception:
            await ctx.thinking("went wrong")

    thoughts = [decode_data(each).text for each in _ended(agent) if each.type == "agent_thinking"]
    assert thoughts == ["closed", "went wrong"]
