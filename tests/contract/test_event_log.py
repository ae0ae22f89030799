"""The promises of `EventLog`, on every adapter."""

from __future__ import annotations

from math import isinf

import msgspec
import pytest
from tests.contract.adapters import Adapter, append, claim_one, completed, failed, said, send, started, thought

from runwire.errors import NotFound
from runwire.protocol.events import unpack
from runwire.storage.base import (
    MAX_BATCH_EVENTS,
    AlreadyStored,
    Batch,
    CancelRequest,
    Claim,
    Fenced,
    Head,
    RunEnd,
    Storage,
    Stored,
    Unstorable,
)

COMPLETED = RunEnd(status="completed")


async def running(storage: Storage, *, user: str = "usr_ada") -> Claim:
    await send(storage, user=user)
    return await claim_one(storage)


async def test_append_continues_the_thread_without_a_hole(storage: Storage) -> None:
    claim = await running(storage)
    first = await append(storage, claim, started(), thought("a"), ordinal=0)
    second = await append(storage, claim, thought("b"), ordinal=2)
    assert (first.committed.first_seq, first.committed.last_seq) == (2, 3)
    assert (second.committed.first_seq, second.committed.last_seq) == (4, 4)
    page = await storage.events.read(claim.thread, after=0)
    assert [event.seq for event in page.events] == [1, 2, 3, 4]
    assert said(page.events) == ["user_message", "agent_started", "a", "b"]
    assert (page.log, page.head, page.through, page.floor) == (storage.log, 4, 4, 0)


async def test_stored_events_are_what_was_appended(storage: Storage) -> None:
    claim = await running(storage)
    new = thought("NUL \x00, a snowman ☃ and 𝄞", scope="s1/2")
    stored = await append(storage, claim, new, ordinal=0)
    (event,) = (await storage.events.read(claim.thread, after=1)).events
    assert (event.type, event.ts, bytes(event.data), event.scope) == (new.type, new.ts, bytes(new.data), "s1/2")
    assert (event.run, event.attempt) == (claim.run, 1)
    committed = stored.committed
    assert (committed.log, committed.user, committed.thread) == (storage.log, "usr_ada", claim.thread)
    assert list(unpack(committed.packed, first_seq=2, run=claim.run, attempt=1)) == [event]


async def test_stale_attempt_is_fenced_and_writes_nothing(adapter: Adapter) -> None:
    stale = await running(adapter.storage)
    await append(adapter.storage, stale, started(), ordinal=0)
    await adapter.crash()
    fresh = await claim_one(adapter.storage)
    assert (fresh.run, fresh.attempt, fresh.ordinal) == (stale.run, 2, 1)
    batch = Batch(run=stale.run, attempt=1, ordinal=1, events=(thought("zombie"),))
    assert await adapter.storage.events.append([batch]) == [Fenced()]
    await append(adapter.storage, fresh, thought("fresh"), ordinal=1)
    page = await adapter.storage.events.read(stale.thread, after=1)
    assert said(page.events) == ["agent_started", "fresh"]


async def test_attempt_of_a_dead_owner_is_fenced_at_the_latest_when_somebody_claims(adapter: Adapter) -> None:
    stale = await running(adapter.storage)
    await adapter.crash()
    batch = Batch(run=stale.run, attempt=1, ordinal=0, events=(started(),))
    ordinal = 0
    if isinf(adapter.storage.lease_s):
        assert await adapter.storage.events.append([batch]) == [Fenced()]
    else:  # its lease has run out, and nobody took the run
        await append(adapter.storage, stale, started(), ordinal=0)
        ordinal = 1
    (fresh,) = await adapter.storage.runs.claim("w2", agents=["echo"], limit=9, user_limit=1)
    assert (fresh.attempt, fresh.ordinal) == (2, ordinal)
    late = Batch(run=stale.run, attempt=1, ordinal=ordinal, events=(thought("late"),))
    assert await adapter.storage.events.append([late]) == [Fenced()]


async def test_batch_sent_again_after_a_lost_reply_is_not_doubled(storage: Storage) -> None:
    claim = await running(storage)
    batch = Batch(run=claim.run, attempt=1, ordinal=0, events=(started(), thought("a")))
    await storage.events.append([batch])
    assert await storage.events.append([batch]) == [AlreadyStored(first_seq=2, last_seq=3)]
    await append(storage, claim, thought("b"), ordinal=2)
    assert await storage.events.append([batch]) == [AlreadyStored(first_seq=2, last_seq=3)]
    assert (await storage.events.read(claim.thread, after=0)).head == 4


async def test_terminal_batch_sent_again_after_a_lost_reply_is_not_doubled(storage: Storage) -> None:
    claim = await running(storage)
    batch = Batch(run=claim.run, attempt=1, ordinal=0, events=(started(), completed()), end=COMPLETED)
    await storage.events.append([batch])
    assert await storage.events.append([batch]) == [AlreadyStored(first_seq=2, last_seq=3)]


@pytest.mark.parametrize(
    ("attempt", "ordinal", "count"), [(1, 3, 1), (1, 1, 1), (1, 0, 1), (1, 0, 3), (2, 2, 1), (0, 2, 1)], ids=str
)
async def test_batch_that_is_not_the_next_one_is_fenced(
    storage: Storage, attempt: int, ordinal: int, count: int
) -> None:
    claim = await running(storage)
    await append(storage, claim, started(), thought("a"), ordinal=0)
    batch = Batch(run=claim.run, attempt=attempt, ordinal=ordinal, events=(thought("x"),) * count)
    assert await storage.events.append([batch]) == [Fenced()]
    assert (await storage.events.read(claim.thread, after=0)).head == 3


async def test_unknown_and_queued_runs_are_fenced(storage: Storage) -> None:
    sent = await send(storage)
    for run in (sent.run, "run_unknown"):
        batch = Batch(run=run, attempt=0, ordinal=0, events=(started(),))
        assert await storage.events.append([batch]) == [Fenced()]


async def test_refused_batch_never_fails_the_others(storage: Storage) -> None:
    claims = [await running(storage, user=f"usr_{name}") for name in "abc"]
    batches = [
        Batch(run=claim.run, attempt=attempt, ordinal=0, events=(started(),))
        for claim, attempt in zip(claims, (1, 7, 1), strict=True)
    ]
    outcomes = await storage.events.append(batches)
    assert [type(outcome) for outcome in outcomes] == [Stored, Fenced, Stored]
    stored = [outcome.committed.run for outcome in outcomes if isinstance(outcome, Stored)]
    assert stored == [claims[0].run, claims[2].run]


@pytest.mark.parametrize(
    "fault", ["empty", "too many", "second start", "terminal inside", "end missing", "no terminal"]
)
async def test_unstorable_batch_fails_alone(storage: Storage, fault: str) -> None:
    good, bad = await running(storage), await running(storage)
    await append(storage, bad, started(), ordinal=0)
    events = {
        "empty": (),
        "too many": (thought("x"),) * (MAX_BATCH_EVENTS + 1),
        "second start": (started(),),
        "terminal inside": (completed(), thought("after the end")),
        "end missing": (completed(),),
        "no terminal": (thought("x"),),
    }[fault]
    end = COMPLETED if fault in ("terminal inside", "no terminal") else None
    outcomes = await storage.events.append(
        [
            Batch(run=bad.run, attempt=1, ordinal=1, events=events, end=end),
            Batch(run=good.run, attempt=1, ordinal=0, events=(started(),)),
        ]
    )
    assert [type(outcome) for outcome in outcomes] == [Unstorable, Stored]
    # The run itself is whole: it can still be ended.
    end = RunEnd(status="failed", error={"code": "internal", "message": "no"})
    await append(storage, bad, failed("internal"), ordinal=1, end=end)
    row = await storage.runs.get("usr_ada", bad.run)
    assert (row.status, row.error) == ("failed", {"code": "internal", "message": "no"})


async def test_two_batches_of_one_run_are_the_callers_fault(storage: Storage) -> None:
    claim = await running(storage)
    batches = [Batch(run=claim.run, attempt=1, ordinal=place, events=(thought("x"),)) for place in range(2)]
    with pytest.raises(ValueError, match="one batch per run"):
        await storage.events.append(batches)
    assert await storage.events.append([]) == []


async def test_start_and_end_of_a_run_are_marked_by_the_append(storage: Storage) -> None:
    claim = await running(storage)
    row = await storage.runs.get("usr_ada", claim.run)
    assert (row.status, row.started_seq, row.terminal_seq, row.ended_at) == ("running", None, None, None)
    await append(storage, claim, started(), thought("a"), ordinal=0)
    await append(storage, claim, thought("b"), completed(), ordinal=2, end=COMPLETED)
    row = await storage.runs.get("usr_ada", claim.run)
    assert (row.status, row.seq, row.started_seq, row.terminal_seq) == ("completed", 1, 2, 5)
    assert row.ended_at is not None


async def test_run_has_one_terminal_event_and_nothing_after_it(storage: Storage) -> None:
    claim = await running(storage)
    await append(storage, claim, started(), completed(), ordinal=0, end=COMPLETED)
    late = Batch(run=claim.run, attempt=1, ordinal=2, events=(thought("late"),))
    again = Batch(run=claim.run, attempt=1, ordinal=2, events=(failed(),), end=RunEnd(status="failed"))
    for batch in (late, again):
        assert await storage.events.append([batch]) == [Fenced()]
    assert (await storage.events.read(claim.thread, after=0)).head == 3


@pytest.mark.parametrize(("limit", "size_bytes"), [(1, 10**6), (2, 10**6), (7, 10**6), (500, 1), (500, 10**6)])
async def test_pages_make_the_whole_log_each_event_once(storage: Storage, limit: int, size_bytes: int) -> None:
    claim = await running(storage)
    ordinal = 0
    for size in (1, 3, 2, 1):
        await append(storage, claim, *[thought(str(ordinal + place)) for place in range(size)], ordinal=ordinal)
        ordinal += size
    seqs: list[int] = []
    after = 0
    while True:
        page = await storage.events.read(claim.thread, after=after, limit=limit, size_bytes=size_bytes)
        seqs += [event.seq for event in page.events]
        assert page.through > after
        after = page.through
        if after == page.head:
            break
    assert seqs == list(range(1, 9))


@pytest.mark.parametrize("after", range(10))
async def test_reading_resumes_inside_a_segment(storage: Storage, after: int) -> None:
    claim = await running(storage)
    await append(storage, claim, *[thought(str(place)) for place in range(3)], ordinal=0)
    await append(storage, claim, *[thought(str(place)) for place in range(4)], ordinal=3)
    page = await storage.events.read(claim.thread, after=after)
    assert [event.seq for event in page.events] == list(range(after + 1, 9))
    assert page.through == page.head == 8


async def test_unknown_and_deleted_threads_cannot_be_read(storage: Storage) -> None:
    claim = await running(storage)
    await storage.threads.delete("usr_ada", claim.thread)
    for thread in (claim.thread, "th_unknown"):
        with pytest.raises(NotFound):
            await storage.events.read(thread, after=0)


async def test_heads_are_those_that_moved(storage: Storage) -> None:
    a, b, c = [await running(storage) for _ in range(3)]
    await append(storage, a, started(), ordinal=0)
    await append(storage, c, started(), ordinal=0)
    await storage.threads.delete("usr_ada", c.thread)
    known = {a.thread: 1, b.thread: 1, c.thread: 1, "th_unknown": 0}
    assert await storage.events.heads(known) == {a.thread: Head(seq=2, is_active=True)}
    assert await storage.events.heads({b.thread: 0}) == {b.thread: Head(seq=1, is_active=True)}
    assert await storage.events.heads({}) == {}


async def test_heads_say_whether_a_run_goes_on(storage: Storage) -> None:
    empty = (await storage.threads.create("usr_ada")).thread
    ended = await running(storage)
    await append(storage, ended, started(), completed(), ordinal=0, end=COMPLETED)
    ended_and_queued = await running(storage)
    await send(storage, ended_and_queued.thread)
    await append(storage, ended_and_queued, started(), completed(), ordinal=0, end=COMPLETED)
    cancelled, queued = await send(storage), await send(storage)
    await storage.runs.cancel("usr_ada", cancelled.run, CancelRequest(by="user"))
    threads = [empty, queued.thread, ended.thread, ended_and_queued.thread, cancelled.thread]
    heads = await storage.events.heads(dict.fromkeys(threads, -1))
    assert [(heads[thread].seq, heads[thread].is_active) for thread in threads] == [
        (0, False),
        (1, True),
        (3, False),
        (4, True),
        (2, False),
    ]


async def test_journal_of_a_run_has_its_own_events_and_its_message_first(storage: Storage) -> None:
    first = await running(storage)
    second = await send(storage, first.thread)
    third = await send(storage, first.thread)
    await append(storage, first, started(), completed(), ordinal=0, end=COMPLETED)
    claim = await claim_one(storage)
    assert claim.run == second.run
    await append(storage, claim, started(), thought("mine"), ordinal=0)
    journal = await storage.events.read_run(second.run)
    assert said(journal) == ["user_message", "agent_started", "mine"]
    assert [event.seq for event in journal] == [2, 6, 7]
    assert [event.seq for event in await storage.events.read_run(third.run)] == [3]
    with pytest.raises(NotFound):
        await storage.events.read_run("run_unknown")


async def test_journal_spans_attempts(adapter: Adapter) -> None:
    first = await running(adapter.storage)
    await append(adapter.storage, first, started(), thought("a"), ordinal=0)
    await adapter.crash()
    second = await claim_one(adapter.storage)
    await append(adapter.storage, second, thought("b"), ordinal=2)
    journal = await adapter.storage.events.read_run(first.run)
    assert [(event.attempt, word) for event, word in zip(journal, said(journal), strict=True)] == [
        (0, "user_message"),
        (1, "agent_started"),
        (1, "a"),
        (2, "b"),
    ]


async def test_large_values_belong_to_the_user_of_the_run(storage: Storage) -> None:
    claim, other = await running(storage), await running(storage, user="usr_bob")
    value = msgspec.json.encode("x" * 100_000)
    for holder in (claim, other):
        blobs = {"blob_1": value} if holder is claim else {"blob_2": b'"hers"'}
        batch = Batch(run=holder.run, attempt=1, ordinal=0, events=(started(),), blobs=blobs)
        await storage.events.append([batch])
    again = Batch(run=claim.run, attempt=1, ordinal=1, events=(thought("again"),), blobs={"blob_1": value})
    assert isinstance((await storage.events.append([again]))[0], Stored)
    assert await storage.events.blob("usr_ada", "blob_1") == value
    assert await storage.events.run_blob(claim.run, "blob_1") == value
    for user, ref in (("usr_bob", "blob_1"), ("usr_ada", "blob_2"), ("usr_ada", "blob_3"), ("usr_eve", "blob_1")):
        with pytest.raises(NotFound):
            await storage.events.blob(user, ref)
    with pytest.raises(NotFound):
        await storage.events.run_blob(other.run, "blob_1")
    await storage.threads.delete("usr_ada", claim.thread)
    with pytest.raises(NotFound):
        await storage.events.blob("usr_ada", "blob_1")


async def test_pinned_values_are_those_of_the_first_attempt(adapter: Adapter) -> None:
    first = await running(adapter.storage)
    assert first.pinned is None
    batch = Batch(run=first.run, attempt=1, ordinal=0, events=(started(),), pinned=b'{"history":[]}')
    await adapter.storage.events.append([batch])
    await adapter.crash()
    second = await claim_one(adapter.storage)
    assert second.pinned == b'{"history":[]}'
    late = Batch(run=first.run, attempt=2, ordinal=1, events=(thought("b"),), pinned=b"{}")
    await adapter.storage.events.append([late])
    await adapter.crash()
    assert (await claim_one(adapter.storage)).pinned == b'{"history":[]}'


async def test_acknowledged_events_survive_a_crash(adapter: Adapter) -> None:
    claim = await running(adapter.storage)
    log = adapter.storage.log
    await append(adapter.storage, claim, started(), thought("a"), ordinal=0)
    await adapter.crash()
    page = await adapter.storage.events.read(claim.thread, after=0)
    assert said(page.events) == ["user_message", "agent_started", "a"]
    assert page.log == adapter.storage.log == log
