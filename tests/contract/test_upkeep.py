"""The promises of `Upkeep`, on every adapter."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from tests.contract.adapters import (
    Adapter,
    MemoryAdapter,
    PostgresAdapter,
    SqliteAdapter,
    append,
    claim_one,
    completed,
    said,
    send,
    started,
)
from tests.postgres import PostgresServer

from runwire.errors import NotFound, Unavailable
from runwire.protocol.events import (
    EmittedEvent,
    EventData,
    MessageCompleted,
    MessageStarted,
    StoredEvent,
    TextDelta,
    ThinkingDelta,
    emitted,
)
from runwire.protocol.view import ThreadView
from runwire.runtime.journal import history_of
from runwire.storage.base import AlreadyStored, Batch, CancelRequest, Claim, Fenced, RunEnd, Storage
from runwire.storage.postgres import upkeep as postgres_upkeep
from runwire.storage.postgres.storage import PostgresStorage
from runwire.storage.sqlite import upkeep as sqlite_upkeep

T = TypeVar("T")

EVER = 2**53  # later than every time
DONE = RunEnd(status="completed")


def new(data: EventData) -> EmittedEvent:
    return emitted(data, ts=1)


def deltas(message: str, start: int, count: int) -> list[EmittedEvent]:
    return [new(TextDelta(message=message, offset=at, text="x")) for at in range(start, start + count)]


async def begun(storage: Storage, thread: str | None = None, **fields: Any) -> Claim:
    await send(storage, thread, **fields)
    return await claim_one(storage)


async def speak(storage: Storage, claim: Claim, *, commits: int = 3, ends: bool = True) -> int:
    """Have a run stream a message over some commits of two deltas each; return the next ordinal."""
    message = f"m_{claim.run}"
    await append(storage, claim, started(), new(MessageStarted(message=message)), ordinal=0)
    for number in range(commits):
        await append(storage, claim, *deltas(message, 2 * number, 2), ordinal=2 + 2 * number)
    ordinal = 2 + 2 * commits
    if ends:
        whole = new(MessageCompleted(message=message, content="x" * (2 * commits)))
        await append(storage, claim, whole, completed(), ordinal=ordinal, end=DONE)
    return ordinal + 2 * ends


async def whole(storage: Storage, thread: str) -> list[StoredEvent]:
    page = await storage.events.read(thread, after=0, limit=100_000, size_bytes=10**9)
    assert page.through == page.head
    return page.events


async def compact(storage: Storage, *, ended_before: int = EVER) -> int:
    return (await storage.upkeep.compact(ended_before=ended_before)).events


async def trim(storage: Storage, *, ended_before: int | None = EVER, deleted_before: int = 0) -> dict[str, int]:
    """Trim until nothing is left to do; return the floors."""
    floors: dict[str, int] = {}
    has_more = True
    while has_more:
        trimmed = await storage.upkeep.trim(ended_before=ended_before, deleted_before=deleted_before)
        floors |= dict(trimmed.threads)
        has_more = trimmed.has_more
    return floors


def snapshot(events: list[StoredEvent]) -> dict[str, Any]:
    view = ThreadView()
    for event in events:
        assert view.apply(event)
    return view.to_snapshot()


# compaction ------------------------------------------------------------------------------------------------


async def test_deltas_of_an_ended_run_go_and_all_else_keeps_its_seq(storage: Storage) -> None:
    claim = await begun(storage)
    await speak(storage, claim)
    before = await whole(storage, claim.thread)
    done = await storage.upkeep.compact(ended_before=EVER)
    assert (done.runs, done.events, done.has_more) == (1, 6, False)
    assert done.freed_bytes > 300
    after = await whole(storage, claim.thread)
    assert after == [event for event in before if event.type != "text_delta"]
    assert [event.seq for event in after] == [1, 2, 3, 10, 11]
    assert snapshot(after) == snapshot(before)
    assert await storage.events.read_run(claim.run) == after
    again = await storage.upkeep.compact(ended_before=EVER)
    assert (again.runs, again.events) == (0, 0)


@pytest.mark.parametrize("limit", [1, 2, 500])
@pytest.mark.parametrize("size_bytes", [1, 10**6])
async def test_pages_of_a_compacted_log_go_on_from_everywhere(storage: Storage, limit: int, size_bytes: int) -> None:
    first = await begun(storage)
    ordinal = await speak(storage, first, commits=2, ends=False)
    queued = await send(storage, first.thread)  # its message lies between the events of the run before it
    await append(storage, first, *deltas(f"m_{first.run}", 4, 3), ordinal=ordinal)
    end = (new(MessageCompleted(message=f"m_{first.run}", content="x" * 7)), completed())
    await append(storage, first, *end, ordinal=ordinal + 3, end=DONE)
    await speak(storage, await claim_one(storage))
    assert await compact(storage) == 7 + 6
    events = await whole(storage, first.thread)
    assert said(events[:4]) == ["user_message", "agent_started", "message_started", "user_message"]
    assert events[3].run == queued.run
    for position in range(events[-1].seq + 1):
        after, seqs = position, []
        while True:
            page = await storage.events.read(first.thread, after=after, limit=limit, size_bytes=size_bytes)
            seqs += [event.seq for event in page.events]
            assert page.through > after or page.through == page.head
            after = page.through
            if after >= page.head:
                break
        assert seqs == [event.seq for event in events if event.seq > position]


async def test_journal_and_history_of_a_later_run_are_what_they_were(adapter: Adapter) -> None:
    storage = adapter.storage
    first = await begun(storage)
    await send(storage, first.thread)
    await speak(storage, first)
    second = await claim_one(storage)
    await speak(storage, second, commits=2, ends=False)
    before = await whole(storage, first.thread), await storage.events.read_run(second.run)
    assert await compact(storage) == 6  # of the first run alone
    after = await whole(storage, first.thread), await storage.events.read_run(second.run)
    assert after[1] == before[1]
    assert history_of(after[0], second.run) == history_of(before[0], second.run)
    await adapter.crash()
    third = await claim_one(adapter.storage)  # the second run, taken over
    assert (third.run, third.ordinal) == (second.run, 6)
    assert await adapter.storage.events.read_run(second.run) == before[1]


async def test_runs_that_go_on_or_ended_just_now_are_left_alone(storage: Storage) -> None:
    running, ended = await begun(storage), await begun(storage)
    await speak(storage, running, ends=False)
    await speak(storage, ended)
    row = await storage.runs.get("usr_ada", ended.run)
    assert row.ended_at is not None
    logs = [await whole(storage, claim.thread) for claim in (running, ended)]
    assert await compact(storage, ended_before=row.ended_at) == 0
    assert [await whole(storage, claim.thread) for claim in (running, ended)] == logs
    assert await compact(storage, ended_before=row.ended_at + 1) == 6
    assert await whole(storage, running.thread) == logs[0]


async def test_stream_without_what_completes_it_stays(storage: Storage) -> None:
    claim = await begun(storage)
    thinking = [new(ThinkingDelta(thinking="t1", offset=at, text="x")) for at in range(3)]
    await append(storage, claim, started(), *thinking, completed(), ordinal=0, end=DONE)
    assert await compact(storage) == 0
    assert len(await whole(storage, claim.thread)) == 6
    assert (await storage.upkeep.stats()).compactable_runs == 0


async def test_run_that_ended_in_the_queue_is_compacted_too(storage: Storage) -> None:
    claim = await begun(storage)
    queued = await send(storage, claim.thread)
    await storage.runs.cancel("usr_ada", queued.run, CancelRequest(by="user"))
    before = await whole(storage, claim.thread)
    assert (await storage.upkeep.compact(ended_before=EVER)).runs == 1
    assert await whole(storage, claim.thread) == before
    assert [event.seq for event in await storage.events.read_run(queued.run)] == [2, 3]


async def test_longest_ended_goes_first_and_what_is_left_is_said(storage: Storage) -> None:
    claims = [await begun(storage) for _ in range(3)]
    for claim in reversed(claims):
        await speak(storage, claim)
        await asyncio.sleep(0.002)  # the clock of `ended_at` has milliseconds
    assert (await storage.upkeep.stats()).compactable_runs == 3
    done = await storage.upkeep.compact(ended_before=EVER, runs=2)
    assert (done.runs, done.has_more) == (2, True)
    lengths = [len(await whole(storage, claim.thread)) for claim in claims]
    assert lengths == [11, 5, 5]
    done = await storage.upkeep.compact(ended_before=EVER, runs=2)
    assert (done.runs, done.has_more) == (1, False)


async def test_segments_become_fewer(storage: Storage) -> None:
    claim = await begun(storage)
    await speak(storage, claim, commits=40)
    before = (await storage.upkeep.stats()).counts["segments"]
    await compact(storage)
    assert (before, (await storage.upkeep.stats()).counts["segments"]) == (43, 2)


async def test_batch_sent_again_after_compaction_is_not_stored_twice(storage: Storage) -> None:
    claim = await begun(storage)
    ordinal = await speak(storage, claim, ends=False)
    end = (new(MessageCompleted(message=f"m_{claim.run}", content="x" * 6)), completed())
    batch = Batch(run=claim.run, attempt=1, ordinal=ordinal, events=end, end=DONE)
    await storage.events.append([batch])
    assert await storage.events.append([batch]) == [AlreadyStored(first_seq=10, last_seq=11)]
    await compact(storage)
    before = await whole(storage, claim.thread)
    for again in (batch, Batch(run=claim.run, attempt=1, ordinal=0, events=(started(),))):
        assert await storage.events.append([again]) == [Fenced()]
    assert await whole(storage, claim.thread) == before


async def test_compacted_log_survives_a_crash(adapter: Adapter) -> None:
    claim = await begun(adapter.storage)
    await speak(adapter.storage, claim)
    await compact(adapter.storage)
    before = await whole(adapter.storage, claim.thread)
    await adapter.crash()
    assert await whole(adapter.storage, claim.thread) == before
    assert (await adapter.storage.upkeep.compact(ended_before=EVER)).runs == 0


# retention -------------------------------------------------------------------------------------------------


async def talk(storage: Storage, runs: int, **fields: Any) -> list[Claim]:
    claims = [await begun(storage, **fields)]
    await speak(storage, claims[0])
    for _ in range(runs - 1):
        claims.append(await begun(storage, claims[0].thread, **fields))
        await speak(storage, claims[-1])
    return claims


async def test_old_runs_go_from_the_beginning_and_the_last_one_stays(storage: Storage) -> None:
    claims = await talk(storage, 3)
    thread = claims[0].thread
    before = await whole(storage, thread)
    assert await trim(storage) == {thread: 22}
    assert await whole(storage, thread) == before[22:]
    row = await storage.threads.get("usr_ada", thread)
    assert (row.floor, row.head) == (22, 33)
    page = await storage.events.read(thread, after=5)
    assert (page.floor, page.events[0].seq) == (22, 23)
    assert await storage.threads.reset_from(thread) == 22
    assert [run.run for run in await storage.runs.list("usr_ada")] == [claims[2].run]
    for claim in claims[:2]:
        with pytest.raises(NotFound):
            await storage.runs.get("usr_ada", claim.run)
        with pytest.raises(NotFound):
            await storage.events.read_run(claim.run)
    assert await trim(storage) == {}
    assert await storage.events.heads({thread: 0}) != {}


async def test_only_what_ended_before_the_time_goes(storage: Storage) -> None:
    claims = await talk(storage, 1)
    await asyncio.sleep(0.002)  # the clock of `ended_at` has milliseconds
    second = await begun(storage, claims[0].thread)
    await speak(storage, second)
    await asyncio.sleep(0.002)
    await talk_on(storage, second.thread)
    ended_at = (await storage.runs.get("usr_ada", second.run)).ended_at
    assert ended_at is not None
    assert await trim(storage, ended_before=None) == {}
    assert await trim(storage, ended_before=ended_at) == {second.thread: 11}
    assert await trim(storage, ended_before=ended_at + 1) == {second.thread: 22}


async def talk_on(storage: Storage, thread: str) -> Claim:
    claim = await begun(storage, thread)
    await speak(storage, claim)
    return claim


async def test_runs_whose_events_lie_between_each_other_go_together(storage: Storage) -> None:
    first = await begun(storage)
    await send(storage, first.thread)  # at seq 2, before the first run says anything
    await speak(storage, first)
    assert await trim(storage) == {}
    second = await claim_one(storage)
    await speak(storage, second)
    assert await trim(storage) == {}  # the second is the last one, and its message is at the beginning
    await talk_on(storage, first.thread)
    assert await trim(storage) == {first.thread: 22}
    assert (await whole(storage, first.thread))[0].seq == 23


async def test_thread_with_a_run_that_goes_on_keeps_the_history_that_it_read(adapter: Adapter) -> None:
    claims = await talk(adapter.storage, 2)
    running = await begun(adapter.storage, claims[0].thread)
    await speak(adapter.storage, running, ends=False)
    before = await whole(adapter.storage, running.thread)
    assert await trim(adapter.storage) == {}
    await adapter.crash()  # it lost its worker: it goes on nevertheless
    assert await trim(adapter.storage) == {}
    assert await whole(adapter.storage, running.thread) == before
    storage = adapter.storage
    fresh = await claim_one(storage)
    await append(storage, fresh, completed(), ordinal=8, end=DONE)
    assert await trim(storage) == {running.thread: 22}


async def test_message_that_waits_does_not_keep_old_runs(storage: Storage) -> None:
    claims = await talk(storage, 2)
    queued = await send(storage, claims[0].thread)
    assert await trim(storage) == {queued.thread: 22}
    assert await storage.threads.reset_from(queued.thread) == queued.seq - 1 == 22
    await speak(storage, await claim_one(storage))


async def test_key_of_a_run_that_is_gone_is_as_good_as_new(storage: Storage) -> None:
    first = await send(storage, key="k", fingerprint="f")
    await speak(storage, await claim_one(storage))
    assert (await send(storage, first.thread, key="k", fingerprint="f")).run == first.run
    last = await talk_on(storage, first.thread)
    await trim(storage)
    assert await storage.runs.sent("usr_ada", "k", "f") is None
    again = await send(storage, first.thread, key="k", fingerprint="g")
    assert again.is_new
    assert again.run not in (first.run, last.run)


async def test_blobs_and_pinned_values_go_with_their_run(storage: Storage) -> None:
    thread = None
    for number in range(2):
        claim = await begun(storage, thread)
        thread = claim.thread
        batch = Batch(
            run=claim.run,
            attempt=1,
            ordinal=0,
            events=(started(), completed()),
            end=DONE,
            pinned=b"{}",
            blobs={f"blob_{number}": msgspec.json.encode("x" * 1000)},
        )
        await storage.events.append([batch])
    trimmed = await storage.upkeep.trim(ended_before=EVER, deleted_before=0)
    assert trimmed.runs == 1
    assert trimmed.freed_bytes > 1000
    with pytest.raises(NotFound):
        await storage.events.blob("usr_ada", "blob_0")
    assert len(await storage.events.blob("usr_ada", "blob_1")) == 1002
    assert (await storage.upkeep.stats()).counts["blobs"] == 1


async def test_deleted_thread_leaves_a_tombstone_and_nothing_else(storage: Storage) -> None:
    kept, gone = await talk(storage, 1), await talk(storage, 2, user="usr_bob")
    running = await begun(storage, user="usr_bob")
    for thread in (gone[0].thread, running.thread):
        await storage.threads.delete("usr_bob", thread)
    await trim(storage, ended_before=None, deleted_before=0)
    assert (await storage.upkeep.stats()).counts["runs"] == 4
    await trim(storage, ended_before=None, deleted_before=EVER)
    stats = await storage.upkeep.stats()
    assert stats.counts["runs"] == 2  # the kept one, and one that goes on
    assert stats.counts["deleted_threads"] == 2
    with pytest.raises(NotFound):
        await storage.events.read(gone[0].thread, after=0)
    assert len(await whole(storage, kept[0].thread)) == 11
    await append(storage, running, started(), completed(), ordinal=0, end=DONE)
    await trim(storage, ended_before=None, deleted_before=EVER)
    assert (await storage.upkeep.stats()).counts["runs"] == 1
    assert len(await whole(storage, kept[0].thread)) == 11
    assert (await storage.upkeep.trim(ended_before=None, deleted_before=EVER)).has_more is False


async def test_many_threads_are_trimmed_in_several_calls(storage: Storage) -> None:
    threads = {(await talk(storage, 2))[0].thread for _ in range(5)}
    first = await storage.upkeep.trim(ended_before=EVER, deleted_before=0, runs=2)
    assert (first.runs, first.has_more) == (2, True)
    assert {thread for thread, _ in first.threads} <= threads
    await trim(storage)
    assert [(await storage.threads.get("usr_ada", thread)).floor for thread in threads] == [11] * 5


async def test_long_thread_is_trimmed_in_several_calls(storage: Storage) -> None:
    claims = await talk(storage, 8)
    first = await storage.upkeep.trim(ended_before=EVER, deleted_before=0, runs=3)
    assert (first.runs, first.has_more) == (3, True)
    assert await trim(storage) == {claims[0].thread: 77}


async def test_figures_are_those_of_the_database(storage: Storage) -> None:
    claims = await talk(storage, 2)
    await begun(storage, user="usr_bob")
    stats = await storage.upkeep.stats()
    assert stats.log == storage.log
    assert {name: stats.counts[name] for name in ("users", "threads", "deleted_threads")} == {
        "users": 2,
        "threads": 2,
        "deleted_threads": 0,
    }
    assert (stats.counts["runs"], stats.counts["unfinished_runs"], stats.compactable_runs) == (3, 1, 2)
    assert stats.size_bytes >= stats.event_bytes > 1000
    assert stats.oldest_run_at is not None
    assert stats.oldest_run_at <= (await storage.runs.get("usr_ada", claims[0].run)).created_at


async def test_compactions_at_once_do_the_work_once(adapter: Adapter) -> None:
    storage = adapter.storage
    claims = await talk(storage, 6)
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(compact(storage))
        group.create_task(trim(storage))
    while (await storage.upkeep.compact(ended_before=EVER)).has_more:
        pass
    await trim(storage)
    assert [event.seq for event in await whole(storage, claims[0].thread)] == [56, 57, 58, 65, 66]
    await whole_and_sound(adapter)


# SQLite alone ----------------------------------------------------------------------------------------------


@pytest.fixture
async def sqlite_adapter(tmp_path: Path) -> AsyncIterator[SqliteAdapter]:
    adapter = await SqliteAdapter(tmp_path).open()
    yield adapter
    await adapter.close()


async def rows(adapter: Adapter, sql: str) -> list[Sequence[Any]]:
    if isinstance(adapter, PostgresAdapter):
        return [tuple(row) for row in await adapter.storage.database.fetch(sql)]
    assert isinstance(adapter, SqliteAdapter)
    with closing(sqlite3.connect(adapter.storage.database.path)) as connection:
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        return connection.execute(sql).fetchall()


async def whole_and_sound(adapter: Adapter) -> None:
    """Check what no port shows: references, and that the segments of a thread cover its seqs above the floor."""
    if isinstance(adapter, MemoryAdapter):
        return
    assert await rows(adapter, "SELECT key FROM segment WHERE run_key NOT IN (SELECT key FROM run)") == []
    threads = await rows(adapter, "SELECT key, floor, head FROM thread")
    segments = await rows(adapter, "SELECT thread_key, first_seq, last_seq FROM segment ORDER BY first_seq")
    for key, floor, head in threads:
        spans = [(first, last) for thread, first, last in segments if thread == key and first > floor]
        assert [first for first, _ in spans] == [floor + 1, *(last + 1 for _, last in spans)][: len(spans)]
        assert head == (spans[-1][1] if spans else floor)


class Killed(Exception):
    """The process would be gone here."""


def after_each_write(storage: Any, then: Callable[[], Any]) -> None:
    """Have `then` awaited after each write of upkeep, in its place in time."""
    database = storage.upkeep._database
    write = database.write

    async def writing(work: Callable[[sqlite3.Connection], T], **options: Any) -> T:
        value: T = await write(work, **options)
        await then()
        return value

    database.write = writing


async def test_each_write_takes_whole_streams(sqlite_adapter: SqliteAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_upkeep, "WRITE_PIECES", 1)
    monkeypatch.setattr(sqlite_upkeep, "READ_BYTES", 100)
    storage = sqlite_adapter.storage
    claim = await begun(storage)
    await append(storage, claim, started(), ordinal=0)
    ordinal = 1
    for number in range(5):
        for at in range(4):
            await append(storage, claim, *deltas(f"m{number}", at, 1), ordinal=ordinal + at)
        await append(storage, claim, new(MessageCompleted(message=f"m{number}", content="xxxx")), ordinal=ordinal + 4)
        ordinal += 5
    await append(storage, claim, completed(), ordinal=ordinal, end=DONE)
    before = await whole(storage, claim.thread)
    left: list[int] = []

    async def look() -> None:
        events = await whole(storage, claim.thread)
        assert snapshot(events) == snapshot(before)
        counts = [sum(msgspec.json.decode(e.data).get("message") == f"m{n}" for e in events) for n in range(5)]
        assert set(counts) <= {1, 5}, counts
        left.append(len(events))

    after_each_write(storage, look)
    assert await compact(storage) == 20
    assert left[-1] == len(before) - 20
    assert len(left) >= 5
    await whole_and_sound(sqlite_adapter)


def dies_after(storage: Any, survived: int) -> None:
    """Have the process end at the write after so many."""
    writes = 0

    async def die() -> None:
        nonlocal writes
        writes += 1
        if writes > survived:
            raise Killed

    after_each_write(storage, die)


@pytest.mark.parametrize("survived", range(6))
async def test_killed_compaction_is_finished_by_the_next(
    sqlite_adapter: SqliteAdapter, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    monkeypatch.setattr(sqlite_upkeep, "WRITE_PIECES", 1)
    storage = sqlite_adapter.storage
    claims = await talk(storage, 3)
    before = await whole(storage, claims[0].thread)
    dies_after(storage, survived)
    with pytest.raises(Killed):
        await compact(storage)
    await sqlite_adapter.crash()
    storage = sqlite_adapter.storage
    assert snapshot(await whole(storage, claims[0].thread)) == snapshot(before)
    await compact(storage)
    assert await whole(storage, claims[0].thread) == [event for event in before if event.type != "text_delta"]
    await whole_and_sound(sqlite_adapter)


@pytest.mark.parametrize("survived", range(8))
async def test_killed_trim_shows_nothing_below_the_floor_and_is_finished_by_the_next(
    sqlite_adapter: SqliteAdapter, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    monkeypatch.setattr(sqlite_upkeep, "WRITE_PIECES", 2)
    storage = sqlite_adapter.storage
    claims = await talk(storage, 4)
    before = await whole(storage, claims[0].thread)
    dies_after(storage, survived)
    with pytest.raises(Killed):
        await trim(storage)
    await sqlite_adapter.crash()
    storage = sqlite_adapter.storage
    thread = claims[0].thread
    assert (await storage.threads.get("usr_ada", thread)).floor == 33
    assert await whole(storage, thread) == before[33:]
    await trim(storage)
    assert [run.run for run in await storage.runs.list("usr_ada")] == [claims[3].run]
    with closing(sqlite3.connect(sqlite_adapter.storage.database.path)) as connection:
        assert connection.execute("SELECT count(*) FROM segment").fetchone() == (6,)
    await whole_and_sound(sqlite_adapter)


def before_the_next_write(storage: Any, first: Callable[[], Any]) -> None:
    """Have `first` awaited between what upkeep has read and what it writes next."""
    database = storage.upkeep._database
    write = database.write

    async def writing(work: Callable[[sqlite3.Connection], T], **options: Any) -> T:
        database.write = write
        await first()
        value: T = await write(work, **options)
        return value

    database.write = writing


async def test_run_that_begins_while_its_thread_is_about_to_be_cut_keeps_its_history(
    sqlite_adapter: SqliteAdapter,
) -> None:
    storage = sqlite_adapter.storage
    thread = (await talk(storage, 2))[0].thread
    queued = await send(storage, thread)
    before_the_next_write(storage, lambda: claim_one(storage))
    trimmed = await storage.upkeep.trim(ended_before=EVER, deleted_before=0)
    assert (trimmed.runs, trimmed.threads) == (0, ())
    assert (await storage.runs.get("usr_ada", queued.run)).status == "running"
    assert len(await whole(storage, thread)) == 23
    assert (await storage.threads.get("usr_ada", thread)).floor == 0


async def test_thread_that_is_deleted_while_it_is_about_to_be_cut_is_purged_later(
    sqlite_adapter: SqliteAdapter,
) -> None:
    storage = sqlite_adapter.storage
    thread = (await talk(storage, 3))[0].thread
    before_the_next_write(storage, lambda: storage.threads.delete("usr_ada", thread))
    await storage.upkeep.trim(ended_before=EVER, deleted_before=0)
    await trim(storage, deleted_before=EVER)
    stats = await storage.upkeep.stats()
    assert (stats.counts["runs"], stats.counts["segments"], stats.counts["deleted_threads"]) == (0, 0, 1)


async def test_foreign_keys_are_checked_again_after_runs_were_deleted(sqlite_adapter: SqliteAdapter) -> None:
    storage = sqlite_adapter.storage
    await talk(storage, 2)
    await trim(storage)
    with pytest.raises(Unavailable, match="FOREIGNKEY"):
        await storage.database.write(lambda connection: connection.execute("DELETE FROM thread"))


async def test_events_that_cannot_be_read_hold_up_no_other_run(sqlite_adapter: SqliteAdapter) -> None:
    storage = sqlite_adapter.storage
    bad, good = await begun(storage), await begun(storage)
    await speak(storage, bad)
    await speak(storage, good)
    spoil = "UPDATE segment SET events = x'5b' WHERE flags = 2 AND thread_key = (SELECT key FROM thread WHERE id = ?)"
    await storage.database.write(lambda connection: connection.execute(spoil, (bad.thread,)))
    assert await compact(storage) == 6
    assert (await storage.upkeep.stats()).compactable_runs == 0


# PostgreSQL alone ------------------------------------------------------------------------------------------


@pytest.fixture
async def postgres_adapter(postgres_server: PostgresServer) -> AsyncIterator[PostgresAdapter]:
    adapter = await PostgresAdapter(postgres_server).open()
    yield adapter
    await adapter.close()


def statements(storage: PostgresStorage, monkeypatch: pytest.MonkeyPatch, meddle: Callable[[str], Any]) -> None:
    """Have `meddle(sql)` awaited before each statement of upkeep."""
    database = storage.database
    fetch = database.fetch

    async def fetching(sql: str, *values: object, **options: Any) -> list[Any]:
        await meddle(sql)
        return await fetch(sql, *values, **options)

    monkeypatch.setattr(database, "fetch", fetching)


@pytest.mark.parametrize("dies_at", range(1, 7))
async def test_compaction_cut_off_anywhere_is_finished_by_another_process(
    postgres_adapter: PostgresAdapter, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    monkeypatch.setattr(postgres_upkeep, "WRITE_PIECES", 1)
    monkeypatch.setattr(postgres_upkeep, "READ_PIECES", 2)
    monkeypatch.setattr(postgres_upkeep, "DROP_ROWS", 2)
    storage = postgres_adapter.storage
    claims = await talk(storage, 2)
    before = await whole(storage, claims[0].thread)
    left = dies_at

    async def meddle(sql: str) -> None:
        nonlocal left
        if "runwire_replace" in sql or "runwire_trim" in sql:
            left -= 1
            if left == 0:
                raise Killed

    with monkeypatch.context() as patch:
        statements(storage, patch, meddle)
        with contextlib.suppress(Killed):
            await compact(storage)
            await trim(storage)
        assert left == 0
    floor = (await storage.threads.get("usr_ada", claims[0].thread)).floor
    assert snapshot(before) == snapshot(await whole(storage, claims[0].thread)) or floor == 11
    other = await PostgresStorage.open(postgres_adapter.url)
    await compact(other)
    await trim(other)
    await other.close()
    after = await whole(storage, claims[0].thread)
    assert after == [event for event in before[11:] if event.type != "text_delta"]
    await whole_and_sound(postgres_adapter)


async def test_pieces_that_changed_since_they_were_read_are_left_alone(
    postgres_adapter: PostgresAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = postgres_adapter.storage
    claims = await talk(storage, 1)
    other = await PostgresStorage.open(postgres_adapter.url)
    has_met = False

    async def meddle(sql: str) -> None:
        nonlocal has_met
        if "runwire_replace" in sql and not has_met:
            has_met = True
            await compact(other)

    with monkeypatch.context() as patch:
        statements(storage, patch, meddle)
        done = await storage.upkeep.compact(ended_before=EVER)
    assert (has_met, done.runs, done.has_more) == (True, 0, True)
    assert [event.seq for event in await whole(storage, claims[0].thread)] == [1, 2, 3, 10, 11]
    await whole_and_sound(postgres_adapter)
    await other.close()


async def test_larger_pieces_that_another_process_made_meanwhile_are_not_lost(
    postgres_adapter: PostgresAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = postgres_adapter.storage
    claim = await begun(storage)
    await append(storage, claim, started(), ordinal=0)
    for number in range(6):
        for at in range(2):
            await append(storage, claim, *deltas(f"m{number}", at, 1), ordinal=1 + 3 * number + at)
        whole_message = new(MessageCompleted(message=f"m{number}", content="xx"))
        await append(storage, claim, whole_message, ordinal=3 + 3 * number)
    await append(storage, claim, completed(), ordinal=19, end=DONE)
    before = await whole(storage, claim.thread)
    other = await PostgresStorage.open(postgres_adapter.url)
    has_met = False

    async def die(sql: str) -> None:
        nonlocal has_met
        if "runwire_replace" in sql and has_met:
            raise Killed
        has_met = has_met or "runwire_replace" in sql

    async def meddle(sql: str) -> None:
        if "runwire_replace" in sql and not has_met:
            monkeypatch.setattr(postgres_upkeep, "WRITE_PIECES", 10)  # of another release, say
            with monkeypatch.context() as patch, contextlib.suppress(Killed):
                statements(other, patch, die)
                await compact(other)

    with monkeypatch.context() as patch:
        patch.setattr(postgres_upkeep, "WRITE_PIECES", 1)
        statements(storage, patch, meddle)
        assert (await storage.upkeep.compact(ended_before=EVER)).runs == 0
    await compact(storage)
    assert await whole(storage, claim.thread) == [event for event in before if event.type != "text_delta"]
    await whole_and_sound(postgres_adapter)
    await other.close()


LOCKS = {
    "thread": "SELECT key FROM thread FOR NO KEY UPDATE",
    "run": "SELECT key FROM run FOR NO KEY UPDATE",
    # Another process is about to delete the first segments, and has not come to the runs.
    "segment": "SELECT t.* FROM thread, runwire_trim(key, 22, 1, 1000000) t",
}


@pytest.mark.parametrize("held", LOCKS)
async def test_upkeep_waits_for_nobody_and_passes_over_what_is_locked(
    postgres_adapter: PostgresAdapter, held: str
) -> None:
    storage = postgres_adapter.storage
    claims = await talk(storage, 2)
    await send(storage, claims[0].thread)
    clock = asyncio.get_running_loop().time
    async with storage.database.alone(statement_timeout_s=10) as connection:
        await connection.execute("BEGIN")
        await connection.fetch(LOCKS[held])
        began_s = clock()
        trimmed = await storage.upkeep.trim(ended_before=EVER, deleted_before=0)
        done = await storage.upkeep.compact(ended_before=EVER)
        assert clock() - began_s < 2.5  # `lock_timeout` is half of `limit_s`, which is 5 s
        assert trimmed.runs == 0
        assert done.runs == (2 if held == "thread" else 0)
        await connection.execute("ROLLBACK")
    assert await trim(storage) == {}  # the end of that pass
    assert await trim(storage) == {claims[0].thread: 22}  # the one that is queued is the last


async def test_run_that_is_claimed_while_its_thread_is_cut_keeps_its_history(
    postgres_adapter: PostgresAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = postgres_adapter.storage
    thread = (await talk(storage, 2))[0].thread
    await send(storage, thread)

    async def meddle(sql: str) -> None:
        if "runwire_trim" in sql:
            await claim_one(other)

    other = await PostgresStorage.open(postgres_adapter.url)
    with monkeypatch.context() as patch:
        statements(storage, patch, meddle)
        trimmed = await storage.upkeep.trim(ended_before=EVER, deleted_before=0)
    assert (trimmed.runs, trimmed.threads) == (0, ())
    assert len(await whole(storage, thread)) == 23
    await other.close()
