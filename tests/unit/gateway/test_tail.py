"""Rings and cursors without a server: what is taken from the bus, what from the log, what from neither."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from tests.unit.gateway.node import DeafBus, Worker, eventually

from runwire.errors import Unavailable
from runwire.gateway.ring import Ring
from runwire.gateway.subscription import Subscription, Subscriptions, Taken
from runwire.gateway.tail import Tail, TailSettings
from runwire.protocol import events, frames
from runwire.protocol.events import StoredEvent
from runwire.storage.base import Bus, Committed, Head, IncomingMessage, Page, RunEnd, Sent, Storage, Wake
from runwire.storage.bus_local import LocalBus
from runwire.storage.memory.state import State
from runwire.storage.memory.storage import MemoryStorage

NEVER = TailSettings(blind_check_s=1000.0, active_check_s=1000.0, idle_check_s=1000.0)  # no check finds anything


class Place:
    """A tail over memory storage, and somebody who wakes up."""

    def __init__(self, storage: Storage, bus: Bus, tail: Tail) -> None:
        self.storage = storage
        self.bus = bus
        self.tail = tail
        self.subscriptions = Subscriptions(storage, tail, replay_events=20_000)
        self.worker = Worker(storage, bus)
        self.woken = asyncio.Event()

    async def send(self, thread: str | None = None) -> Sent:
        message = IncomingMessage(user="usr_ann", thread=thread, agent="echo", content="hi")
        return await self.storage.runs.send(message)

    async def open(self, thread: str, *, after: int, view: events.View = "all") -> Subscription:
        opened = await self.subscriptions.open(
            user="usr_ann", thread=thread, after=after, log=None, view=view, wake=lambda _thread: self.woken.set()
        )
        return opened.subscription

    async def filled(self, thread: str, *, after: int, view: events.View = "all") -> Subscription:
        """Open, and wait until the ring is at the end of the log."""
        subscription = await self.open(thread, after=after, view=view)
        await eventually(lambda: not any(ring.is_filling for ring in self.tail._rings.values()))
        return subscription

    async def first(self, subscription: Subscription) -> dict[str, Any]:
        """Take until an event came and return its frame."""
        while True:
            self.woken.clear()
            taken = await subscription.take(size_bytes=1_000)
            if taken is None:
                await self.woken.wait()
                continue
            subscription.advance(taken)
            if taken.encoded:
                return dict(msgspec.json.decode(taken.encoded[0]))

    async def seqs(self, subscription: Subscription, *, count: int) -> list[int]:
        """Take until so many events came; wait for wake-ups in between."""
        found: list[int] = []
        while len(found) < count:
            self.woken.clear()
            taken = await subscription.take(size_bytes=1_000)
            if taken is None:
                await self.woken.wait()
                continue
            subscription.advance(taken)
            found += [event.seq for event in taken.events]
        return found


@asynccontextmanager
async def tailing(
    settings: TailSettings = NEVER, *, bus: Bus | None = None, storage: Storage | None = None
) -> AsyncIterator[Place]:
    store = storage or MemoryStorage(State())
    used = bus or LocalBus()
    tail = Tail(store, used, settings)
    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(tail.run())
        await asyncio.sleep(0)  # it listens now
        yield Place(store, used, tail)
        feeding.cancel()


def segment(place: Place, thread: str, *, first: int, text: str, **other: str) -> Committed:
    """Make a segment as the bus would bring it; it is in no log."""
    event = events.emitted(events.Custom(name=text, value=None), ts=1)
    fields = {"log": place.storage.log, "user": "usr_ann", "thread": thread, "run": "run_x"} | other
    return Committed(**fields, attempt=1, first_seq=first, last_seq=first, packed=events.pack([event]))


async def test_a_segment_that_continues_the_ring_is_taken_without_the_log() -> None:
    async with tailing() as place:
        thread = (await place.send()).thread
        subscription = await place.filled(thread, after=1)
        place.tail.hear(segment(place, thread, first=2, text="hinted"))
        taken = await subscription.take(size_bytes=1_000)
        assert taken is not None
        assert [event.seq for event in taken.events] == [2]


@pytest.mark.parametrize("other", [{"user": "usr_eve"}, {"log": "elsewhere"}])
async def test_a_segment_of_another_owner_or_history_is_only_a_reason_to_look(other: dict[str, str]) -> None:
    async with tailing() as place:
        sent = await place.send()
        subscription = await place.open(sent.thread, after=1)
        place.tail.hear(segment(place, sent.thread, first=2, text="forged", **other))
        await place.send(sent.thread)  # commits the real event 2; no bus tells
        assert await place.seqs(subscription, count=1) == [2]
        taken = await (await place.open(sent.thread, after=1)).take(size_bytes=1_000)
        assert taken is not None
        assert b"forged" not in b"".join(taken.encoded)


async def test_doubled_and_late_segments_change_nothing() -> None:
    async with tailing() as place:
        thread = (await place.send()).thread
        subscription = await place.filled(thread, after=1)
        for text in ("once", "twice"):
            place.tail.hear(segment(place, thread, first=2, text=text))
        place.tail.hear(segment(place, thread, first=1, text="late"))
        taken = await subscription.take(size_bytes=1_000)
        assert taken is not None
        assert [event.seq for event in taken.events] == [2]
        subscription.advance(taken)
        assert await subscription.take(size_bytes=1_000) is None


async def test_what_a_worker_was_quicker_with_is_found_after_a_send() -> None:
    async with tailing(bus=DeafBus()) as place:
        sent = await place.send()
        claim = await place.worker.claim(sent.run)
        await place.worker.append(claim, [events.AgentStarted(agent="echo", message=sent.message)])
        subscription = place.subscriptions.open_after_send(
            user="usr_ann",
            thread=sent.thread,
            after=sent.after,
            log=sent.log,
            view="all",
            wake=lambda _thread: place.woken.set(),
        )
        assert await place.seqs(subscription, count=2) == [1, 2]


async def test_a_hole_of_several_pages_is_filled_without_another_reason_to_look() -> None:
    async with tailing(bus=DeafBus()) as place:
        sent = await place.send()
        claim = await place.worker.claim(sent.run)
        await place.worker.append(claim, [events.AgentStarted(agent="echo", message=sent.message)])
        for _ in range(3):
            await place.worker.append(claim, [note()] * 400)
        subscription = place.subscriptions.open_after_send(
            user="usr_ann",
            thread=sent.thread,
            after=sent.after,
            log=sent.log,
            view="all",
            wake=lambda _thread: place.woken.set(),
        )
        assert await place.seqs(subscription, count=1202) == list(range(1, 1203))


async def test_without_a_beacon_active_threads_are_checked_quickly() -> None:
    settings = TailSettings(blind_check_s=0.02, active_check_s=1000.0, idle_check_s=1000.0)
    async with tailing(settings, bus=DeafBus()) as place:
        sent = await place.send()
        subscription = await place.open(sent.thread, after=0)
        await place.worker.whole_run(sent.run)
        assert await place.seqs(subscription, count=13) == list(range(1, 14))


async def test_with_a_beacon_an_active_thread_waits_for_its_own_check_and_an_idle_one_longer() -> None:
    asked: list[Mapping[str, int]] = []
    storage = MemoryStorage(State())
    heads = storage.events.heads

    async def counted(known: Mapping[str, int]) -> dict[str, Head]:
        asked.append(dict(known))
        return await heads(known)

    storage.events.heads = counted  # type: ignore[method-assign]  # counts, and does as before
    settings = TailSettings(
        beacon_s=0.005, beacon_fresh_s=5.0, blind_check_s=0.005, active_check_s=0.05, idle_check_s=0.3
    )
    async with tailing(settings, storage=storage) as place:
        idle, active = await place.send(), await place.send()
        await place.worker.whole_run(idle.run)
        await place.open(idle.thread, after=-1)
        await place.open(active.thread, after=-1)
        await eventually(lambda: sum(len(known) == 2 for known in asked) >= 3)
    both = [n for n, known in enumerate(asked) if len(known) == 2]
    between = asked[both[1] + 1 : both[2]]
    assert len(between) >= 2  # several checks of the active thread for one of all
    assert all(list(known) == [active.thread] for known in between)


async def test_a_hole_larger_than_the_ring_is_left_to_the_readers_of_the_log() -> None:
    small = TailSettings(ring_events=10, blind_check_s=0.02, active_check_s=1000.0, idle_check_s=1000.0)
    async with tailing(small, bus=DeafBus()) as place:
        sent = await place.send()
        subscription = await place.open(sent.thread, after=0)
        await place.worker.whole_run(sent.run, words=200)
        assert await place.seqs(subscription, count=208) == list(range(1, 209))


# ── what is gone ─────────────────────────────────────────────────────────────────────────────────────────


class Trimmed:
    """The log port of a database that keeps nothing up to `floor`."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._events = storage.events
        self.floor = 0

    async def read(self, thread: str, *, after: int, limit: int = 500, size_bytes: int = 262_144) -> Page:
        page = await self._events.read(thread, after=after, limit=limit, size_bytes=size_bytes)
        kept = [event for event in page.events if event.seq > self.floor]
        return msgspec.structs.replace(page, floor=self.floor, events=kept)

    async def read_many(self, cursors: Mapping[str, int], **_limits: int) -> dict[str, Page]:
        return {thread: await self.read(thread, after=after) for thread, after in cursors.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._events, name)


@asynccontextmanager
async def trimming() -> AsyncIterator[tuple[Place, Trimmed]]:
    storage = MemoryStorage(State())
    trimmed = Trimmed(storage)
    storage.events = trimmed  # type: ignore[assignment,misc]  # the same port with a floor
    get_many = storage.threads.get_many

    async def with_floor(pairs: Any) -> Any:
        rows = await get_many(pairs)
        return {pair: msgspec.structs.replace(row, floor=trimmed.floor) for pair, row in rows.items()}

    storage.threads.get_many = with_floor  # type: ignore[method-assign]  # as above
    async with tailing(TailSettings(ring_events=10, blind_check_s=0.02), bus=DeafBus(), storage=storage) as place:
        yield place, trimmed


async def test_a_position_below_the_floor_is_reset_at_once() -> None:
    async with trimming() as (place, trimmed):
        sent = await place.send()
        await place.worker.whole_run(sent.run)
        trimmed.floor = 5
        opened = await place.subscriptions.open(
            user="usr_ann", thread=sent.thread, after=4, log=None, view="all", wake=lambda _thread: None
        )
        assert opened.reset == frames.Reset(thread=sent.thread, log=place.storage.log, from_=0, reason="trimmed")


async def test_after_a_reset_too_prev_is_the_event_before_it_in_the_view() -> None:
    async with tailing() as place:
        first = await place.send()
        claim = await place.worker.claim(first.run)
        await place.worker.append(claim, [events.AgentStarted(agent="echo", message=first.message), delta()])
        second = await place.send(first.thread)
        await place.worker.append(claim, [note()])
        opened = await place.subscriptions.open(
            user="usr_ann", thread=first.thread, after=99, log=None, view="lifecycle", wake=lambda _thread: None
        )
        assert opened.reset is not None
        assert opened.reset.from_ == 0
        await place.worker.append(
            claim, [events.AgentCompleted(output="", duration_ms=1)], end=RunEnd(status="completed")
        )
        opened = await place.subscriptions.open(
            user="usr_ann", thread=first.thread, after=99, log=None, view="lifecycle", wake=lambda _thread: None
        )
        assert opened.reset is not None
        assert (opened.reset.from_, second.seq) == (3, 4)
        frame = await place.first(opened.subscription)
        assert (frame["prev"], frame["seq"]) == (2, 4)


async def test_at_the_floor_prev_is_the_floor_since_nothing_before_it_is_to_be_had() -> None:
    async with trimming() as (place, trimmed):
        sent = await place.send()
        claim = await place.worker.claim(sent.run)
        await place.worker.append(claim, [events.AgentStarted(agent="echo", message=sent.message)])
        await place.worker.append(claim, [delta(), delta(), delta(), note()])
        trimmed.floor = 4
        for after in (4, 5):
            subscription = await place.open(sent.thread, after=after, view="lifecycle")
            assert (await place.first(subscription))["prev"] == 4


async def test_a_reader_that_the_floor_overtakes_is_reset_and_never_shown_a_hole() -> None:
    async with trimming() as (place, trimmed):
        sent = await place.send()
        subscription = await place.open(sent.thread, after=0)
        assert await place.seqs(subscription, count=1) == [1]
        trimmed.floor = 8
        await place.worker.whole_run(sent.run, words=3)
        taken: Taken | None = None
        while taken is None:
            place.woken.clear()
            taken = await subscription.take(size_bytes=100_000)
            if taken is None:
                await place.woken.wait()
        assert taken.reset is not None
        assert taken.reset.reason == "trimmed"
        assert taken.events == []


async def test_a_deleted_thread_ends_its_subscriptions_by_hint() -> None:
    async with tailing() as place:
        sent = await place.send()
        subscription = await place.open(sent.thread, after=-1)
        await place.storage.threads.delete("usr_ann", sent.thread)
        place.bus.publish(Wake(topic="deleted", thread=sent.thread))
        await place.woken.wait()
        taken = await subscription.take(size_bytes=1_000)
        assert taken is not None
        assert taken.is_deleted


async def test_a_false_hint_of_deletion_ends_nothing() -> None:
    async with tailing() as place:
        sent = await place.send()
        subscription = await place.open(sent.thread, after=0)
        place.bus.publish(Wake(topic="deleted", thread=sent.thread))
        await place.woken.wait()
        assert await place.seqs(subscription, count=1) == [1]


# ── rings ────────────────────────────────────────────────────────────────────────────────────────────────


def ring_of(*kinds: events.EventData, limit_events: int = 100, at: int = 0) -> Ring:
    ring = Ring(user="usr_ann", thread="th_1", limit_events=limit_events, limit_bytes=1_000_000)
    ring.open(at=at, log="k3x9")
    stored: list[StoredEvent] = []
    for n, data in enumerate(kinds, start=at + 1):
        new = events.emitted(data, ts=1)
        stored.append(StoredEvent(seq=n, run="run_1", attempt=1, type=new.type, ts=1, data=new.data))
    ring.extend(stored, through=at + len(kinds))
    return ring


def delta() -> events.EventData:
    return events.TextDelta(message="msg_1", offset=0, text="x")


def note() -> events.EventData:
    return events.Custom(name="n", value=1)


async def chain(ring: Ring, view: events.View, *, after: int) -> list[tuple[int, int]]:
    subscription = Subscription(
        storage=MemoryStorage(State()), ring=ring, listener=lambda: None, view=view, position=after, log="k3x9"
    )
    taken = await subscription.take(size_bytes=100_000)
    assert taken is not None
    found = [msgspec.json.decode(frame) for frame in taken.encoded]
    return [(frame["prev"], frame["seq"]) for frame in found]


async def test_prev_belongs_to_the_event_and_its_view_wherever_a_reader_begins() -> None:
    ring = ring_of(note(), delta(), delta(), note(), events.StepStarted(step="s", try_=1, name="n"), delta(), note())
    assert await chain(ring, "lifecycle", after=0) == [(0, 1), (1, 4), (4, 7)]
    for after in (1, 2, 3):  # 2 and 3 are deltas
        assert await chain(ring, "lifecycle", after=after) == [(1, 4), (4, 7)]
    assert await chain(ring, "all", after=0) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 6), (6, 7)]
    for after in (4, 5):  # 5 is internal
        assert await chain(ring, "all", after=after) == [(4, 6), (6, 7)]


@pytest.mark.parametrize(("deltas", "length"), [(1, 1), (70, 1), (1_200, 1), (300, 1_000)])  # several pages; large ones
async def test_prev_is_looked_up_in_the_log_when_the_ring_does_not_know_it(deltas: int, length: int) -> None:
    word = events.TextDelta(message="msg_1", offset=0, text="x" * length)
    async with tailing(TailSettings(ring_events=8, blind_check_s=0.02)) as place:
        sent = await place.send()
        claim = await place.worker.claim(sent.run)
        await place.worker.append(claim, [events.AgentStarted(agent="echo", message=sent.message)])
        for _ in range(2):
            for begin in range(0, deltas, 50):
                await place.worker.append(claim, [word] * min(50, deltas - begin))
            await place.worker.append(claim, [note()])
        for begin in range(0, deltas, 50):
            await place.worker.append(claim, [word] * min(50, deltas - begin))
        head = 3 * deltas + 4
        in_view = [0, 1, 2, 3 + deltas, 4 + 2 * deltas, head + 1]
        pairs = dict(zip(in_view[1:], in_view, strict=False))
        places = (
            1,
            2,
            3,
            deltas + 2,
            deltas + 3,
            deltas + 4,
            2 * deltas + 3,
            2 * deltas + 4,
            head - deltas * 2 // 3,
            head,
        )
        old = [await place.open(sent.thread, after=after, view="lifecycle") for after in places]
        await place.worker.append(claim, [note()])
        for subscription in old:
            frame = await place.first(subscription)
            assert frame["prev"] == pairs[frame["seq"]]
        fresh = await place.open(sent.thread, after=-1, view="lifecycle")
        await place.worker.append(claim, [delta(), note()])
        assert (await place.first(fresh))["prev"] == head + 1


async def test_looking_back_goes_on_where_it_was_given_up() -> None:
    storage = MemoryStorage(State())
    async with tailing(storage=storage) as place:
        sent = await place.send()
        claim = await place.worker.claim(sent.run)
        for _ in range(6):
            await place.worker.append(claim, [delta()] * 400)
        subscription = await place.open(sent.thread, after=2_401, view="lifecycle")
        await place.worker.append(claim, [note()])
        await place.woken.wait()
        read, asked = storage.events.read, 0

        async def hasty(thread: str, *, after: int, limit: int = 500, size_bytes: int = 262_144) -> Page:
            """Answer twice, then fail once."""
            nonlocal asked
            asked += 1
            if asked % 3 == 0:
                raise Unavailable("The database does not answer.")
            return await read(thread, after=after, limit=limit, size_bytes=size_bytes)

        storage.events.read = hasty  # type: ignore[method-assign]  # a slow database, injected
        taken: Taken | None = None
        for _ in range(10):
            try:
                taken = await subscription.take(size_bytes=1_000)
                break
            except Unavailable:
                continue
        assert taken is not None
        assert msgspec.json.decode(taken.encoded[0])["prev"] == 1
        assert asked <= 12  # each window was read once


async def test_a_thread_that_is_deleted_while_its_reader_looks_back_is_gone() -> None:
    async with tailing() as place:
        sent = await place.send()
        claim = await place.worker.claim(sent.run)
        await place.worker.append(claim, [delta()])
        subscription = await place.filled(sent.thread, after=2, view="lifecycle")
        place.tail.hear(segment(place, sent.thread, first=3, text="last"))
        place.tail._rings["usr_ann", sent.thread].empty()  # what is before the cursor is only in the log
        await place.storage.threads.delete("usr_ann", sent.thread)
        taken = await subscription.take(size_bytes=1_000)
        assert taken is not None
        assert taken.is_deleted


async def test_a_history_begins_with_a_small_page_and_goes_on_with_large_ones() -> None:
    async with tailing(bus=DeafBus()) as place:
        sent = await place.send()
        claim = await place.worker.claim(sent.run)
        for _ in range(20):
            await place.worker.append(claim, [note() for _ in range(25)])
        subscription = await place.open(sent.thread, after=0)
        sizes = []
        while subscription.through < 501:
            taken = await subscription.take(size_bytes=1 << 20)
            assert taken is not None
            subscription.advance(taken)
            sizes.append(len(taken.events))
        assert sum(sizes) == 501
        assert sizes[0] <= 75  # 50, and the segment that they end in
        assert len(sizes) == 2


async def test_an_event_is_encoded_once_per_view() -> None:
    ring = ring_of(note(), delta(), note())
    first, second, third = ring.after(0)
    assert first.frame("th_1", "all", 0) is first.frame("th_1", "all", 0)
    assert third.frame("th_1", "lifecycle", 1) is third.frame("th_1", "lifecycle", 1)
    assert third.frame("th_1", "all", 2) is not third.frame("th_1", "lifecycle", 1)
    assert not second.is_in("lifecycle")


def test_a_ring_is_bounded_and_says_where_it_begins() -> None:
    ring = ring_of(*(note() for _ in range(100)), limit_events=10, at=40)
    assert ring.through == 140
    assert len(ring.after(ring.start)) == ring.through - ring.start
    assert len(ring.after(ring.start)) <= 10
    large = Ring(user="u", thread="t", limit_events=100, limit_bytes=10_000)
    large.open(at=0, log="l")
    new = events.emitted(events.Custom(name="n", value="x" * 4_000), ts=1)
    for seq in range(1, 6):
        event = StoredEvent(seq=seq, run="r", attempt=1, type=new.type, ts=1, data=new.data)
        large.extend([event], through=seq)
    assert len(large.after(large.start)) <= 2


def test_a_ring_knows_whether_a_run_goes_on() -> None:
    ring = ring_of()
    said = events.emitted(events.UserMessage(message="m", content="hi"), ts=1)
    ended = events.emitted(events.AgentCompleted(output=None, duration_ms=1), ts=1)
    known = [ring.activity]
    ring.learn(Head(seq=0, is_active=False))
    known.append(ring.activity)
    for seq, new in enumerate((said, ended), start=1):
        ring.extend([StoredEvent(seq=seq, run="r", attempt=1, type=new.type, ts=1, data=new.data)], through=seq)
        known.append(ring.activity)
    ring.learn(Head(seq=1, is_active=True))  # asked before the run ended
    known.append(ring.activity)
    ring.learn(Head(seq=2, is_active=False))
    known.append(ring.activity)
    ring.restart(at=9, log="k3x9")  # a run may have begun in what was passed over
    known.append(ring.activity)
    assert known == [None, False, True, None, None, False, None]
    assert ring.is_active  # what is not known is looked after
