"""What agents report to have used: summed up in the log, counted once for their person, and refused over a limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.unit.runtime.bench import Bench, Gate, bench
from tests.unit.runtime.twice import last, twice

from runwire.agents.context import Context
from runwire.errors import PayloadError
from runwire.resilience.quotas import Allowance, Quota
from runwire.runtime.limits import WorkerSettings
from runwire.runtime.spending import MICRO, Spending
from runwire.runtime.workshop import Workshop
from runwire.storage.memory.storage import MemoryStorage

DAY_S = 86_400
SETTINGS = WorkerSettings(grace_s=0.1, signals_s=0.05, poll_s=0.05)


@asynccontextmanager
async def limited(
    code: Any, *, tokens: int | None = None, cost: float | None = None, **more: Any
) -> AsyncIterator[Any]:
    """Run a worker whose people may use so much a day; gives the bench and the allowances."""
    allowed = [
        None if limit is None else Allowance(Quota(name=name, limit=round(limit), period_s=DAY_S))
        for name, limit in (("user_tokens", tokens), ("user_cost", None if cost is None else cost * MICRO))
    ]
    spending = Spending(tokens=allowed[0], cost=allowed[1])
    workshop = Workshop(SETTINGS, spending=spending)
    async with asyncio.TaskGroup() as tasks:
        counting = tasks.create_task(spending.run())
        async with bench(code, settings=SETTINGS, workshop=workshop, **more) as b:
            yield b, *allowed
        counting.cancel()


async def test_a_run_ends_with_the_sum_of_what_it_reported() -> None:
    async def code(ctx: Context, _message: str) -> str:
        await ctx.usage(input_tokens=100, output_tokens=20, cost=0.5)
        await ctx.usage(output_tokens=3)
        return "done"

    async with bench(code) as b:
        assert last(await b.ended(await b.send())).usage == {"input_tokens": 100, "output_tokens": 23, "cost": 0.5}


async def test_a_run_that_reports_nothing_has_no_sum() -> None:
    async def code(_ctx: Context, _message: str) -> str:
        return "done"

    async with bench(code) as b:
        (data,) = [event.data for event in await b.ended(await b.send()) if event.type == "agent_completed"]
        assert b"usage" not in bytes(data)


async def test_a_replay_sums_up_what_the_first_attempt_reported_whatever_it_reports_itself() -> None:
    attempts: list[int] = []

    async def code(ctx: Context) -> None:
        attempts.append(1)
        await ctx.usage(input_tokens=10 * len(attempts), cost=0.25)

    _, _, events = await twice(code)
    assert len(attempts) == 2
    assert last(events).usage == {"input_tokens": 10, "output_tokens": 0, "cost": 0.25}


async def test_a_replay_counts_nothing_again_for_the_person() -> None:
    gates = [Gate(), Gate()]
    gates[1].open()
    attempts: list[int] = []

    async def code(ctx: Context, _message: str) -> str:
        await ctx.usage(input_tokens=60)
        attempts.append(1)
        await ctx.custom("through", None)
        await gates[len(attempts) - 1].pass_()
        return "done"

    storage = MemoryStorage()
    async with limited(code, tokens=100, storage=storage) as (b, tokens, _):
        run = await b.send()
        await gates[0].arrival()
        await b.until(lambda: _is_said(b, run))
        assert await tokens.wait_s("usr_ann") == 0
    async with limited(code, tokens=100, storage=storage.restarted()) as (b, tokens, _):
        assert last(await b.ended(run)).output == "done"
        assert tokens._own._windows == {}, "nothing was counted"


@pytest.mark.parametrize(
    ("limit", "report"), [({"tokens": 100}, {"output_tokens": 101}), ({"cost": 1.0}, {"cost": 1.5})]
)
async def test_whoever_is_over_a_limit_has_the_run_ended_and_the_next_one_refused(
    limit: dict[str, Any], report: dict[str, Any]
) -> None:
    begun: list[str] = []

    async def code(ctx: Context, message: str) -> str:
        begun.append(message)
        await ctx.usage(**report if message == "much" else {"input_tokens": 1, "cost": 0.1})
        if message == "much":
            await asyncio.sleep(60)
        return "done"

    async with limited(code, **limit) as (b, *_):
        first = last(await b.ended(await b.send("much")))
        again = last(await b.ended(await b.send("more")))
        other = last(await b.ended(await b.send("little", user="usr_bob"), user="usr_bob"))
    for failed in (first, again):
        assert (failed.code, failed.retryable) == ("quota_exceeded", True)
        assert DAY_S - 60 < failed.retry_after_s <= DAY_S
        assert failed.message.endswith("try again in 24 h.")
    assert begun == ["much", "little"], "the refused one cost nothing"
    assert other.output == "done"


async def test_a_report_that_is_no_number_is_refused_where_it_is_made() -> None:
    async def code(ctx: Context) -> list[str]:
        wrong: list[dict[str, Any]] = [
            {"input_tokens": -1},
            {"output_tokens": 1.5},
            {"input_tokens": True},
            {"cost": float("nan")},
            {"cost": "1"},
            {"cost": -0.1},
        ]
        fields = []
        for each in wrong:
            with pytest.raises(PayloadError) as refused:
                await ctx.usage(**each)
            fields.append(str(refused.value.field))
        return fields

    first, again, _ = await twice(code)
    assert first == again == ["input_tokens", "output_tokens", "input_tokens", "cost", "cost", "cost"]


async def _is_said(b: Bench, run: str) -> bool:
    return any(event.type == "custom" for event in await b.events(run))
