"""Which runs wait for a worker, and for how long: on every adapter."""

from __future__ import annotations

import asyncio

from tests.contract.adapters import append, claim_one, completed, send, started

from runwire.storage.base import CancelRequest, IncomingMessage, RunEnd, Storage, Waiting

COMPLETED = RunEnd(status="completed")
LATER_S = 0.3  # so long, other things are in a run's way


async def waiting(storage: Storage, *, limit: int = 100, user_limit: int = 10) -> Waiting:
    return await storage.runs.waiting(limit=limit, user_limit=user_limit)


async def test_who_waits_for_a_worker_is_counted_and_by_agent_how_long(storage: Storage) -> None:
    assert await waiting(storage) == Waiting(runs=0, oldest_s={})
    await send(storage)
    await asyncio.sleep(LATER_S)
    await send(storage, user="usr_bob")
    await send(storage, user="usr_bob", agent="other")
    found = await waiting(storage)
    assert found.runs == 3
    assert found.oldest_s["echo"] >= LATER_S - 0.05
    assert found.oldest_s["other"] < found.oldest_s["echo"]
    await storage.runs.claim("w1", agents=["echo"], limit=10, user_limit=10, take_orphans=False)
    left = await waiting(storage)
    assert (left.runs, [*left.oldest_s]) == (1, ["other"])


async def test_no_more_are_looked_at_than_were_asked_for(storage: Storage) -> None:
    for number in range(6):
        await send(storage, user=f"usr_{number % 3}")
    assert (await waiting(storage, limit=4)).runs == 4
    assert (await waiting(storage, limit=7)).runs == 6


async def test_what_waits_for_something_else_than_a_worker_is_not_counted(storage: Storage) -> None:
    first = await send(storage)
    await send(storage, first.thread)  # behind it
    assert (await waiting(storage)).runs == 1
    claim = await claim_one(storage)
    assert (await waiting(storage)).runs == 0, "one is held, the other behind it"
    await append(storage, claim, started(), ordinal=0)
    assert await storage.runs.park(claim.run, claim.attempt, ordinal=1, waits=["w_1"], closing=[])
    assert (await waiting(storage)).runs == 0, "one is parked, the other behind it"
    called_off = await send(storage)
    await storage.runs.cancel("usr_ada", called_off.run, CancelRequest(by="user"))
    assert (await waiting(storage)).runs == 0


async def test_one_user_fills_the_queue_with_no_more_than_may_run(storage: Storage) -> None:
    """What waits for its user's other runs waits for no worker, and must not keep others out."""
    for _ in range(5):
        await send(storage)
    assert (await waiting(storage, user_limit=3)).runs == 3
    await storage.runs.claim("w1", agents=["echo"], limit=2, user_limit=3)
    assert (await waiting(storage, user_limit=3)).runs == 1
    await storage.runs.claim("w1", agents=["echo"], limit=2, user_limit=3)
    assert (await waiting(storage, user_limit=3)).runs == 0


async def test_a_run_waits_since_nothing_else_was_in_its_way(storage: Storage) -> None:
    """Else the first run after a long one would look as if no worker had taken it for as long as that took."""
    first = await send(storage)
    await send(storage, first.thread)  # behind its thread's run
    await send(storage)  # over its user's limit
    claim = await claim_one(storage)
    await asyncio.sleep(LATER_S)
    await append(storage, claim, started(), completed(), ordinal=0, end=COMPLETED)
    found = await waiting(storage, user_limit=1)
    assert found.runs == 1
    assert found.oldest_s["echo"] < LATER_S - 0.05
    found = await waiting(storage, user_limit=2)
    assert found.runs == 2
    assert found.oldest_s["echo"] < LATER_S - 0.05


async def test_retries_and_repeats_are_runs_like_others(storage: Storage) -> None:
    sent = await send(storage, key="k", fingerprint="f")
    again = IncomingMessage(user="usr_ada", thread=None, agent="echo", content="hello", key="k", fingerprint="f")
    assert (await storage.runs.send(again)).run == sent.run
    assert (await waiting(storage)).runs == 1
