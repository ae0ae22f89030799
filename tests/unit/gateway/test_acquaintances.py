"""First contact: the backend's own row of a person is there before anything of theirs, once, whatever fails."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.gateway.node import Reader, running

from runwire.errors import Forbidden, Unavailable
from runwire.gateway.acquaintances import BUILTIN, Acquaintances
from runwire.storage.memory.people import MemoryPeople
from runwire.storage.memory.storage import MemoryStorage


class FailingOnce:
    """People whose database fails after the first write, before anybody hears of it."""

    def __init__(self, people: MemoryPeople) -> None:
        self._people = people
        self.calls = 0
        self.get = people.get

    async def meet(self, user: str, issuer: str, subject: str) -> bool:
        self.calls += 1
        is_first = await self._people.meet(user, issuer, subject)
        if self.calls == 1:
            raise Unavailable("gone")
        return is_first


async def test_person_is_met_before_the_first_message_and_no_more_after_that() -> None:
    async with running() as node, node.connect() as websocket:
        ann = Reader(websocket)
        assert await node.storage.people.get("usr_ann") is None, "a connection makes nothing"
        assert (await ann.ask(op="send", content="hi"))["ok"]
        met = await node.storage.people.get("usr_ann")
        assert met is not None
        assert (met.issuer, met.subject) == (BUILTIN, "usr_ann")
        await node.storage.people.forget("usr_ann")
        assert (await ann.ask(op="send", content="again"))["ok"]
        assert await node.storage.people.get("usr_ann") is None, "once per process: the hot path does not ask again"


async def test_quarantined_person_makes_nothing_until_released() -> None:
    async with running() as node, node.connect() as websocket:
        ann = Reader(websocket)
        await node.storage.people.meet("usr_ann", BUILTIN, "usr_ann")
        await node.storage.people.quarantine("usr_ann")
        refused = await ann.ask(op="send", content="hi")
        assert (refused["ok"], refused["error"]["code"]) == (False, "forbidden")
        assert await node.storage.threads.list("usr_ann") == []
        await node.storage.people.release("usr_ann")
        assert (await ann.ask(op="send", content="hi"))["ok"]


async def test_what_failed_half_way_is_done_by_the_next_call() -> None:
    storage = MemoryStorage()
    people = FailingOnce(storage.people)
    node = Acquaintances(people, storage.auth)  # type: ignore[arg-type]  # it is asked no more than this
    with pytest.raises(Unavailable):
        await node.meet("usr_ann")
    await node.meet("usr_ann")
    await node.meet("usr_ann")
    assert people.calls == 2
    assert len(await storage.people.list()) == 1


async def test_people_of_another_issuer_are_met_as_its_own() -> None:
    storage = MemoryStorage()
    row = await storage.auth.link_external("https://issuer.example", "42", name="ann", roles=["user"])
    nodes = [Acquaintances(storage.people, storage.auth) for _ in range(3)]
    async with asyncio.TaskGroup() as tasks:
        for n in range(30):
            tasks.create_task(nodes[n % 3].meet(row.user))
    (met,) = await storage.people.list()
    assert (met.user, met.issuer, met.subject) == (row.user, "https://issuer.example", "42")
    await storage.people.quarantine(row.user)
    with pytest.raises(Forbidden):
        await Acquaintances(storage.people, storage.auth).meet(row.user)
