"""What an operator says of a breaker reaches every process through the database alone, and stands until taken back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from runwire.app.circuits import Circuits
from runwire.errors import Unavailable
from runwire.resilience.breaker import State
from runwire.resilience.breakers import Breakers, Kind, Order
from runwire.storage.base import AuditEntry, AuthStore, Bus
from runwire.storage.base_audit import AuditPage
from runwire.storage.bus_local import LocalBus
from runwire.storage.memory.auth import MemoryAuthStore
from runwire.storage.memory.storage import MemoryStorage

BY = AuditEntry(actor="usr_1", actor_kind="user", action="", address="192.0.2.1")
GPT = (Kind.MODEL, "openai/gpt")


class Process:
    """A process, as far as its breakers go. Without a bus of others it hears of nothing."""

    def __init__(self, store: AuthStore, bus: Bus | None = None) -> None:
        self.seen = asyncio.Event()
        self.breakers = Breakers(on_change=lambda _kind, _change: self.seen.set())
        self.circuits = Circuits(self.breakers, store=store, bus=bus or LocalBus())

    @property
    def state(self) -> State:
        return self.breakers.one(*GPT).state

    async def until(self, state: State, *, within_s: float = 5.0) -> None:
        async with asyncio.timeout(within_s):
            while self.state is not state:
                await self.seen.wait()
                self.seen.clear()


@contextlib.asynccontextmanager
async def running(*processes: Process) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        following = [tasks.create_task(each.circuits.run()) for each in processes]
        yield
        for task in following:
            task.cancel()


async def test_an_order_reaches_all_processes_without_a_bus_and_who_gave_it_is_known() -> None:
    store = MemoryStorage().auth
    here, there = Process(store), Process(store)
    async with running(here, there):
        await here.circuits.give(Order.FORCE_OPEN, *GPT, by=BY)
        assert here.state is State.FORCED_OPEN, "when it is answered it is obeyed here"
        await there.until(State.FORCED_OPEN)
        await there.circuits.give(Order.RESET, *GPT, by=BY)
        await here.until(State.CLOSED)
    assert here.breakers.one(*GPT).generation == there.breakers.one(*GPT).generation == 2, "each is obeyed once"
    rows = [row.entry for row in (await store.audit_after(0)).rows]
    assert [(row.action, row.subject, row.actor, row.address) for row in rows] == [
        ("breaker.force-open", "model/openai/gpt", "usr_1", "192.0.2.1"),
        ("breaker.reset", "model/openai/gpt", "usr_1", "192.0.2.1"),
    ]


async def test_the_bus_makes_it_quick() -> None:
    store, bus = MemoryStorage().auth, LocalBus()
    here, there = Process(store, bus), Process(store, bus)
    async with running(here, there):
        await there.circuits.give(Order.RESET, Kind.TOOL, "x", by=BY)  # both have read once
        await here.circuits.give(Order.DISABLE, *GPT, by=BY)
        await there.until(State.DISABLED, within_s=0.9)


async def test_a_process_that_starts_later_finds_what_stands_and_nothing_that_was_taken_back() -> None:
    store = MemoryStorage().auth
    first = Process(store)
    for order, name in ((Order.FORCE_OPEN, "a"), (Order.RESET, "a"), (Order.DISABLE, "b")):
        await first.circuits.give(order, Kind.TOOL, name, by=BY)
    await store.record(AuditEntry(actor=None, actor_kind="system", action="breaker.disable", subject="later/x"))
    later = Process(store)
    async with running(later):
        async with asyncio.timeout(5):
            await later.seen.wait()
        assert [(each.name, each.state) for each in later.breakers.shown()] == [("b", State.DISABLED)]


async def test_more_orders_than_a_page_has_are_all_read() -> None:
    store = MemoryStorage().auth
    first = Process(store)
    for number in range(600):
        entry = AuditEntry(actor=None, actor_kind="system", action="breaker.disable", subject=f"tool/t{number}")
        await store.record(entry)
    await first.circuits.give(Order.FORCE_OPEN, *GPT, by=BY)
    assert first.state is State.FORCED_OPEN
    assert len(first.breakers.shown()) == 601


async def test_a_database_that_was_restored_is_read_again_from_the_start() -> None:
    kept, restored = MemoryStorage().auth, MemoryStorage().auth
    here = Process(kept)
    for order in (Order.FORCE_OPEN, Order.RESET, Order.DISABLE):
        await here.circuits.give(order, *GPT, by=BY)
    here.circuits._store = restored  # as the same address with an older copy behind it
    await here.circuits.give(Order.FORCE_OPEN, *GPT, by=BY)
    assert here.state is State.FORCED_OPEN


class Away(MemoryAuthStore):
    """A database that does not answer when it is first asked."""

    asked = 0

    async def breaker_orders(self, cursor: int, *, limit: int = 500) -> AuditPage:
        self.asked += 1
        if self.asked == 1:
            raise Unavailable("away")
        return await super().breaker_orders(cursor, limit=limit)


async def test_a_database_that_is_away_ends_nothing() -> None:
    store = Away()
    await store.record(
        AuditEntry(actor=None, actor_kind="system", action="breaker.disable", subject="model/openai/gpt")
    )
    here = Process(store)
    async with running(here):
        await here.until(State.DISABLED)
