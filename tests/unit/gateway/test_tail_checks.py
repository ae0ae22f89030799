"""What a tail asks the log, and that nothing heard is forgotten before the ring has begun."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from tests.unit.gateway.node import DeafBus, eventually
from tests.unit.gateway.test_tail import NEVER, segment, tailing

from runwire.errors import Unavailable
from runwire.gateway.tail import TailSettings
from runwire.storage.base import Head, Wake
from runwire.storage.memory.state import State
from runwire.storage.memory.storage import MemoryStorage


async def test_a_deletion_heard_while_a_subscription_begins_is_not_lost() -> None:
    storage = MemoryStorage(State())
    get_many = storage.threads.get_many

    async with tailing(NEVER, storage=storage) as place:
        for _ in range(3):
            await asyncio.sleep(0)  # the check at the start is over: it has seen no ring
        sent = await place.send()

        async def get_and_delete(pairs: Any) -> Any:
            rows = await get_many(pairs)
            for user, thread in pairs:
                await storage.threads.delete(user, thread)
                place.tail.hear(Wake(topic="deleted", thread=thread))
            return rows

        storage.threads.get_many = get_and_delete  # type: ignore[method-assign]  # a pause, injected
        subscription = await place.open(sent.thread, after=-1)
        await place.woken.wait()
        taken = await subscription.take(size_bytes=1_000)
        assert taken is not None
        assert taken.is_deleted


async def test_one_query_tells_of_all_threads_what_moved_and_which_go_on() -> None:
    storage = MemoryStorage(State())
    heads, asked, others = storage.events.heads, [], []

    async def counted(known: Mapping[str, int]) -> dict[str, Head]:
        asked.append(dict(known))
        return await heads(known)

    async def forbidden(*arguments: Any, **_options: Any) -> Any:
        others.append(arguments)

    storage.events.heads = counted  # type: ignore[method-assign]  # counts, and does as before
    settings = TailSettings(blind_check_s=0.02, active_check_s=1000.0, idle_check_s=1000.0)
    async with tailing(settings, bus=DeafBus(), storage=storage) as place:
        idle = [(await storage.threads.create("usr_ann")).thread for _ in range(50)]
        active = [(await place.send()).thread for _ in range(50)]
        for thread in (*idle, *active):
            await place.open(thread, after=-1)
        storage.runs.list = storage.events.read = forbidden  # type: ignore[method-assign]  # nothing else
        asked.clear()
        await eventually(lambda: len(asked) >= 2)
    assert asked[0].items() >= dict.fromkeys(active, 1).items()  # of the others not all may have been known
    assert asked[1] == dict.fromkeys(active, 1)
    assert others == []


async def test_hint_that_a_thread_moved_brings_what_the_bus_did_not_carry() -> None:
    async with tailing(NEVER, bus=DeafBus()) as place:
        sent = await place.send()
        subscription = await place.open(sent.thread, after=0)
        assert await place.seqs(subscription, count=1) == [1]
        await place.worker.whole_run(sent.run)
        place.tail.hear(Wake(topic="moved", thread=sent.thread, seq=13))
        async with asyncio.timeout(5):
            assert await place.seqs(subscription, count=12) == list(range(2, 14))


async def test_hint_that_something_was_lost_leads_to_a_look_at_all_threads() -> None:
    settings = TailSettings(beacon_fresh_s=1000.0, blind_check_s=0.02, active_check_s=1000.0, idle_check_s=1000.0)
    async with tailing(settings) as place:
        sent = await place.send()
        subscription = await place.open(sent.thread, after=0)
        assert await place.seqs(subscription, count=1) == [1]
        await eventually(lambda: place.tail.bus_age_s() < 1000)
        place.worker._bus = DeafBus()
        await place.worker.whole_run(sent.run)
        place.tail.hear(Wake(topic="moved"))
        async with asyncio.timeout(5):
            assert await place.seqs(subscription, count=12) == list(range(2, 14))


class Promoted(MemoryStorage):
    """A storage whose connections lead to another history, once told."""

    other: str | None = None

    @property
    def log(self) -> str:
        return self.other or super().log


async def test_thread_whose_history_is_over_is_read_again_though_its_head_did_not_move() -> None:
    storage = Promoted(State())
    read_many = storage.events.read_many

    async def elsewhere(*arguments: Any, **options: Any) -> Any:
        pages = await read_many(*arguments, **options)
        return {thread: msgspec.structs.replace(page, log=storage.log) for thread, page in pages.items()}

    storage.events.read_many = elsewhere  # type: ignore[method-assign]  # answers as that history would
    settings = TailSettings(beacon_fresh_s=1000.0, blind_check_s=0.02, active_check_s=1000.0, idle_check_s=1000.0)
    async with tailing(settings, storage=storage) as place:
        sent = await place.send()
        subscription = await place.open(sent.thread, after=0)
        assert await place.seqs(subscription, count=1) == [1]
        (ring,) = place.tail._rings.values()
        storage.other = "another"
        place.tail.hear(Wake(topic="moved"))
        await eventually(lambda: ring.log == "another")


async def test_without_a_beacon_a_run_that_began_elsewhere_in_an_idle_thread_is_seen_soon() -> None:
    settings = TailSettings(blind_check_s=0.02, blind_idle_check_s=0.1, active_check_s=1000.0, idle_check_s=1000.0)
    async with tailing(settings, bus=DeafBus()) as place:
        thread = (await place.storage.threads.create("usr_ann")).thread
        subscription = await place.filled(thread, after=0)
        (ring,) = place.tail._rings.values()
        await eventually(lambda: not ring.is_active)
        await place.send(thread)  # by another gateway: nothing is heard of it
        async with asyncio.timeout(5):
            assert await place.seqs(subscription, count=1) == [1]


async def test_looks_at_idle_threads_are_rarer_than_those_at_active_ones_and_are_told_only_what_moved() -> None:
    storage = MemoryStorage(State())
    heads, asked, told = storage.events.heads, [], []

    async def counted(known: Mapping[str, int]) -> dict[str, Head]:
        asked.append(dict(known))
        found = await heads(known)
        told.append(found)
        return found

    settings = TailSettings(blind_check_s=0.01, blind_idle_check_s=0.1, active_check_s=1000.0, idle_check_s=1000.0)
    async with tailing(settings, bus=DeafBus(), storage=storage) as place:
        idle, active = (await storage.threads.create("usr_ann")).thread, (await place.send()).thread
        await place.filled(idle, after=-1)
        await place.filled(active, after=-1)
        await eventually(lambda: [ring.activity for ring in place.tail._rings.values()] == [False, True])
        storage.events.heads = counted  # type: ignore[method-assign]  # counts, and does as before
        await eventually(lambda: sum(idle in known for known in asked) >= 3)
    both = [n for n, known in enumerate(asked) if idle in known]
    assert all(late - early >= 3 for early, late in itertools.pairwise(both))
    assert not any(told)


@pytest.mark.parametrize("hint", ["the segment", "its number", "that something was lost"])
async def test_a_commit_heard_of_while_a_subscription_begins_is_not_forgotten(hint: str) -> None:
    storage = MemoryStorage(State())
    get_many = storage.threads.get_many
    settings = TailSettings(beacon_fresh_s=1000.0, blind_check_s=0.02, active_check_s=1000.0, idle_check_s=1000.0)
    async with tailing(settings, storage=storage) as place:
        await eventually(lambda: place.tail.bus_age_s() < 1000)
        place.worker._bus = DeafBus()
        thread = (await storage.threads.create("usr_ann")).thread

        async def get_and_send(pairs: Any) -> Any:
            rows = await get_many(pairs)
            await place.send(thread)
            if hint == "the segment":
                place.tail.hear(segment(place, thread, first=1, text="as it was stored"))
            elif hint == "its number":
                place.tail.hear(Wake(topic="moved", thread=thread, seq=1))
            else:  # the bus says so once it hears this user, and the tail looks at all: while this one has not begun
                place.tail.hear(Wake(topic="moved"))
                await eventually(lambda: not place.tail._looks_at_all)
            return rows

        storage.threads.get_many = get_and_send  # type: ignore[method-assign]  # a pause, injected
        subscription = await place.open(thread, after=0)
        async with asyncio.timeout(5):
            assert await place.seqs(subscription, count=1) == [1]


async def test_a_ring_that_was_left_while_a_read_for_it_failed_is_not_read_for_again() -> None:
    storage = MemoryStorage(State())
    read, goes_on, asked = asyncio.Event(), asyncio.Event(), []

    async def away(cursors: Mapping[str, int], **_options: Any) -> Any:
        asked.append(list(cursors))
        read.set()
        await goes_on.wait()
        raise Unavailable("The database does not answer.")

    settings = TailSettings(blind_check_s=0.01, active_check_s=1000.0, idle_check_s=1000.0)
    async with tailing(settings, storage=storage) as place:
        storage.events.read_many = away  # type: ignore[method-assign]  # an outage, injected
        sent = await place.send()
        subscription = await place.open(sent.thread, after=0)
        await read.wait()
        subscription.leave(place.tail)
        goes_on.set()
        await asyncio.sleep(0.1)  # ten checks
    assert asked == [[sent.thread]]
