"""A worker says that it is there before it claims, and goodbye when it has given back what it had."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.unit.runtime.bench import PATIENCE_S, bench
from tests.unit.runtime.hooks import HookedStorage

from runwire.agents.context import Context
from runwire.agents.load import Agents
from runwire.errors import Unavailable
from runwire.runtime.membership import Membership
from runwire.storage.base import BusMessage, Wake
from runwire.storage.bus_local import LocalBus


async def echo(_ctx: Context, message: str) -> str:
    return message


def hooked(**options: Any) -> tuple[HookedStorage, Any]:
    storage = HookedStorage(**options)
    return storage, storage.members


async def test_worker_claims_nothing_before_it_has_said_that_it_is_there() -> None:
    storage, members = hooked()
    said, asked = asyncio.Event(), asyncio.Event()

    async def late(real: Any, *_: Any, **__: Any) -> Any:
        asked.set()
        await said.wait()
        return await real()

    claims: list[int] = []

    async def counted(real: Any, *_: Any, **__: Any) -> Any:
        claims.append(len(await storage._inner.members.list()))
        return await real()

    members.around["announce"], storage.runs.around["claim"] = late, counted
    async with bench(echo, storage=storage) as at:
        run = await at.send()
        async with asyncio.timeout(PATIENCE_S):
            await asked.wait()
        assert claims == []
        said.set()
        await at.ended(run)
    assert min(claims) == 1


async def test_worker_says_what_it_has_and_says_it_anew_when_that_changes() -> None:
    storage, _ = hooked()
    heard: list[BusMessage] = []
    bus = LocalBus()
    bus.listen(heard.append)

    async def offered() -> tuple[str, ...]:
        return (await storage._inner.members.offered()).names

    async with bench({"a": echo, "b": echo}, storage=storage, bus=bus) as at:
        await at.ended(await at.send(agent="a"))
        assert await offered() == ("a", "b")
        assert heard.count(Wake(topic="members")) == 1
        at.worker.use(Agents.of({"c": echo}))
        await at.ended(await at.send(agent="c"))

        async def is_said() -> bool:
            return await offered() == ("c",)

        await at.until(is_said)


async def test_worker_without_the_table_goes_on_with_what_it_has() -> None:
    storage, members = hooked()
    async with bench(echo, storage=storage) as at:
        await at.ended(await at.send())

        async def away(*_: Any, **__: Any) -> Any:
            raise Unavailable("away")

        members.around["announce"] = away
        at.worker.use(Agents.of({"agent": echo}))
        await at.ended(await at.send())


async def test_goodbye_comes_after_the_last_run_is_given_back() -> None:
    storage, members = hooked()
    left: list[tuple[str, int]] = []

    async def seen(real: Any, node: str) -> Any:
        left.append((node, at.worker.active))
        return await real()

    members.around["leave"] = seen
    async with bench(echo, storage=storage, name="w1") as at:
        await at.ended(await at.send())
        async with asyncio.timeout(PATIENCE_S):
            await at.worker.drain()
        assert left == [("w1", 0)]
        (row,) = await storage._inner.members.list()
        assert row.left_at is not None
    assert len(left) == 1


async def test_goodbye_is_bounded_when_the_database_is_away() -> None:
    storage, members = hooked()

    async def hang(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    members.around["leave"] = hang
    async with bench(echo, storage=storage) as at:
        await at.ended(await at.send())
        async with asyncio.timeout(PATIENCE_S):
            await at.worker.drain()


async def test_only_who_was_there_for_long_enough_without_a_gap_may_end_what_nobody_has() -> None:
    storage, members = hooked(lease_s=6.0)
    membership = Membership(storage, LocalBus(), node="n", roles=("worker",), good_s=0.4)
    assert not membership.may_take_orphans()
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(PATIENCE_S):
        running = tasks.create_task(membership.run())
        await membership.until_said()
        assert not membership.may_take_orphans()
        for _ in range(1_000):
            if membership.may_take_orphans():
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError("it never may")

        async def away(*_: Any, **__: Any) -> Any:
            raise Unavailable("away")

        members.around["announce"] = away
        for _ in range(1_000):
            if not membership.may_take_orphans():
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError("it always may")
        running.cancel()
