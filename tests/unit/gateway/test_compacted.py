"""Who reads a log behind which somebody compacts or trims, over ring and log, sees no gap and misses nothing."""

from __future__ import annotations

import random
from typing import Any

import httpx2
import msgspec
import pytest
from tests.unit.gateway.node import Node, eventually, running
from tests.unit.gateway.test_http import person, sent
from tests.unit.gateway.test_tail import Place, tailing

from runwire.gateway.history import fold
from runwire.gateway.subscription import Subscription
from runwire.protocol import events
from runwire.protocol.events import DELTA_TYPES, StoredEvent, View, view_has
from runwire.storage.base import Page, Storage
from runwire.storage.memory.state import State
from runwire.storage.memory.storage import MemoryStorage

EVER = 2**53
VIEWS: tuple[View, ...] = ("all", "lifecycle")


async def tell(place: Place, thread: str | None, *, words: int = 6) -> str:
    """Write a run with its deltas, which the bus hears of, too."""
    sent = await place.send(thread)
    for committed in sent.committed:
        place.bus.publish(committed)
    claim = await place.worker.claim(sent.run)
    await place.worker.append(claim, [events.StepStarted(step="s", try_=1, name="now")])  # in no view
    await place.worker.whole_run(sent.run, words=words)
    return sent.thread


async def told(place: Place, *, runs: int = 2) -> str:
    """Write a thread of some runs."""
    thread = None
    for _ in range(runs):
        thread = await tell(place, thread)
    assert thread is not None
    return thread


async def head_of(place: Place, thread: str) -> int:
    return (await place.storage.threads.get("usr_ann", thread)).head


async def whole(storage: Storage, thread: str) -> list[StoredEvent]:
    return (await storage.events.read(thread, after=0, limit=100_000, size_bytes=10**9)).events


async def compact(storage: Storage) -> None:
    assert (await storage.upkeep.compact(ended_before=EVER)).events > 0


class Client:
    """Applies frames by PROTOCOL's rule; a gap or a duplicate is an error, for the server gave no reason for either."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.seqs: list[int] = []

    def apply(self, encoded: list[bytes]) -> None:
        for frame in map(msgspec.json.decode, encoded):
            assert frame["prev"] <= self.last < frame["seq"], (frame["prev"], self.last, frame["seq"])
            self.last = frame["seq"]
            self.seqs.append(frame["seq"])

    async def take(self, subscription: Subscription, *, size_bytes: int = 300) -> bool:
        """Take what comes next; return whether there was something."""
        taken = await subscription.take(size_bytes=size_bytes)
        if taken is None:
            return False
        assert taken.reset is None
        before = self.last
        self.apply(taken.encoded)
        subscription.advance(taken)
        assert taken.position <= self.last  # a beacon never says more than was written
        assert taken.position == self.last or self.last == before
        return True

    async def all(self, subscription: Subscription, *, to: int) -> None:
        """Take until the cursor is there."""
        while subscription.through < to:
            if not await self.take(subscription):
                await eventually(lambda: subscription.has_more)


def seen(stored: list[StoredEvent], view: View, *, after: int) -> list[int]:
    return [event.seq for event in stored if event.seq > after and view_has(view, event.type)]


@pytest.mark.parametrize("is_ring_full", [True, False])
@pytest.mark.parametrize("view", VIEWS)
async def test_every_position_goes_on_in_a_compacted_log(view: View, is_ring_full: bool) -> None:
    async with tailing() as place:
        thread = (await place.storage.threads.create("usr_ann")).thread
        listening = await place.open(thread, after=0) if is_ring_full else None
        await tell(place, thread)
        await place.send(thread)
        head = await head_of(place, thread)
        if listening:
            await Client(0).all(listening, to=head - 1)  # the ring has it all, deltas too
        before = await whole(place.storage, thread)
        await compact(place.storage)
        left = await whole(place.storage, thread)
        assert len(left) == len(before) - 6
        for position in range(before[-1].seq + 1):
            client = Client(position)
            subscription = await place.open(thread, after=position, view=view)
            await client.all(subscription, to=head)
            assert client.seqs in (seen(before, view, after=position), seen(left, view, after=position))
            assert is_ring_full or client.seqs == seen(left, view, after=position)
            subscription.leave(place.tail)


@pytest.mark.parametrize("seed", range(30))
async def test_who_changes_between_ring_and_log_misses_nothing(seed: int) -> None:
    chance = random.Random(seed)
    view = chance.choice(VIEWS)
    async with tailing() as place:
        thread = (await place.storage.threads.create("usr_ann")).thread
        subscription = await place.open(thread, after=0, view=view)
        keeper = await place.open(thread, after=0)  # keeps the ring while the client is away
        for _ in range(2):
            await tell(place, thread, words=chance.randrange(1, 8))
        head = await head_of(place, thread)
        await Client(0).all(keeper, to=head)
        before = await whole(place.storage, thread)
        client = Client(0)
        acts = ["take", "take", "take", "come again", "forget the ring"]
        compacts_at = chance.randrange(20)
        for step in range(40):
            if step == compacts_at:
                await compact(place.storage)
            act = chance.choice(acts)
            if act == "take":
                await client.take(subscription, size_bytes=chance.randrange(1, 600))
            elif act == "come again":
                subscription.leave(place.tail)
                subscription = await place.open(thread, after=client.last, view=view)
            else:
                subscription._ring.empty()
        await client.all(subscription, to=head)
        left = seen([event for event in before if event.type not in DELTA_TYPES], view, after=0)
        assert set(left) <= set(client.seqs) <= set(seen(before, view, after=0))
        assert client.seqs == sorted(set(client.seqs))


async def test_hole_over_compacted_events_is_filled() -> None:
    async with tailing() as place:
        thread = await told(place, runs=1)
        subscription = await place.open(thread, after=0)
        ring = subscription._ring
        ring.restart(at=3, log=ring.log)
        await compact(place.storage)
        place.tail.complete(ring, head=ring.through + 10)
        client = Client(0)
        head = await head_of(place, thread)
        await client.all(subscription, to=head)
        assert ring.through >= head
        assert client.seqs == seen(await whole(place.storage, thread), "all", after=0)


# retention -------------------------------------------------------------------------------------------------


async def trimmed(storage: Storage) -> int:
    done = await storage.upkeep.trim(ended_before=EVER, deleted_before=0, runs=100)
    return dict(done.threads).popitem()[1]


async def test_position_below_the_floor_gets_a_reset_and_then_all_there_is() -> None:
    async with tailing() as place:
        thread = await told(place, runs=3)
        floor = await trimmed(place.storage)
        left = await whole(place.storage, thread)
        for position in range(left[-1].seq + 1):
            opened = await place.subscriptions.open(
                user="usr_ann", thread=thread, after=position, log=None, view="all", wake=lambda _thread: None
            )
            assert (opened.reset is not None) == (position < floor)
            client = Client(position)
            if opened.reset:
                assert (opened.reset.reason, opened.reset.from_) == ("trimmed", floor)
                client = Client(opened.reset.from_)
            await client.all(opened.subscription, to=left[-1].seq)
            assert client.seqs == seen(left, "all", after=max(position, floor))
            opened.subscription.leave(place.tail)


async def test_reader_below_a_floor_that_is_raised_gets_a_reset() -> None:
    async with tailing() as place:
        thread = await told(place, runs=3)
        await place.open(thread, after=-1)  # the ring begins at the head: others read the log
        subscription = await place.open(thread, after=0)
        client = Client(0)
        for _ in range(3):
            await client.take(subscription, size_bytes=1)
        floor = await trimmed(place.storage)
        assert client.last < floor
        taken = await subscription.take(size_bytes=300)
        assert taken is not None
        assert taken.reset is not None
        assert (taken.reset.reason, taken.reset.from_) == ("trimmed", floor)
        subscription.advance(taken)
        client = Client(floor)
        await client.all(subscription, to=await head_of(place, thread))
        assert client.seqs == seen(await whole(place.storage, thread), "all", after=floor)


async def test_key_resent_after_the_log_was_cut_behind_its_message_gets_a_reset() -> None:
    storage = MemoryStorage(State())
    async with tailing(storage=storage) as place:
        thread = await told(place, runs=2)
        await trimmed(storage)
        subscription = place.subscriptions.open_after_send(
            user="usr_ann", thread=thread, after=0, log=storage.log, view="all", wake=lambda _thread: place.woken.set()
        )
        resets: list[Any] = []
        while not resets:
            place.woken.clear()
            taken = await subscription.take(size_bytes=300)
            if taken is None:
                await place.woken.wait()
                continue
            subscription.advance(taken)
            resets += [taken.reset] if taken.reset else []
        assert resets[0].reason == "trimmed"


class CutInBetween:
    """A database whose threads are cut while somebody folds them, between two pages."""

    def __init__(self, inner: MemoryStorage) -> None:
        self._inner = inner
        self.pages = 0
        self.events: Any = self

    async def read(self, thread: str, **options: Any) -> Page:
        self.pages += 1
        if self.pages == 2:
            await trimmed(self._inner)
        return await self._inner.events.read(thread, **options)


async def test_snapshot_of_a_thread_that_is_cut_meanwhile_shows_whole_runs() -> None:
    storage = MemoryStorage(State())
    async with tailing(storage=storage) as place:
        thread = await told(place, runs=45)  # more than a page
        cut: Any = CutInBetween(storage)
        history = await fold(cut, thread)
        again = await fold(storage, thread)
        assert cut.pages > 1
        assert history.seq == again.seq
        assert history.view.to_snapshot() == again.view.to_snapshot()
        assert all(run.is_ended and run.agent for run in history.view.runs.values())


@pytest.mark.parametrize("keeps", ["last event", "through"])
async def test_polls_go_on_from_every_position(keeps: str) -> None:
    async with running() as node, person(node) as http:
        thread, _ = await finished(node, http)
        before = await whole(node.storage, thread)
        await compact(node.storage)
        left = await whole(node.storage, thread)
        for position in range(before[-1].seq):
            client, after = Client(position), position
            while after < before[-1].seq:
                answer = (await http.get(f"/v1/threads/{thread}/events", params={"after": after})).json()
                client.apply([msgspec.json.encode(event) for event in answer["events"]])
                after = answer["through"] if keeps == "through" else client.last
            assert client.seqs == seen(left, "all", after=position)


async def test_streams_go_on_from_every_position_and_end_with_their_run() -> None:
    async with running() as node, person(node) as http:
        thread, run = await finished(node, http)
        before = await whole(node.storage, thread)
        await compact(node.storage)
        left = await whole(node.storage, thread)
        headers = {"Accept": "text/event-stream"}
        for position in range(before[-1].seq):
            headers["Last-Event-ID"] = f"{node.storage.log}:{position}"
            answer = await http.get(f"/v1/threads/{thread}/events", params={"until": run}, headers=headers)
            frames = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
            client = Client(position)
            client.apply([frame.encode() for frame in frames])
            assert client.seqs == seen(left, "all", after=position)


async def finished(node: Node, http: httpx2.AsyncClient) -> tuple[str, str]:
    """Have a run said and done; return its thread and itself."""
    data = await sent(http)
    await node.worker.whole_run(data["run"])
    return data["thread"], data["run"]
