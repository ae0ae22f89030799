"""What a subscription costs the database, alone and in a crowd, and what one query does for many threads."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec
import pytest
from tests.unit.gateway.node import DeafBus, Reader, eventually, running
from tests.unit.gateway.test_tail import NEVER, Place, delta, note, tailing
from tests.unit.gateway.test_tail_checks import Promoted

from runwire.auth.identity import Identity
from runwire.errors import NotFound, Unavailable
from runwire.gateway.subscription import Subscription
from runwire.gateway.tail import TailSettings
from runwire.protocol import events
from runwire.storage.base import Page, RunEnd
from runwire.storage.bus_local import LocalBus
from runwire.storage.memory.state import State
from runwire.storage.memory.storage import MemoryStorage

CHECKED = TailSettings(beacon_fresh_s=1000.0, blind_check_s=0.02, active_check_s=1000.0, idle_check_s=1000.0)


def counting(storage: MemoryStorage) -> Counter[str]:
    """Count what is asked of the log and of threads from now on."""
    asked: Counter[str] = Counter()
    for port, names in (
        (storage.events, ("read", "read_many", "heads")),
        (storage.threads, ("get", "get_many", "reset_from")),
    ):
        for name in names:
            setattr(port, name, _counted(asked, name, getattr(port, name)))
    return asked


def _counted(asked: Counter[str], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    async def counted(*arguments: Any, **options: Any) -> Any:
        asked[name] += 1
        return await call(*arguments, **options)

    return counted


async def talk(place: Place, *, count: int = 20) -> str:
    """Make a thread of this many events and two, the last ones but one deltas."""
    sent = await place.send()
    claim = await place.worker.claim(sent.run)
    for _ in range(count // 4):
        await place.worker.append(claim, [note(), note(), delta(), delta()])
    done = events.AgentCompleted(output=None, duration_ms=1)
    await place.worker.append(claim, [done], end=RunEnd(status="completed"))
    return sent.thread


@pytest.mark.parametrize("view", ["all", "lifecycle"])
@pytest.mark.parametrize("after", [0, 3, 10, 19, 20, 22, -1])
async def test_a_subscription_costs_two_reads_wherever_it_begins(after: int, view: events.View) -> None:
    storage = MemoryStorage(State())
    async with tailing(CHECKED, storage=storage) as place:
        thread = await talk(place)
        await asyncio.sleep(0)  # the check at the start has seen no ring
        asked = counting(storage)
        subscription = await place.filled(thread, after=after, view=view)
        taken = await subscription.take(size_bytes=1 << 20)
        if after not in (22, -1):
            assert taken is not None
            assert taken.through == 22
        # Where a cursor follows an event that its view has not, the event before it must be looked for.
        is_odd = view == "lifecycle" and after == 20
        assert asked.total() - asked["heads"] <= 2 + is_odd, asked


async def test_a_second_reader_behind_the_ring_costs_two_reads() -> None:
    storage = MemoryStorage(State())
    async with tailing(CHECKED, bus=DeafBus(), storage=storage) as place:
        thread = await talk(place)
        await place.filled(thread, after=-1)
        asked = counting(storage)
        subscription = await place.open(thread, after=5)
        taken = await subscription.take(size_bytes=1 << 20)
        assert taken is not None
        assert [event.seq for event in taken.events] == list(range(6, 23))
        assert msgspec.json.decode(taken.encoded[0])["prev"] == 5
        del asked["heads"]  # a check that came between on a busy machine
        assert asked == {"get_many": 1, "read": 1}


async def test_a_crowd_that_comes_at_once_costs_a_few_queries_and_each_gets_all_its_own() -> None:
    storage = MemoryStorage(State())
    async with tailing(CHECKED, bus=DeafBus(), storage=storage) as place:
        threads = [await talk(place, count=4 + 4 * (n % 3)) for n in range(300)]
        asked = counting(storage)
        found: dict[str, list[int]] = {}

        async def come(thread: str) -> None:
            woken = asyncio.Event()
            opened = await place.subscriptions.open(
                user="usr_ann", thread=thread, after=1, log=None, view="all", wake=lambda _thread: woken.set()
            )
            found[thread] = []
            while len(found[thread]) < opened.head - 1:
                taken = await opened.subscription.take(size_bytes=1 << 20)
                if taken is None:
                    await woken.wait()
                    woken.clear()
                    continue
                opened.subscription.advance(taken)
                found[thread] += [event.seq for event in taken.events]

        async with asyncio.TaskGroup() as group:
            for thread in threads:
                group.create_task(come(thread))
        assert asked["get_many"] <= 3
        assert asked["read_many"] <= 8
        assert not asked.keys() & {"read", "get", "reset_from"}
        assert [found[thread] for thread in threads] == [list(range(2, 7 + 4 * (n % 3))) for n in range(300)]


async def test_in_a_crowd_too_everybody_sees_only_their_own() -> None:
    async with tailing(CHECKED) as place:
        thread = await talk(place)

        async def come(user: str) -> bool:
            try:
                await place.subscriptions.open(
                    user=user, thread=thread, after=0, log=None, view="all", wake=lambda _thread: None
                )
            except NotFound:
                return False
            return True

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(come(user)) for user in ("usr_eve", "usr_ann", "usr_bob", "usr_ann")]
        assert [task.result() for task in tasks] == [False, True, False, True]


async def test_who_asks_during_a_query_is_answered_by_the_next_one() -> None:
    """A thread that is deleted before somebody asks for it is not found, though an older query still runs."""
    storage = MemoryStorage(State())
    get_many = storage.threads.get_many
    may_answer, began = asyncio.Event(), asyncio.Event()

    async def slow(pairs: Collection[tuple[str, str]]) -> Any:
        rows = await get_many(pairs)
        began.set()
        await may_answer.wait()
        return rows

    async with tailing(NEVER, storage=storage) as place, asyncio.TaskGroup() as group:
        thread = (await place.send()).thread
        storage.threads.get_many = slow  # type: ignore[method-assign]  # a slow database, injected
        first = group.create_task(place.tail.look_up(user="usr_ann", thread=thread))
        await began.wait()
        await storage.threads.delete("usr_ann", thread)
        second = group.create_task(_refused(place.tail.look_up(user="usr_ann", thread=thread)))
        may_answer.set()
        assert (await first).row.thread == thread
        assert await second


async def _refused(call: Any) -> bool:
    try:
        await call
    except NotFound:
        return True
    return False


async def test_an_outage_is_told_to_all_who_asked_and_the_next_one_is_served() -> None:
    storage = MemoryStorage(State())
    get_many = storage.threads.get_many

    async def away(_pairs: Collection[tuple[str, str]]) -> Any:
        raise Unavailable("The database does not answer.")

    async with tailing(NEVER, storage=storage) as place:
        thread = (await place.send()).thread
        storage.threads.get_many = away  # type: ignore[assignment]  # an outage, injected
        for _ in range(2):
            with pytest.raises(Unavailable):
                await place.open(thread, after=0)
        assert place.tail.threads == 0
        storage.threads.get_many = get_many  # type: ignore[method-assign]  # as it was
        await place.open(thread, after=0)


async def test_what_no_database_takes_as_an_id_is_unknown_and_costs_nobody_else_the_answer() -> None:
    async with tailing(NEVER) as place:
        for thread in ("\x00", "th_\ud800", "", "x" * 70, "th_1\n"):
            with pytest.raises(NotFound):
                await place.open(thread, after=0)


async def test_of_a_crowd_that_signs_in_a_few_are_proven_at_a_time_and_nobody_is_sent_away() -> None:
    """All at once would hold up the loop, and every answer that proofs wait for would come too late."""
    async with running() as node, asyncio.TaskGroup() as group:
        authenticate, proving, most = node.identities.authenticate, 0, 0

        async def slow(credential: str) -> Identity:
            nonlocal proving, most
            proving, most = proving + 1, max(most, proving + 1)
            await asyncio.sleep(0.01)
            proving -= 1
            return await authenticate(credential)

        async def come() -> str:
            async with node.connect() as websocket:
                return str((await Reader(websocket).frame())["op"])

        node.identities.authenticate = slow  # type: ignore[method-assign]  # a slow proof, injected
        coming = [group.create_task(come()) for _ in range(100)]
        assert [await task for task in coming] == ["welcome"] * 100
        assert 1 < most <= 32


# ── rings ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_thread_whose_data_cannot_be_read_holds_up_no_other() -> None:
    storage = MemoryStorage(State())
    read_many = storage.events.read_many

    async with tailing(CHECKED, bus=DeafBus(), storage=storage) as place:
        threads = [await talk(place, count=4) for _ in range(9)]
        broken = threads[4]

        async def spoilt(cursors: Mapping[str, int], **limits: int) -> dict[str, Page]:
            if broken in cursors:
                raise ValueError("a segment that does not unpack")
            return await read_many(cursors, **limits)

        storage.events.read_many = spoilt  # type: ignore[method-assign]  # damage, injected
        async with asyncio.TaskGroup() as group:
            opening = {thread: group.create_task(place.open(thread, after=0)) for thread in threads}
        for thread, task in opening.items():
            if thread != broken:
                assert await place.seqs(task.result(), count=6) == [1, 2, 3, 4, 5, 6]
        storage.events.read_many = read_many  # type: ignore[method-assign]  # repaired
        assert await place.seqs(opening[broken].result(), count=6) == [1, 2, 3, 4, 5, 6]


async def test_rings_that_an_outage_kept_from_being_filled_are_filled_after_it() -> None:
    storage = MemoryStorage(State())
    read_many = storage.events.read_many

    async def away(*_arguments: Any, **_limits: int) -> dict[str, Page]:
        raise Unavailable("The database does not answer.")

    async with tailing(CHECKED, storage=storage) as place:
        await eventually(lambda: place.tail.bus_age_s() < 1000)  # no check of heads comes to the rescue
        thread = await talk(place)
        storage.events.read_many = away  # type: ignore[assignment]  # an outage, injected
        subscription = await place.open(thread, after=1)
        await eventually(lambda: bool(place.tail._unfilled))
        storage.events.read_many = read_many  # type: ignore[method-assign]  # it is over
        assert await place.seqs(subscription, count=21) == list(range(2, 23))


class FollowedBus(LocalBus):
    """Remembers whom it is asked to follow."""

    def __init__(self) -> None:
        super().__init__()
        self.followed: Counter[str] = Counter()

    def follow(self, user: str) -> Callable[[], None]:
        self.followed[user] += 1

        def stop() -> None:
            self.followed[user] -= 1

        return stop


async def test_the_bus_follows_the_owner_of_each_ring_before_the_log_is_read_and_until_it_goes() -> None:
    bus, storage = FollowedBus(), MemoryStorage(State())
    get_many, seen = storage.threads.get_many, []

    async def watched(pairs: Collection[tuple[str, str]]) -> Any:
        seen.append(bus.followed["usr_ann"])
        return await get_many(pairs)

    storage.threads.get_many = watched  # type: ignore[method-assign]  # looks, and does as before
    async with tailing(NEVER, bus=bus, storage=storage) as place:
        one, other = (await place.send()).thread, (await place.send()).thread
        subscriptions = [await place.open(thread, after=0) for thread in (one, one, other)]
        assert seen == [1, 1, 2]
        for subscription, left in zip(subscriptions, (2, 1, 0), strict=True):
            place.subscriptions.close(subscription)
            place.subscriptions.close(subscription)
            assert bus.followed["usr_ann"] == left
        with pytest.raises(NotFound):
            await place.open("th_unknown", after=0)
        assert bus.followed["usr_ann"] == 0


# ── another history ──────────────────────────────────────────────────────────────────────────────────────


def following_history(storage: Promoted) -> None:
    """Have what is read say which history it is of, as a database does."""
    read, read_many = storage.events.read, storage.events.read_many

    async def one(*arguments: Any, **options: Any) -> Page:
        return msgspec.structs.replace(await read(*arguments, **options), log=storage.log)

    async def many(*arguments: Any, **options: Any) -> dict[str, Page]:
        pages = await read_many(*arguments, **options)
        return {thread: msgspec.structs.replace(page, log=storage.log) for thread, page in pages.items()}

    storage.events.read, storage.events.read_many = one, many  # type: ignore[method-assign]  # see above


async def resets(subscription: Subscription, *, turns: int = 40) -> list[str]:
    """Take all there is, again and again, and return the histories that resets led to."""
    found = []
    for _ in range(turns):
        taken = await subscription.take(size_bytes=1 << 20)
        if taken is None:
            await asyncio.sleep(0.005)
            continue
        subscription.advance(taken)
        if taken.reset:
            assert taken.reset.reason == "log_changed"
            found.append(taken.reset.log)
    return found


@pytest.mark.parametrize("first", ["reader", "tail"])
async def test_another_history_resets_each_reader_once_whoever_notices_first(first: str) -> None:
    storage = Promoted(State())
    following_history(storage)
    settings = CHECKED if first == "tail" else NEVER
    async with tailing(settings, storage=storage) as place:
        thread = await talk(place)
        ahead = await place.filled(thread, after=-1)
        behind = [await place.open(thread, after=after) for after in (0, 5)]
        storage.other = "another"
        if first == "tail":
            await eventually(lambda: place.tail._rings["usr_ann", thread].log == "another")
        found = [await resets(subscription) for subscription in (*behind, ahead)]
        assert found == [["another"]] * 3
        assert [subscription.through for subscription in (*behind, ahead)] == [22] * 3


async def test_a_query_whose_answer_is_of_another_history_resets_all_rings_that_it_filled() -> None:
    storage = Promoted(State())
    following_history(storage)
    async with tailing(NEVER, bus=DeafBus(), storage=storage) as place:
        threads = [await talk(place, count=4) for _ in range(20)]
        subscriptions = [await place.filled(thread, after=3) for thread in threads]
        for subscription in subscriptions:
            taken = await subscription.take(size_bytes=1 << 20)
            assert taken is not None
            subscription.advance(taken)
        storage.other = "another"  # before the tail's own look, all rings are to be filled for another reason
        for ring in place.tail._rings.values():
            place.tail.complete(ring)
        async with asyncio.timeout(5):
            await eventually(lambda: all(ring.log == "another" for ring in place.tail._rings.values()))
        for subscription in subscriptions:
            assert await resets(subscription, turns=4) == ["another"]
