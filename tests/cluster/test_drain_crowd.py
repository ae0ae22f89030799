"""SIGTERM to a gateway with sockets in mid-run: each is told, comes back, and has each event once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.cluster.deployment import Cluster
from tests.cluster.storm import Member, allow_files, token
from tests.outside import TERMINAL, Outside

from runwire.protocol.ids import new_id
from runwire.storage.postgres.storage import PostgresStorage

pytestmark = pytest.mark.timeout(180)

PEOPLE = 10


@pytest.mark.parametrize("each", [10, pytest.param(50, marks=pytest.mark.campaign)])
async def test_sockets_in_mid_run_are_sent_elsewhere_and_back_and_see_each_event_once(
    cluster: Cluster, each: int
) -> None:
    """A hundred in every test run, and five hundred in the campaign."""
    members = await watchers(cluster, each)
    first, second = cluster.gateways
    async with following(cluster, members):
        await all_go_on(members)
        assert await first.stop() == 0  # there is another one
        await all_go_on(members)  # what was said before the sockets ended has been read by then
        assert told(members) == Counter({1: PEOPLE * each}), "each, and each once"
        # Now there is none: everybody tries until the first one has been started again.
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(first.start())
            assert await second.stop() == 0
        await all_go_on(members)
        assert told(members) == Counter({2: PEOPLE * each})
        (cluster.marks / "over").touch()
        logs = await whole_logs(cluster, members)
        await until(lambda: all(member.seen == logs[member.thread] for member in members), members)


async def watchers(cluster: Cluster, each: int) -> list[Member]:
    """Make people who have a run each that goes on, and for each of them clients that watch it."""
    allow_files(PEOPLE * each)
    members: list[Member] = []
    storage = await PostgresStorage.open(cluster.url, lease_s=300, limit_s=30)
    try:
        for _ in range(PEOPLE):
            user = (await storage.auth.create_user(new_id("p"))).user
            key = await token(cluster, storage, user)
            person = Outside(cluster.gateways[0].url, key)
            async with person.connected():
                sent = await person.send("go on", agent="stroll")
            members += [Member(key=key, thread=sent["thread"], head=-1) for _ in range(each)]
    finally:
        await storage.close()
    return members


@asynccontextmanager
async def following(cluster: Cluster, members: list[Member]) -> AsyncIterator[None]:
    """Have all of them watch, at the first gateway as long as it is there."""
    refusals: Counter[str] = Counter()
    chance = random.Random(7)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(member.follow(cluster.gateways, refusals, chance)) for member in members]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def all_go_on(members: list[Member]) -> None:
    """Wait until everybody has seen more than now: all are there, and the runs have not ended."""
    before = [len(member.seen) for member in members]
    await until(lambda: all(len(one.seen) > count for one, count in zip(members, before, strict=True)), members)


def told(members: list[Member]) -> Counter[int]:
    """Return how many were told how often that their gateway was draining, and were sent away then."""
    # Whoever knocks while it drains is sent away once more.
    assert all(member.said["bye 4001"] >= member.said["draining"] for member in members)
    return Counter(member.said["draining"] for member in members)


async def whole_logs(cluster: Cluster, members: list[Member]) -> dict[str, list[int]]:
    """Return the seqs of each thread once its run has ended."""
    logs: dict[str, list[int]] = {}
    for key, thread in dict.fromkeys((member.key, member.thread) for member in members):
        person = Outside(cluster.gateways[0].url, key)
        async with person.connected():
            await person.subscribe(thread, after=0, view="all")
            await person.until(lambda event: event["type"] in TERMINAL)
        logs[thread] = [event["seq"] for event in person.events[thread]]
    return logs


async def until(is_so: Callable[[], bool], members: list[Member]) -> None:
    """Wait for what everybody has seen to make something so."""
    try:
        async with asyncio.timeout(60):
            while not is_so():  # noqa: ASYNC110 - so many positions have no event of their own
                await asyncio.sleep(0.05)
    except TimeoutError:
        counts = Counter(len(member.seen) for member in members)
        raise AssertionError(f"events seen by how many: {dict(counts)}; told: {told(members)}") from None
