"""The promises of `Runs`, on every adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import pytest
from tests.contract.adapters import Adapter, append, claim_one, completed, said, send, started, thought

from runwire.errors import Conflict, NotFound
from runwire.protocol.events import decode_data, unpack
from runwire.storage.base import Batch, Cancelled, CancelRequest, Committed, Fenced, RunEnd, Sent, Signal, Storage

T = TypeVar("T")
BY_USER = CancelRequest(by="user", reason="stop")
COMPLETED = RunEnd(status="completed")


async def all_at_once(calls: Sequence[Awaitable[T]]) -> list[T]:
    async def one(call: Awaitable[T]) -> T:
        return await call

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(call)) for call in calls]
    return [task.result() for task in tasks]


def types(committed: tuple[Committed, ...]) -> list[tuple[str, str, int]]:
    return [
        (event.run, event.type, event.seq)
        for one in committed
        for event in unpack(one.packed, first_seq=one.first_seq, run=one.run, attempt=one.attempt)
    ]


# send ---------------------------------------------------------------------------------------------


async def test_message_and_run_are_one_write(storage: Storage) -> None:
    sent = await send(storage, metadata={"from": "test"})
    assert (sent.seq, sent.after, sent.is_new, sent.stop, sent.log) == (1, 0, True, (), storage.log)
    assert types(sent.committed) == [(sent.run, "user_message", 1)]
    (event,) = (await storage.events.read(sent.thread, after=0)).events
    data = decode_data(event)
    assert (data.message, data.content, data.metadata) == (sent.message, "hello", {"from": "test"})
    assert (event.run, event.attempt) == (sent.run, 0)
    row = await storage.runs.get("usr_ada", sent.run)
    assert (row.status, row.attempt, row.agent, row.seq, row.message) == ("queued", 0, "echo", 1, sent.message)
    second = await send(storage, sent.thread)
    assert (second.thread, second.seq, second.after) == (sent.thread, 2, 1)


async def test_message_says_which_run_it_repeats(storage: Storage) -> None:
    first = await send(storage)
    again = await send(storage, first.thread, retry_of=first.run)
    events = (await storage.events.read(first.thread, after=0)).events
    assert [decode_data(event).retry_of for event in events] == [None, first.run]
    assert again.run != first.run


async def test_same_key_and_body_store_one_message(storage: Storage) -> None:
    sends = [send(storage, key="k", fingerprint="f") for _ in range(20)]
    sent = await all_at_once(sends)
    assert len({(one.thread, one.run, one.message, one.seq, one.after) for one in sent}) == 1
    assert [one.is_new for one in sent].count(True) == 1
    assert all(one.is_new or one.committed == () for one in sent)
    assert len(await storage.runs.list("usr_ada")) == 1
    # Keys belong to a user.
    assert (await send(storage, user="usr_bob", key="k", fingerprint="f")).is_new


async def test_same_key_with_another_body_is_a_conflict(storage: Storage) -> None:
    await send(storage, key="k", fingerprint="f")
    with pytest.raises(Conflict) as refusal:
        await send(storage, key="k", fingerprint="g")
    assert (refusal.value.code, refusal.value.field) == ("conflict", "key")
    assert len(await storage.runs.list("usr_ada")) == 1


async def test_refused_send_does_not_use_its_key(storage: Storage) -> None:
    sent = await send(storage)
    with pytest.raises(Conflict):
        await send(storage, sent.thread, on_active="reject", key="k", fingerprint="f")
    assert (await send(storage, sent.thread, key="k", fingerprint="f")).is_new


async def test_what_a_key_stored_can_be_asked_for_without_a_message(storage: Storage) -> None:
    assert await storage.runs.sent("usr_ada", "k", "f") is None
    sent = await send(storage, key="k", fingerprint="f")
    again = await send(storage, key="k", fingerprint="f")
    await send(storage, sent.thread)
    assert await storage.runs.sent("usr_ada", "k", "f") == again
    assert (again.run, again.is_new, again.committed) == (sent.run, False, ())
    assert await storage.runs.sent("usr_bob", "k", "f") is None
    with pytest.raises(Conflict) as refusal:
        await storage.runs.sent("usr_ada", "k", "g")
    assert (refusal.value.code, refusal.value.field) == ("conflict", "key")
    await storage.threads.delete("usr_ada", sent.thread)
    with pytest.raises(NotFound) as gone:
        await storage.runs.sent("usr_ada", "k", "f")
    assert gone.value.field == "thread"


async def test_asking_for_a_key_does_not_use_it(storage: Storage) -> None:
    sent = await send(storage)
    with pytest.raises(Conflict):
        await send(storage, sent.thread, on_active="reject", key="k", fingerprint="f")
    assert await storage.runs.sent("usr_ada", "k", "f") is None
    assert (await send(storage, sent.thread, key="k", fingerprint="g")).is_new


@pytest.mark.parametrize("thread", ["foreign", "unknown", "deleted"])
async def test_send_to_a_thread_that_is_not_ones_own_is_not_found(storage: Storage, thread: str) -> None:
    theirs, mine = await send(storage, user="usr_bob"), await send(storage, key="k")
    await storage.threads.delete("usr_ada", mine.thread)
    target = {"foreign": theirs.thread, "unknown": "th_unknown", "deleted": mine.thread}[thread]
    with pytest.raises(NotFound) as refusal:
        await send(storage, target)
    assert (refusal.value.message, refusal.value.field) == ("There is no such thread.", "thread")
    with pytest.raises(NotFound):
        await send(storage, key="k")
    assert (await storage.events.read(theirs.thread, after=0)).head == 1


async def test_reject_looks_at_running_and_queued_runs(storage: Storage) -> None:
    sent = await send(storage)
    with pytest.raises(Conflict) as refusal:
        await send(storage, sent.thread, on_active="reject")
    assert refusal.value.code == "run_active"
    claim = await claim_one(storage)
    with pytest.raises(Conflict):
        await send(storage, sent.thread, on_active="reject")
    await append(storage, claim, started(), completed(), ordinal=0, end=COMPLETED)
    assert (await send(storage, sent.thread, on_active="reject")).is_new


async def test_interrupt_ends_queued_runs_and_asks_the_running_one(storage: Storage) -> None:
    first = await send(storage)
    claim = await claim_one(storage)
    queued = [await send(storage, first.thread) for _ in range(2)]
    last = await send(storage, first.thread, on_active="interrupt")
    assert (last.stop, last.after, last.seq) == ((first.run,), 3, 6)
    assert types(last.committed) == [
        (queued[0].run, "agent_cancelled", 4),
        (queued[1].run, "agent_cancelled", 5),
        (last.run, "user_message", 6),
    ]
    assert [row.status for row in await storage.runs.list("usr_ada")] == ["queued", "cancelled", "cancelled", "running"]
    (signal,) = await storage.runs.signals("w1", {claim.run: 1})
    assert signal.cancel == CancelRequest(by="policy", reason="interrupt")
    assert await storage.runs.claim("w1", agents=["echo"], limit=10, user_limit=10) == []
    await append(storage, claim, started(), completed(), ordinal=0, end=COMPLETED)
    assert (await claim_one(storage)).run == last.run


# claim --------------------------------------------------------------------------------------------


async def test_claim_takes_the_oldest_queued_run_of_a_thread(storage: Storage) -> None:
    first = await send(storage)
    second = await send(storage, first.thread)
    (claim,) = await storage.runs.claim("w1", agents=["echo"], limit=10, user_limit=10)
    assert (claim.run, claim.thread, claim.user, claim.agent) == (first.run, first.thread, "usr_ada", "echo")
    assert (claim.message, claim.attempt, claim.ordinal, claim.pinned) == (first.message, 1, 0, None)
    assert (claim.cancel, claim.handed_over) == (None, None)
    assert await storage.runs.claim("w2", agents=["echo"], limit=10, user_limit=10) == []
    await append(storage, claim, started(), completed(), ordinal=0, end=COMPLETED)
    assert (await claim_one(storage)).run == second.run


async def test_claims_at_once_never_share_a_run(storage: Storage) -> None:
    for _ in range(30):
        await send(storage)
    runs: list[str] = []
    for _ in range(2):  # where rows are passed over that another claim looks at, a second look finds the rest
        claims = await all_at_once(
            [storage.runs.claim(f"w{place}", agents=["echo"], limit=4, user_limit=100) for place in range(10)]
        )
        runs += [claim.run for some in claims for claim in some]
    assert len(runs) == len(set(runs)) == 30


async def test_user_has_at_most_so_many_active_runs(storage: Storage) -> None:
    for _ in range(5):
        await send(storage)
    claims = await storage.runs.claim("w1", agents=["echo"], limit=10, user_limit=3)
    assert len(claims) == 3
    assert await storage.runs.claim("w1", agents=["echo"], limit=10, user_limit=3) == []
    await append(storage, claims[0], started(), completed(), ordinal=0, end=COMPLETED)
    assert len(await storage.runs.claim("w1", agents=["echo"], limit=10, user_limit=3)) == 1


async def test_users_take_turns_within_a_claim(storage: Storage) -> None:
    for user in ("usr_a", "usr_a", "usr_a", "usr_b", "usr_c", "usr_b"):
        await send(storage, user=user)
    claims = await storage.runs.claim("w1", agents=["echo"], limit=5, user_limit=10)
    assert [claim.user for claim in claims] == ["usr_a", "usr_b", "usr_c", "usr_a", "usr_b"]


async def test_user_with_a_thousand_queued_runs_delays_nobody(storage: Storage) -> None:
    await all_at_once([send(storage, user="usr_many") for _ in range(1_000)])
    await send(storage, user="usr_few")
    users = []
    for _ in range(4):  # one at a time, each ended before the next claim
        claim = await claim_one(storage)
        users.append(claim.user)
        await append(storage, claim, started(), completed(), ordinal=0, end=COMPLETED)
    assert "usr_few" in users[:2]


async def test_lost_runs_are_claimed_first_and_at_once(adapter: Adapter) -> None:
    running = await send(adapter.storage)
    claim = await claim_one(adapter.storage)
    await append(adapter.storage, claim, started(), ordinal=0)
    await send(adapter.storage, user="usr_bob")
    await adapter.crash()
    claims = await adapter.storage.runs.claim("w2", agents=["echo"], limit=10, user_limit=1)
    assert [(one.user, one.attempt, one.ordinal) for one in claims] == [("usr_ada", 2, 1), ("usr_bob", 1, 0)]
    assert (claims[0].run, claims[0].handed_over) == (running.run, None)
    assert await adapter.storage.runs.claim("w3", agents=["echo"], limit=10, user_limit=1) == []


async def test_run_whose_claim_was_not_answered_is_claimed_again_by_its_owner_alone(storage: Storage) -> None:
    sent = await send(storage)
    claim = await claim_one(storage)
    assert await storage.runs.claim("w1", agents=["echo"], limit=9, user_limit=9, holding=[claim.run, "run_x"]) == []
    assert await storage.runs.claim("w2", agents=["echo"], limit=9, user_limit=9, holding=[]) == []
    (again,) = await storage.runs.claim("w1", agents=["echo"], limit=9, user_limit=1, holding=["run_x"])
    assert (again.run, again.attempt, again.ordinal, again.handed_over) == (sent.run, 2, 0, None)
    late = Batch(run=claim.run, attempt=1, ordinal=0, events=(started(),))
    assert await storage.events.append([late]) == [Fenced()]
    await append(storage, again, started(), completed(), ordinal=0, end=COMPLETED)
    assert await storage.runs.claim("w1", agents=["echo"], limit=9, user_limit=9, holding=[]) == []


async def test_released_run_is_claimed_at_once_and_says_why(storage: Storage) -> None:
    await send(storage)
    claim = await claim_one(storage)
    await append(storage, claim, started(), ordinal=0)
    await storage.runs.release(claim.run, claim.attempt, reason="drained")
    await storage.runs.release(claim.run, claim.attempt, reason="deploy")  # no longer held: nothing happens
    late = Batch(run=claim.run, attempt=1, ordinal=1, events=(thought("late"),))
    assert await storage.events.append([late]) == [Fenced()]
    again = await claim_one(storage, "w2")
    assert (again.run, again.attempt, again.ordinal, again.handed_over) == (claim.run, 2, 1, "drained")
    await storage.runs.release(claim.run, 1, reason="drained")  # a stale attempt gives nothing back
    assert await storage.runs.claim("w3", agents=["echo"], limit=1, user_limit=9) == []
    await append(storage, again, thought("on"), ordinal=1)


# cancel -------------------------------------------------------------------------------------------


async def test_cancelling_a_queued_run_ends_it_in_that_write(storage: Storage) -> None:
    sent = await send(storage)
    result = await storage.runs.cancel("usr_ada", sent.run, BY_USER)
    assert (result.run, result.thread, result.status) == (sent.run, sent.thread, "cancelled")
    assert types(result.committed) == [(sent.run, "agent_cancelled", 2)]
    events = await storage.events.read_run(sent.run)
    assert said(events) == ["user_message", "agent_cancelled"]
    assert (decode_data(events[1]).by, decode_data(events[1]).reason) == ("user", "stop")
    row = await storage.runs.get("usr_ada", sent.run)
    assert (row.status, row.started_seq, row.terminal_seq) == ("cancelled", None, 2)
    again = await storage.runs.cancel("usr_ada", sent.run, BY_USER)
    assert again == Cancelled(run=sent.run, thread=sent.thread, status="cancelled", committed=())
    assert await storage.runs.claim("w1", agents=["echo"], limit=1, user_limit=1) == []


async def test_cancelling_a_running_run_asks_its_holder(storage: Storage) -> None:
    await send(storage)
    claim = await claim_one(storage)
    assert await storage.runs.signals("w1", {claim.run: 1}) == []
    result = await storage.runs.cancel("usr_ada", claim.run, BY_USER)
    assert (result.status, result.committed) == ("running", ())
    await storage.runs.cancel(None, claim.run, CancelRequest(by="revoked"))  # the first request stands
    assert await storage.runs.signals("w1", {claim.run: 1}) == [Signal(run=claim.run, attempt=1, cancel=BY_USER)]
    (lost,) = await storage.runs.signals("w2", {claim.run: 1})
    assert lost.is_lost
    await append(storage, claim, started(), completed(), ordinal=0, end=COMPLETED)
    assert await storage.runs.signals("w1", {claim.run: 1}) == [Signal(run=claim.run, attempt=1, is_lost=True)]
    assert (await storage.runs.cancel("usr_ada", claim.run, BY_USER)).status == "completed"


async def test_claimer_learns_that_a_lost_run_was_cancelled(adapter: Adapter) -> None:
    await send(adapter.storage)
    claim = await claim_one(adapter.storage)
    await adapter.crash()
    await adapter.storage.runs.cancel("usr_ada", claim.run, BY_USER)
    assert (await claim_one(adapter.storage)).cancel == BY_USER


async def test_run_of_somebody_else_cannot_be_seen_or_cancelled(storage: Storage) -> None:
    sent = await send(storage)
    for run in (sent.run, "run_unknown"):
        with pytest.raises(NotFound) as refusal:
            await storage.runs.cancel("usr_bob", run, BY_USER)
        assert (refusal.value.message, refusal.value.field) == ("There is no such run.", "run")
        with pytest.raises(NotFound):
            await storage.runs.get("usr_bob", run)
    with pytest.raises(NotFound):
        await storage.runs.cancel(None, "run_unknown", BY_USER)
    assert await storage.runs.list("usr_bob") == []
    assert await storage.runs.list("usr_bob", thread=sent.thread) == []


async def test_withdrawn_access_cancels_all_unfinished_runs_of_the_user(storage: Storage) -> None:
    first = await send(storage)
    await claim_one(storage)
    second, third = await send(storage, first.thread), await send(storage)
    other = await send(storage, user="usr_bob")
    results = await storage.runs.cancel_user("usr_ada", CancelRequest(by="revoked"))
    assert [(one.run, one.status) for one in results] == [
        (first.run, "running"),
        (second.run, "cancelled"),
        (third.run, "cancelled"),
    ]
    assert types(results[2].committed) == [(third.run, "agent_cancelled", 2)]
    assert (await storage.runs.get("usr_bob", other.run)).status == "queued"
    assert await storage.runs.cancel_user("usr_nobody", CancelRequest(by="revoked")) == []


async def test_completion_that_commits_first_stands(storage: Storage) -> None:
    await send(storage)
    claim = await claim_one(storage)
    cancelled, _ = await all_at_once(
        [
            storage.runs.cancel("usr_ada", claim.run, BY_USER),
            append(storage, claim, started(), completed(), ordinal=0, end=COMPLETED),
        ]
    )
    assert isinstance(cancelled, Cancelled)
    assert cancelled.status in ("running", "completed")
    assert (await storage.runs.get("usr_ada", claim.run)).status == "completed"


# lists --------------------------------------------------------------------------------------------


async def test_runs_are_listed_newest_first_in_pages(storage: Storage) -> None:
    sent: list[Sent] = [await send(storage) for _ in range(5)]
    newest_first = [one.run for one in reversed(sent)]
    assert [row.run for row in await storage.runs.list("usr_ada")] == newest_first
    page = await storage.runs.list("usr_ada", limit=2)
    rest = await storage.runs.list("usr_ada", before=page[-1].run)
    assert [row.run for row in page + rest] == newest_first
    assert await storage.runs.list("usr_ada", before="run_unknown") == []


async def test_lists_can_be_narrowed(storage: Storage) -> None:
    first = await send(storage)
    second = await send(storage, first.thread)
    third = await send(storage)
    await storage.runs.cancel("usr_ada", second.run, BY_USER)

    async def found(**by: str) -> set[str]:
        return {row.run for row in await storage.runs.list("usr_ada", **by)}  # type: ignore[arg-type]  # by name

    assert await found(thread=first.thread) == {first.run, second.run}
    assert await found(status="cancelled") == {second.run}
    assert await found(agent="echo", thread=third.thread) == {third.run}
    assert await found(agent="other") == set()
    await storage.threads.delete("usr_ada", first.thread)
    assert await found() == {third.run}
    with pytest.raises(NotFound):
        await storage.runs.get("usr_ada", first.run)
