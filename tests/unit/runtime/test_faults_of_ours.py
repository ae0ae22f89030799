"""Whatever goes wrong in the server itself, the run ends, and somebody can see it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.unit.runtime.bench import Bench, Gate, bench, play, types_of
from tests.unit.runtime.faults import FaultyStorage

from runwire.agents.context import Context
from runwire.protocol.events import decode_data
from runwire.protocol.replay import Replay
from runwire.runtime.outbox import Buffer
from runwire.runtime.speech import Speaker
from runwire.storage.base import Batch, CancelRequest

BY_USER = CancelRequest(by="user")


@pytest.mark.parametrize(
    ("faults", "expected"),
    [(1, ["agent_started", "agent_failed"]), (2, ["agent_failed"]), (1000, ["agent_failed"])],
)
def test_a_run_whose_log_cannot_be_read_ends_all_the_same(faults: int, expected: list[str]) -> None:
    async def agent(ctx: Context, message: str) -> Any:
        return "never"

    async def body() -> None:
        storage = FaultyStorage()
        left, read, read_run = faults, storage.events.read, storage.events.read_run

        def failing(real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def fail(*args: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left >= 0:
                    raise LookupError("a fault of ours")
                return await real(*args, **options)

            return fail

        async with bench(agent, storage=storage) as b:
            storage.events.read, storage.events.read_run = failing(read), failing(read_run)
            run = await b.send()
            await b.until(lambda: _is_over(b, run))
            storage.events.read, storage.events.read_run = read, read_run
            events = await b.ended(run)
            assert types_of(events) == expected
            assert decode_data(events[-1]).code == "internal"
            assert (await b.row(run)).error["code"] == "internal"  # type: ignore[index] # it has ended as failed
            await b.idle()

    play(body)


@pytest.mark.parametrize("place", [(Speaker, "conclude"), (Replay, "close_all"), (Buffer, "flushed")])
def test_a_run_whose_end_fails_is_ended_from_its_log(place: tuple[type, str], monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()

    async def slow() -> None:
        await gate.pass_()

    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        yield "half a sen"
        await ctx.tool(slow)

    owner, name = place
    real = getattr(owner, name)

    def fail_once(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(owner, name, real)
        raise LookupError("a fault of ours")

    async def body() -> None:
        async with bench(agent) as b:
            run = await b.send()
            await gate.arrival()
            monkeypatch.setattr(owner, name, fail_once)
            await b.storage.runs.cancel("usr_ann", run, BY_USER)
            events = await b.ended(run)
            assert types_of(events)[-2:] in (["tool_completed", "agent_failed"], ["tool_completed", "agent_cancelled"])
            await b.idle()
            assert b.worker.abandoned == 0

    play(body)


def test_a_run_whose_last_words_cannot_be_stored_either_ends_with_bare_ones() -> None:
    async def agent(ctx: Context, message: str) -> Any:
        await ctx.thinking("hm")
        return "fine"

    def is_not_bare(batch: Batch) -> bool:
        return [event.type for event in batch.events] != ["agent_failed"]

    async def body() -> None:
        storage = FaultyStorage()
        storage.events.refuse = is_not_bare
        async with bench(agent, storage=storage) as b:
            run = await b.send()
            events = await b.ended(run)
            assert types_of(events) == ["agent_failed"]
            assert decode_data(events[-1]).code == "internal"
            await b.idle()

    play(body)


async def _is_over(b: Bench, run: str) -> bool:
    return (await b.row(run)).ended_at is not None
