"""What rings keep: as much as they say, and together no more than a node may."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace

import msgspec
import pytest
from tests.unit.gateway.node import eventually
from tests.unit.gateway.test_tail import NEVER, note, tailing

from runwire.gateway.ring import Budget, Ring
from runwire.protocol import events
from runwire.protocol.events import EmittedEvent, EventType


def ring(limit_bytes: int = 1 << 30) -> Ring:
    new = Ring(
        user="usr_ann", thread="th_01a20492b70374b8bba34190224d36c8", limit_events=5_000, limit_bytes=limit_bytes
    )
    new.open(at=0, log="k3x9")
    return new


def feed(fed: Ring, *, size_bytes: int, count: int = 1, kind: EventType = EventType.CUSTOM) -> None:
    """Feed events as a bus brings them, one segment each, and have every view's frame encoded."""
    for seq in range(fed.through + 1, fed.through + count + 1):
        data = msgspec.Raw(b'{"x":"%s"}' % (b"a" * size_bytes))
        packed = events.pack([EmittedEvent(type=kind, ts=1_790_000_000_000, data=data)])
        run = f"run_{seq:032}"
        fed.extend(events.unpack(packed, first_seq=seq, run=run, attempt=1), through=seq)
        views: tuple[events.View, ...] = ("all", "lifecycle")
        for entry in fed.after(seq - 1):
            for view in views:
                if entry.is_in(view):
                    entry.frame(fed.thread, view, seq - 1)


@pytest.mark.parametrize("kind", [EventType.TEXT_DELTA, EventType.CUSTOM])
@pytest.mark.parametrize("size_bytes", [10, 450, 5_000, 50_000])
def test_a_ring_counts_about_the_memory_that_it_takes_frames_included(kind: EventType, size_bytes: int) -> None:
    fed = ring()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        feed(fed, size_bytes=size_bytes, count=300, kind=kind)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.75 * taken < fed.size_bytes < 1.5 * taken


def test_a_ring_takes_no_more_memory_than_its_limit() -> None:
    fed = ring(limit_bytes=100_000)
    for _ in range(200):
        feed(fed, size_bytes=1_000)
        assert fed.size_bytes <= 100_000
    assert fed.size_bytes == sum(entry.size_bytes for entry in fed.after(fed.start)) > 0


# ── together ─────────────────────────────────────────────────────────────────────────────────────────────


def fed_ring(budget: Budget, *, count: int = 10) -> Ring:
    new = ring()
    feed(new, size_bytes=1_000, count=count)
    budget.keep(new)
    return new


def test_over_the_budget_the_ring_that_was_idle_longest_is_emptied() -> None:
    size = fed_ring(Budget(1 << 30)).size_bytes
    budget = Budget(3 * size)
    first, second, third = [fed_ring(budget) for _ in range(3)]
    assert budget.kept_bytes == 3 * size
    feed(first, size_bytes=1_000)  # not idle any more
    budget.keep(first)
    assert (second.size_bytes, second.start, second.through) == (0, 10, 10)
    assert third.size_bytes == size
    assert budget.kept_bytes == first.size_bytes + third.size_bytes <= 3 * size


def test_an_emptied_ring_goes_on_with_the_right_prev() -> None:
    budget = Budget(0)
    emptied = fed_ring(budget)
    assert (emptied.start, emptied.through, budget.kept_bytes) == (10, 10, 0)
    feed(emptied, size_bytes=10)
    (entry,) = emptied.after(10)
    assert entry.frame("th_1", "all", 10) is entry.frame("th_1", "all", 10)  # 10 is its prev, or it would be made anew


def test_what_is_left_counts_no_more() -> None:
    budget = Budget(1 << 30)
    kept, left = fed_ring(budget), fed_ring(budget)
    budget.release(left)
    budget.release(left)
    assert budget.kept_bytes == kept.size_bytes


async def test_readers_of_an_emptied_ring_read_the_log_and_miss_nothing() -> None:
    async with tailing(replace(NEVER, node_bytes=60_000)) as place:
        runs = [await place.send() for _ in range(4)]
        subscriptions = [await place.open(sent.thread, after=1) for sent in runs]
        claims = [await place.worker.claim(sent.run) for sent in runs]
        for _ in range(20):
            for claim in claims:
                await place.worker.append(claim, [note()])
                assert place.tail.kept_bytes <= 60_000
        await eventually(lambda: place.tail.kept_bytes > 20_000)  # of about 110,000
        for subscription in subscriptions:
            assert await place.seqs(subscription, count=20) == list(range(2, 22))
            subscription.leave(place.tail)
        assert place.tail.kept_bytes == 0
