"""A worker dies; the next one goes on with the run against its own log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from tests.unit.runtime.bench import QUICK, Bench, Gate, bench, play, types_of
from tests.unit.runtime.faults import FaultyStorage

from runwire.agents.context import Context, ToolFailed, User
from runwire.protocol.events import StoredEvent, decode_data
from runwire.protocol.view import ThreadView
from runwire.runtime.clock import now_ms
from runwire.storage.base import Batch, CancelRequest
from runwire.storage.memory.storage import MemoryStorage


def test_a_run_cut_off_in_mid_message_goes_on_in_the_same_message_at_the_offset() -> None:
    gates = [Gate(), Gate()]

    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        yield "Hello "
        await gates.pop(0).pass_()
        yield "world"

    async def body() -> None:
        storage, first = MemoryStorage(), gates[0]
        gates[1].open()
        async with bench(agent, storage=storage) as b:
            run = await b.send()
            await first.arrival()
            await b.until(lambda: _has(b, run, "text_delta"))
        async with bench(agent, storage=storage.restarted()) as b:
            events = await b.ended(run)
        started = [decode_data(each) for each in events if each.type == "message_started"]
        deltas = [decode_data(each) for each in events if each.type == "text_delta"]
        assert len(started) == 1
        assert [(each.message, each.offset, each.text) for each in deltas] == [
            (started[0].message, 0, "Hello "),
            (started[0].message, 6, "world"),
        ]
        retrying = next(each for each in events if each.type == "agent_retrying")
        assert (decode_data(retrying).attempt, decode_data(retrying).reason) == (2, "worker_lost")
        assert decode_data(events[-1]).output == "Hello world"

    play(body)


def test_a_finished_tool_is_not_called_again_and_a_cut_off_one_is_closed_and_repeated() -> None:
    gates = [Gate(), Gate()]
    calls: list[str] = []

    async def first_tool() -> dict[str, int]:
        calls.append("first")
        return {"n": 1}

    async def second_tool() -> str:
        calls.append("second")
        await gates.pop(0).pass_()
        return "two"

    async def agent(ctx: Context, message: str) -> Any:
        await ctx.thinking("begin")
        return [await ctx.tool(first_tool), await ctx.tool(second_tool)]

    async def body() -> None:
        storage, gate = MemoryStorage(), gates[0]
        gates[1].open()
        async with bench(agent, storage=storage) as b:
            run = await b.send()
            await gate.arrival()
        async with bench(agent, storage=storage.restarted()) as b:
            events = await b.ended(run)
        assert calls == ["first", "second", "second"]
        assert types_of(events) == [
            "agent_started",
            "agent_thinking",
            "tool_executing",
            "tool_completed",
            "tool_executing",
            "agent_retrying",
            "tool_completed",
            "tool_executing",
            "tool_completed",
            "agent_completed",
        ]
        tries = [decode_data(each) for each in events if each.type.startswith("tool_")][2:]
        assert [each.try_ for each in tries] == [1, 1, 2, 2]
        assert [each.final for each in tries[1::2]] == [False, True]
        assert decode_data(events[-1]).output == [{"n": 1}, "two"]

    play(body)


def test_a_recorded_failure_is_raised_again_in_the_same_words() -> None:
    gates = [Gate(), Gate()]
    calls: list[int] = []

    async def broken() -> None:
        calls.append(1)
        raise LookupError("secret")

    async def agent(ctx: Context, message: str) -> Any:
        try:
            await ctx.tool(broken)
        except ToolFailed as error:
            said = error.message
        await ctx.message(said)
        await gates.pop(0).pass_()
        return said

    async def body() -> None:
        storage, gate = MemoryStorage(), gates[0]
        gates[1].open()
        async with bench(agent, storage=storage) as b:
            run = await b.send()
            await gate.arrival()
            await b.until(lambda: _has(b, run, "message_completed"))
        async with bench(agent, storage=storage.restarted()) as b:
            events = await b.ended(run)
        assert calls == [1]
        assert "superseded" not in types_of(events)
        assert types_of(events).count("message_completed") == 1

    play(body)


def test_what_an_attempt_read_at_first_every_later_one_reads_again() -> None:
    gates = [Gate(), Gate()]

    async def agent(ctx: Context, message: str) -> Any:
        await gates.pop(0).pass_()
        return [ctx.user.name, sorted(ctx.user.roles), ctx.history, round(ctx.deadline)]

    async def body() -> None:
        storage, gate = MemoryStorage(), gates[0]
        gates[1].open()
        settings = replace(QUICK, deadline_s=300)
        ann = User(id="usr_ann", name="Ann", roles=frozenset({"operator"}))
        async with bench(agent, storage=storage, settings=settings, who=lambda _: ann) as b:
            run = await b.send()
            await gate.arrival()
            await b.until(lambda: _has(b, run, "agent_started"))
            behind = await b.send("queued behind it", thread=(await b.row(run)).thread)
            await storage.runs.cancel("usr_ann", behind, CancelRequest(by="user"))  # ended, but not before this run
        settings = replace(QUICK, deadline_s=5)
        async with bench({"other": agent, "agent": agent}, storage=storage.restarted(), settings=settings) as b:
            output = decode_data((await b.ended(run))[-1]).output
        assert output == ["Ann", ["operator"], [{"role": "user", "content": "hello"}], 300]

    play(body)


def test_large_recorded_results_are_read_back_for_the_replay() -> None:
    gates = [Gate(), Gate()]
    calls: list[int] = []

    async def big() -> str:
        calls.append(1)
        return "x" * 100_000

    async def agent(ctx: Context, message: str) -> Any:
        text = await ctx.tool(big)
        again = await ctx.tool(same, text=text)
        await ctx.message(text)
        await gates.pop(0).pass_()
        return [len(text), again]

    async def same(text: str) -> int:
        return len(text)

    async def body() -> None:
        storage, gate = MemoryStorage(), gates[0]
        gates[1].open()
        async with bench(agent, storage=storage) as b:
            run = await b.send()
            await gate.arrival()
            await b.until(lambda: _has(b, run, "message_completed"))
        async with bench(agent, storage=storage.restarted()) as b:
            events = await b.ended(run)
        assert calls == [1]
        assert decode_data(events[-1]).output == [100_000, 100_000]
        assert "superseded" not in types_of(events)

    play(body)


def test_an_agent_that_calls_another_tool_after_a_crash_fails_and_says_what_it_found() -> None:
    gates = [Gate(), Gate()]
    names = iter(["one", "two"])

    async def one() -> None: ...

    async def two() -> None: ...

    async def agent(ctx: Context, message: str) -> Any:
        try:
            await ctx.tool({"one": one, "two": two}[next(names)])
        except Exception:
            return "swallowed"
        return await gates.pop(0).pass_()

    async def body() -> None:
        storage, gate = MemoryStorage(), gates[0]
        async with bench(agent, storage=storage) as b:
            run = await b.send()
            await gate.arrival()
            await b.until(lambda: _has(b, run, "tool_completed"))
        async with bench(agent, storage=storage.restarted()) as b:
            failed = decode_data((await b.ended(run))[-1])
        assert failed.code == "nondeterministic_agent"
        assert "one" in failed.message
        assert "two" in failed.message

    play(body)


def test_five_crashes_without_progress_end_the_run_as_worker_lost() -> None:
    arrivals = [Gate() for _ in range(9)]
    count = 0

    async def agent(ctx: Context, message: str) -> Any:
        nonlocal count
        count += 1
        await ctx.thinking("the same each time")
        await arrivals[count - 1].pass_()

    async def body() -> None:
        storage = MemoryStorage()
        run = ""
        for attempt in range(1, 7):
            async with bench(agent, storage=storage) as b:
                run = run or await b.send()
                await arrivals[attempt - 1].arrival()
                await b.until(partial(_is_attempt, b, run, attempt))
            storage = storage.restarted()
        async with bench(agent, storage=storage) as b:
            events = await b.ended(run)
        assert count == 6  # the first one got somewhere, five got nowhere
        assert decode_data(events[-1]).code == "worker_lost"
        assert types_of(events).count("agent_thinking") == 1

    play(body)


def test_silence_before_each_loss_counts_towards_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    gates = [Gate(), Gate()]
    later_ms = 0
    for module in (
        "journal",
        "outbox",
    ):  # what an attempt's beginning is measured with, and what events are stamped with
        monkeypatch.setattr(f"runwire.runtime.{module}.now_ms", lambda: now_ms() + later_ms)

    async def silent(ctx: Context, message: str) -> Any:
        if gates:
            await gates.pop(0).pass_()
        return round(ctx.deadline)

    async def body() -> None:
        nonlocal later_ms
        storage, settings = MemoryStorage(), replace(QUICK, deadline_s=300)
        run = ""
        for attempt, silence_ms in ((1, 60_000), (2, 90_000)):
            gate = gates[0]
            async with bench(silent, storage=storage, settings=settings) as b:
                run = run or await b.send()
                await gate.arrival()
                await b.until(partial(_is_attempt, b, run, attempt))
            later_ms += silence_ms
            storage = storage.restarted()
        async with bench(silent, storage=storage, settings=settings) as b:
            done = decode_data((await b.ended(run))[-1])
        assert done.output == pytest.approx(300 - 60 - 90, abs=5)  # the attempts' own real time is a part of a second

    play(body)


def test_however_long_nobody_ran_it_a_run_has_time_left_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    gates = [Gate(), Gate()]

    async def agent(ctx: Context, message: str) -> Any:
        await gates.pop(0).pass_()
        return round(ctx.deadline)

    async def body() -> None:
        storage, first = MemoryStorage(), gates[0]
        gates[1].open()
        settings = replace(QUICK, deadline_s=300)
        async with bench(agent, storage=storage, settings=settings) as b:
            run = await b.send()
            await first.arrival()
            await b.until(lambda: _has(b, run, "agent_started"))
        monkeypatch.setattr("runwire.runtime.journal.now_ms", lambda: now_ms() + 3_600_000)
        async with bench(agent, storage=storage.restarted(), settings=settings) as b:
            done = decode_data((await b.ended(run))[-1])
        assert done.output == 60  # a fifth
        assert done.duration_ms < 10_000

    play(body)


async def _look_up(n: int) -> list[int]:
    return [n, n * n]


async def _story(ctx: Context, message: str) -> AsyncIterator[str]:
    """Say things of every kind, each committed before the next, so that there is an append to die at for each."""
    for n in range(3):
        await ctx.thinking(f"part {n}")
        await _committed(ctx)
        yield f"Part {n}: "
        found = await ctx.tool(_look_up, n=n)
        await _committed(ctx)
        for piece in ("found ", str(found[1]), ". "):
            yield piece
            await _committed(ctx)
        await ctx.custom("progress", {"done": n})


async def _committed(ctx: Context) -> None:
    speaker: Any = ctx._attempt
    await speaker._buffer.flushed()


@pytest.mark.parametrize("kept", [True, False], ids=["stored", "not stored"])
@pytest.mark.parametrize("second", [1, 3])
def test_a_run_killed_at_any_append_shows_what_an_undisturbed_run_shows(kept: bool, second: int) -> None:
    async def body() -> None:
        async with bench(_story) as b:
            expected = _shown(await b.storage.events.read_run(await _play_one(b)))
        first, was_killed = 0, True
        while was_killed:
            first += 1
            inner = MemoryStorage()
            run, was_killed = await _killed_at(inner, None, at=first, kept=kept)
            await _killed_at(inner.restarted(), run, at=second, kept=kept)
            async with bench(_story, storage=inner.restarted()) as b:
                await b.ended(run)
                logged = await b.storage.events.read_run(run)
            assert _shown(logged) == expected
            assert [each.seq for each in logged] == list(range(1, len(logged) + 1))
        assert first > 18  # one append at least for each thing that the story says

    play(body)


async def _killed_at(inner: MemoryStorage, run: str | None, *, at: int, kept: bool) -> tuple[str, bool]:
    """Play the story with a worker that dies at its n-th append, whose batch is stored or not."""
    storage = FaultyStorage(inner)
    dead = asyncio.Event()

    def die(_batches: Sequence[Batch]) -> bool:
        if len(storage.events.appends) >= at:
            dead.set()
        return dead.is_set()

    storage.events.lose_batches = (lambda _batches: False) if kept else die
    storage.events.lose_reply = die if kept else (lambda _batches: False)
    async with bench(_story, storage=storage) as b:
        run = run or await b.send()

        async with asyncio.TaskGroup() as waiting:
            ended = waiting.create_task(b.ended(run))
            died = waiting.create_task(dead.wait())
            await asyncio.wait([ended, died], return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            died.cancel()
    return run, dead.is_set()


def _shown(logged: Sequence[StoredEvent]) -> dict[str, Any]:
    """Return what a person sees in the end, without ids and times."""
    view = ThreadView()
    for event in logged:
        assert view.apply(event)
    [run] = view.runs.values()
    return {
        "messages": [(each.role, str(each.content), each.complete) for each in view.messages.values()],
        "thoughts": [str(each.text) for each in run.thinking.values()],
        "customs": [each.value for each in run.opaque.values()],
        "tools": [(each.name, each.args, each.result) for each in run.steps.values() if each.final],
        "output": run.output,
        "status": run.status,
    }


async def _play_one(b: Bench) -> str:
    run = await b.send()
    await b.ended(run)
    return run


async def _has(b: Bench, run: str, event_type: str) -> bool:
    return any(event.type == event_type for event in await b.events(run))


async def _is_attempt(b: Bench, run: str, attempt: int) -> bool:
    return (await b.events(run))[-1].attempt == attempt
