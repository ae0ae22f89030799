"""Which agents a gateway knows of: its own at once, others from what members say, and the last list in an outage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.unit.runtime.hooks import _Port

from runwire.errors import ProtocolError, Unavailable
from runwire.gateway.offered import OfferedAgents
from runwire.storage.base import Member, Offered, Wake
from runwire.storage.bus_local import LocalBus
from runwire.storage.memory.storage import MemoryStorage

PATIENCE_S = 10.0


class Place:
    """Members in memory, their bus, and a gateway's knowledge of them."""

    def __init__(self, own: Offered) -> None:
        self.members = _Port(MemoryStorage().members)
        self.bus = LocalBus()
        self.agents = OfferedAgents(self.members, self.bus, own=lambda: own)

    async def come(self, node: str, *agents: str, default: str | None = None) -> None:
        await self.members.announce(Member(node=node, roles=("worker",), agents=agents, default_agent=default))
        self.bus.publish(Wake(topic="members"))

    async def until(self, *names: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(10_000):
                if self.agents.offered().names == names:
                    return
                await asyncio.sleep(0.01)


@asynccontextmanager
async def place(own: Offered | None = None) -> AsyncIterator[Place]:
    made = Place(own or Offered())
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(made.agents.run())
        yield made
        running.cancel()


async def test_own_agents_are_known_at_once_and_others_when_they_come() -> None:
    async with place(Offered(names=("mine",))) as here:
        assert await here.agents.choose(None) == "mine"
        await here.come("w1", "theirs")
        await here.until("mine", "theirs")
        assert await here.agents.choose("theirs") == "theirs"
        with pytest.raises(ProtocolError, match=r"Say which agent; served here: mine, theirs\.") as refusal:
            await here.agents.choose(None)
        assert refusal.value.field == "agent"


async def test_agent_that_came_without_a_hint_is_found_before_it_is_refused() -> None:
    async with place() as here:
        await here.come("w1", "a")
        await here.until("a")
        await here.members.announce(Member(node="w2", roles=("worker",), agents=("b",)))
        assert await here.agents.choose("b") == "b"
        with pytest.raises(ProtocolError, match=r"There is no agent 'c'; served here: a, b\."):
            await here.agents.choose("c")


async def test_default_of_the_table_goes_before_ones_own() -> None:
    async with place(Offered(names=("a", "b"), chosen="b")) as here:
        assert await here.agents.choose(None) == "b"
        await here.come("w1", "a", "c", default="a")
        await here.until("a", "b", "c")
        assert await here.agents.choose(None) == "a"


async def test_last_list_stands_while_the_database_is_away_and_nobody_waits_long() -> None:
    async with place() as here:
        await here.come("w1", "a")
        await here.until("a")
        away = asyncio.Event()

        async def hang(*_arguments: object) -> Offered:
            away.set()
            await asyncio.Event().wait()
            raise AssertionError("nobody wakes it")

        here.members.around["offered"] = hang
        here.bus.publish(Wake(topic="members"))
        async with asyncio.timeout(PATIENCE_S):
            await away.wait()
            assert await here.agents.choose("a") == "a"
            with pytest.raises(ProtocolError, match="served here: a"):
                await here.agents.choose("b")


async def test_nobody_is_refused_by_a_gateway_that_has_never_read_the_list() -> None:
    async with place() as here:

        async def fail(*_arguments: object) -> Offered:
            raise Unavailable("away")

        here.members.around["offered"] = fail
        with pytest.raises(Unavailable, match="not known yet"):
            await here.agents.choose("a")


async def test_refusal_names_no_more_than_can_be_read() -> None:
    async with place(Offered(names=tuple(f"agent{n:03}" for n in range(500)))) as here:
        with pytest.raises(ProtocolError, match=r"agent019 and 480 more\.") as refusal:
            await here.agents.choose("x" * 1_000)
        assert len(refusal.value.message) < 500
