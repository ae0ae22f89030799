"""The promises of `EventLog.read_many`, on every adapter: as `read`, for many threads, with limits that are shared."""

from __future__ import annotations

import pytest
from tests.contract.adapters import append, claim_one, send, thought
from tests.contract.test_upkeep import begun, compact, speak, trim

from runwire.storage.base import Claim, Page, Storage


async def talk(storage: Storage, *sizes: int, user: str = "usr_ada", text: str = "x") -> Claim:
    """Begin a run whose log is its message and then one segment of each of these sizes."""
    await send(storage, user=user)
    claim = await claim_one(storage)
    ordinal = 0
    for size in sizes:
        await append(storage, claim, *[thought(text)] * size, ordinal=ordinal)
        ordinal += size
    return claim


def seqs(page: Page) -> list[int]:
    return [event.seq for event in page.events]


async def test_many_threads_are_read_as_each_would_be_alone(storage: Storage) -> None:
    claims = [await talk(storage, 1, 3, 2, user=f"usr_{name}") for name in "abc"]
    empty = (await storage.threads.create("usr_ada")).thread
    for after in range(9):
        cursors = {claim.thread: after + place for place, claim in enumerate(claims)} | {empty: 0}
        pages = await storage.events.read_many(cursors)
        assert pages == {thread: await storage.events.read(thread, after=seq) for thread, seq in cursors.items()}
    assert await storage.events.read_many({}) == {}


async def test_unknown_and_deleted_threads_are_left_out(storage: Storage) -> None:
    kept, deleted = [await talk(storage, 1) for _ in range(2)]
    await storage.threads.delete("usr_ada", deleted.thread)
    pages = await storage.events.read_many({deleted.thread: 0, "th_unknown": 0, kept.thread: 1})
    assert {thread: seqs(page) for thread, page in pages.items()} == {kept.thread: [2]}


@pytest.mark.parametrize(("limit", "size_bytes"), [(1, 10**6), (2, 10**6), (7, 10**6), (500, 1), (500, 10**6)])
async def test_calls_that_go_on_where_the_last_one_ended_make_every_log_once(
    storage: Storage, limit: int, size_bytes: int
) -> None:
    threads = [(await talk(storage, *sizes)).thread for sizes in ((1, 3, 2, 1), (), (4, 4), (7,))]
    cursors = dict.fromkeys(threads, 0)
    found: dict[str, list[int]] = {thread: [] for thread in threads}
    for _ in range(100):
        pages = await storage.events.read_many(cursors, limit=limit, size_bytes=size_bytes)
        assert sorted(pages) == sorted(cursors)
        for thread, page in pages.items():
            found[thread] += seqs(page)
        assert sum(len(page.events) for page in pages.values()) < limit + 7  # one segment more at most
        assert any(page.through > cursors[thread] for thread, page in pages.items())
        cursors = {thread: page.through for thread, page in pages.items() if page.through < page.head}
        if not cursors:
            break
    assert found == dict(zip(threads, [list(range(1, n + 1)) for n in (8, 1, 9, 8)], strict=True))


async def test_thread_that_is_far_behind_starves_nobody(storage: Storage) -> None:
    """Whatever its place: the limits are shared, of events and of bytes."""
    small = [(await talk(storage, 1, 1)).thread for _ in range(3)]
    long = (await talk(storage, *[500] * 8)).thread
    wide = (await talk(storage, *[2] * 10, text="x" * 20_000)).thread
    for order in ([long, wide, *small], [*small, wide, long]):
        pages = await storage.events.read_many(dict.fromkeys(order, 0), limit=1_000, size_bytes=500_000)
        assert [seqs(pages[thread]) for thread in small] == [[1, 2, 3]] * 3
        assert [pages[thread].through for thread in small] == [3] * 3
        assert 400 <= len(pages[long].events) <= 1_500
        assert pages[long].through == seqs(pages[long])[-1] < pages[long].head
        assert len(pages[wide].events) >= 10


async def test_one_call_never_holds_more_than_the_limits_and_a_segment(storage: Storage) -> None:
    threads = [(await talk(storage, *[1] * 12, text="x" * 1_000)).thread for _ in range(10)]
    pages = await storage.events.read_many(dict.fromkeys(threads, 0), limit=50)
    counts = [len(pages[thread].events) for thread in threads]
    assert sum(counts) == 50
    assert set(counts) == {5}
    pages = await storage.events.read_many(dict.fromkeys(threads, 0), size_bytes=50_000)
    counts = [len(pages[thread].events) for thread in threads]
    assert 45 <= sum(counts) <= 60
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("limit", "size_bytes"), [(1, 10**6), (5, 10**6), (2_000, 1), (2_000, 10**6)])
async def test_what_compaction_and_trimming_took_is_passed_over(storage: Storage, limit: int, size_bytes: int) -> None:
    claims = [await begun(storage) for _ in range(2)]
    for claim in claims:
        await speak(storage, claim, commits=20)
    await compact(storage)
    await speak(storage, await begun(storage, claims[1].thread), commits=20)
    floors = await trim(storage)
    assert floors[claims[1].thread] > 0
    whole = {claim.thread: (await storage.events.read(claim.thread, after=0)).events for claim in claims}
    for after in range(0, 50, 3):
        cursors = dict.fromkeys(whole, after)
        found: dict[str, list[int]] = {thread: [] for thread in whole}
        while cursors:
            pages = await storage.events.read_many(cursors, limit=limit, size_bytes=size_bytes)
            for thread, page in pages.items():
                found[thread] += seqs(page)
                assert page.floor == floors.get(thread, 0)
            assert any(page.through > cursors[thread] for thread, page in pages.items()) or after > 40
            cursors = {thread: page.through for thread, page in pages.items() if page.through < page.head}
        assert found == {
            thread: [event.seq for event in events if event.seq > after] for thread, events in whole.items()
        }
