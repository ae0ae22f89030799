"""Without a valid lease no step is begun, and none that has begun is executed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.unit.runtime.bench import Gate, bench, types_of
from tests.unit.runtime.faults import FaultyStorage
from tests.unit.runtime.twice import last

from runwire.agents.context import Context

LEASE_S = 0.6


class _Renewing:
    """Runs whose leases are renewed only while the test lets them."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.may_renew = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def renew(self, worker: str, held: dict[str, int]) -> None:
        await self.may_renew.wait()
        await self._inner.renew(worker, held)


class _LeasedStorage(FaultyStorage):
    """A database in memory that says that its leases run out."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = _Renewing(self.runs)

    @property
    def lease_s(self) -> float:
        return LEASE_S


@pytest.mark.parametrize("when", ["before it begins", "while its beginning is stored"])
async def test_a_step_waits_for_the_lease(when: str) -> None:
    storage, gate, called = _LeasedStorage(), Gate(), list[float]()

    async def work() -> str:
        called.append(time.monotonic())
        return "done"

    async def agent(ctx: Context, message: str) -> Any:
        await ctx.custom("begun", 1)
        await gate.pass_()
        return await ctx.tool(work)

    async with bench(agent, storage=storage) as b:
        run = await b.send()
        await gate.arrival()
        if when == "before it begins":
            await asyncio.sleep(LEASE_S)  # the lease runs out by the clock alone
            gate.open()
        else:

            async def is_stored() -> bool:
                return "custom" in types_of(await b.events(run))

            await b.until(is_stored)
            storage.events.is_asked.clear()
            storage.events.is_open.clear()
            gate.open()
            await storage.events.is_asked.wait()
            await asyncio.sleep(LEASE_S)  # likewise
            storage.events.is_open.set()
        await b.agent_turns(20)
        assert called == []
        if when == "before it begins":
            assert "tool_executing" not in types_of(await b.events(run))
        renewed_s = time.monotonic()
        storage.runs.may_renew.set()
        events = await b.ended(run)
    assert last(events).output == "done"
    assert len(called) == 1
    assert called[0] >= renewed_s
