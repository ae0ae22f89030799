"""Who owns a run, and what is left to somebody who does not any more; on every adapter, with leases and without."""

from __future__ import annotations

import asyncio
import math

import pytest
from tests.contract.adapters import Adapter, append, claim_one, completed, said, send, started, thought

from runwire.storage.base import Batch, Claim, Fenced, RunEnd, Signal, Storage

COMPLETED = RunEnd(status="completed")


async def claims(
    storage: Storage, worker: str = "w2", *, limit: int = 9, user_limit: int = 9, take_lost: bool = True
) -> list[Claim]:
    return await storage.runs.claim(worker, agents=["echo"], limit=limit, user_limit=user_limit, take_lost=take_lost)


async def begin(storage: Storage, worker: str = "w1", *, user: str = "usr_ada") -> Claim:
    await send(storage, user=user)
    claim = await claim_one(storage, worker)
    await append(storage, claim, started(), ordinal=0)
    return claim


async def assert_fenced(storage: Storage, stale: Claim, *, ordinal: int) -> None:
    """See that nothing which a former holder does has any effect."""
    before = said(await storage.events.read_run(stale.run))
    late = Batch(run=stale.run, attempt=stale.attempt, ordinal=ordinal, events=(thought("late"),))
    terminal = Batch(
        run=stale.run, attempt=stale.attempt, ordinal=ordinal, events=(completed(),), end=RunEnd(status="completed")
    )
    for batch in (late, terminal):
        assert await storage.events.append([batch]) == [Fenced()]
    assert not await storage.runs.park(stale.run, stale.attempt, ordinal=ordinal, waits=["wt_x"], closing=[])
    await storage.runs.renew("w1", {stale.run: stale.attempt})
    for reason in ("drained", "worker_lost"):
        await storage.runs.release(stale.run, stale.attempt, reason=reason)
    assert said(await storage.events.read_run(stale.run)) == before


async def test_run_of_a_dead_owner_is_taken_over(adapter: Adapter) -> None:
    stale = await begin(adapter.storage)
    await adapter.crash()
    (claim,) = await claims(adapter.storage)
    assert (claim.run, claim.attempt, claim.ordinal) == (stale.run, 2, 1)
    assert (claim.lost, claim.handed_over, claim.is_resumed) == ((1,), None, False)
    await assert_fenced(adapter.storage, stale, ordinal=1)
    assert await adapter.storage.runs.signals("w1", {stale.run: 1}) == [Signal(run=stale.run, attempt=2, is_lost=True)]
    assert await adapter.storage.runs.signals("w2", {claim.run: 2}) == []
    await append(adapter.storage, claim, thought("on"), ordinal=1)
    assert await claims(adapter.storage, "w3") == []


async def test_lost_attempts_are_counted_and_hand_overs_are_not(adapter: Adapter) -> None:
    claim = await begin(adapter.storage)
    expected: tuple[int, ...] = ()
    for attempt, how in enumerate(("crash", "drained", "worker_lost", "crash", "deploy"), start=1):
        if how == "crash":
            await adapter.crash()
        else:
            await adapter.storage.runs.release(claim.run, claim.attempt, reason=how)  # type: ignore[arg-type]  # one of them
        (claim,) = await claims(adapter.storage)
        expected += (attempt,) if how in ("crash", "worker_lost") else ()
        assert (claim.attempt, claim.lost) == (attempt + 1, expected)
        assert claim.handed_over == (how if how in ("drained", "deploy") else None)
    await adapter.storage.runs.release(claim.run, claim.attempt, reason="worker_lost")
    await adapter.crash()  # nobody held it: it was lost once
    (claim,) = await claims(adapter.storage)
    assert claim.lost == (*expected, 6)


async def test_claim_that_was_not_answered_is_no_lost_attempt(storage: Storage) -> None:
    claim = await begin(storage)
    (again,) = await storage.runs.claim("w1", agents=["echo"], limit=9, user_limit=9, holding=[])
    assert (again.run, again.attempt, again.lost) == (claim.run, 2, ())
    await assert_fenced(storage, claim, ordinal=1)


async def test_at_least_the_last_64_lost_attempts_are_told(storage: Storage) -> None:
    claim = await begin(storage)
    for _ in range(70):
        await storage.runs.release(claim.run, claim.attempt, reason="worker_lost")
        (claim,) = await claims(storage)
    assert claim.lost[-64:] == tuple(range(7, 71))
    assert claim.lost == tuple(sorted(set(claim.lost)))


async def test_what_was_given_back_is_taken_by_a_worker_that_takes_nothing_lost(adapter: Adapter) -> None:
    storage = adapter.storage
    given_back, held = await begin(storage), await begin(storage, user="usr_bob")
    await storage.runs.release(given_back.run, 1, reason="drained")
    queued = await send(storage, user="usr_cem")
    assert [one.run for one in await claims(storage, take_lost=False)] == [given_back.run, queued.run]
    await adapter.crash()
    found = await claims(adapter.storage, "w3", take_lost=False)
    if math.isinf(adapter.storage.lease_s):  # there are no leases to run out: the owner itself is gone
        assert {one.run for one in found} == {given_back.run, held.run, queued.run}
    else:
        assert found == []
        found = await claims(adapter.storage, "w3")
        assert {one.run for one in found} == {given_back.run, held.run, queued.run}


async def test_renewed_run_stays_with_its_holder(adapter: Adapter) -> None:
    await adapter.hurry()
    storage = adapter.storage
    claim = await begin(storage)
    periods = 1 if math.isinf(storage.lease_s) else 5
    for _ in range(periods):
        if periods > 1:
            await asyncio.sleep(storage.lease_s / 3)
        await storage.runs.renew("w1", {claim.run: 1, "run_unknown": 3})
        assert await claims(storage) == []
    await append(storage, claim, thought("on"), ordinal=1)


async def test_former_holder_cannot_renew_what_was_given_back(storage: Storage) -> None:
    stale = await begin(storage)
    await storage.runs.release(stale.run, 1, reason="drained")
    await storage.runs.renew("w1", {stale.run: 1})
    assert await storage.runs.signals("w1", {stale.run: 1}) == [Signal(run=stale.run, attempt=1, is_lost=True)]
    await assert_fenced(storage, stale, ordinal=1)
    (claim,) = await claims(storage)
    assert claim.handed_over == "drained"


async def test_unknown_run_is_lost(storage: Storage) -> None:
    (signal,) = await storage.runs.signals("w1", {"run_unknown": 3})
    assert (signal.run, signal.is_lost) == ("run_unknown", True)


async def test_lost_runs_are_taken_once_by_many_claims(adapter: Adapter) -> None:
    runs = {(await begin(adapter.storage)).run for _ in range(12)}
    await adapter.crash()
    found: list[str] = []

    async def take(worker: str) -> None:
        found.extend(one.run for one in await claims(adapter.storage, worker, limit=3, user_limit=1))

    for _ in range(4):  # where rows are passed over that another claim looks at, a later look finds the rest
        async with asyncio.TaskGroup() as group:
            for place in range(4):
                group.create_task(take(f"w{place + 2}"))
    assert len(found) == len(set(found)) == 12
    assert set(found) == runs


@pytest.mark.parametrize("user_limit", [1, 3])
async def test_limits_are_exact_under_four_claimers(storage: Storage, user_limit: int) -> None:
    users = ("usr_a", "usr_b", "usr_c")
    for user in users:
        for _ in range(12):
            await send(storage, user=user)
    running: dict[str, list[Claim]] = {user: [] for user in users}
    done = 0

    async def take(worker: str) -> None:
        for claim in await claims(storage, worker, limit=5, user_limit=user_limit):
            running[claim.user].append(claim)

    for _ in range(60):
        async with asyncio.TaskGroup() as group:
            for place in range(4):
                group.create_task(take(f"w{place}"))
        assert all(len(theirs) <= user_limit for theirs in running.values())
        for theirs in running.values():
            if theirs:
                await append(storage, theirs.pop(), started(), completed(), ordinal=0, end=COMPLETED)
                done += 1
        if done == 36:
            break
    assert done == 36
