"""Erasing a person: nothing of theirs is left, nobody else notices, and it may be cut off anywhere."""

from __future__ import annotations

import pytest
from tests.contract.adapters import append, claim_one, completed, send, started, thought

from runwire.errors import NotFound
from runwire.protocol.events import AgentWaiting, emitted
from runwire.storage.base import (
    Batch,
    CancelRequest,
    Claim,
    Erased,
    Fenced,
    IncomingMessage,
    OpenedWait,
    RunEnd,
    Storage,
    Stored,
)

COMPLETED = RunEnd(status="completed")


async def erased(storage: Storage, user: str, *, is_forced: bool = False) -> list[Erased]:
    done = [await storage.erasure.erase(user, is_forced=is_forced)]
    while done[-1].has_more and (is_forced or not done[-1].unfinished):
        done.append(await storage.erasure.erase(user, is_forced=is_forced))
    return done


async def begun(storage: Storage, user: str, *, worker: str = "w1") -> Claim:
    await send(storage, user=user, key=f"key of {user}")
    claim = await claim_one(storage, worker)
    batch = Batch(
        run=claim.run,
        attempt=claim.attempt,
        ordinal=0,
        events=(started(), thought(f"what {user} thinks")),
        pinned=b'{"history": []}',
        blobs={"blob_1": b'"large"'},
    )
    assert isinstance((await storage.events.append([batch]))[0], Stored)
    return claim


async def test_nothing_is_left_of_a_person_and_others_keep_all(storage: Storage) -> None:
    claims = [await begun(storage, user) for user in ("usr_ada", "usr_bob")]
    for claim in claims:
        await append(storage, claim, completed(), ordinal=2, end=COMPLETED)
    mine, kept = claims
    before = await storage.events.read(kept.thread, after=0, limit=100)
    done = await erased(storage, "usr_ada")
    assert [thread for one in done for thread in one.threads] == [mine.thread]
    assert sum(one.runs for one in done) == 1
    assert await storage.threads.list("usr_ada") == []
    assert await storage.runs.list("usr_ada") == []
    with pytest.raises(NotFound):
        await storage.threads.get("usr_ada", mine.thread)
    assert await storage.runs.sent("usr_ada", "key of usr_ada", "any") is None, "the key is as good as new"
    assert await storage.events.read(kept.thread, after=0, limit=100) == before
    stats = await storage.upkeep.stats()
    assert [stats.counts[name] for name in ("threads", "runs", "blobs", "deleted_threads")] == [1, 1, 1, 0]
    assert await erased(storage, "usr_ada") == [Erased(runs=0, threads=(), unfinished=0, has_more=False)]
    assert await erased(storage, "usr_nobody") == [Erased(runs=0, threads=(), unfinished=0, has_more=False)]


async def test_a_run_that_somebody_holds_ends_first_unless_it_is_forced(storage: Storage) -> None:
    claim = await begun(storage, "usr_ada")
    await storage.runs.cancel_user("usr_ada", CancelRequest(by="revoked"))
    assert await erased(storage, "usr_ada") == [Erased(runs=0, threads=(), unfinished=1, has_more=True)]
    assert await storage.runs.list("usr_ada"), "nothing was touched"
    assert (await erased(storage, "usr_ada", is_forced=True))[-1].has_more is False
    late = Batch(run=claim.run, attempt=claim.attempt, ordinal=2, events=(completed(),), end=COMPLETED)
    assert await storage.events.append([late]) == [Fenced()], "whoever still holds it stops"
    assert (await storage.upkeep.stats()).counts["segments"] == 0
    sent = await send(storage, user="usr_ada")
    assert (await claim_one(storage)).run == sent.run, "what is made after it works"


async def test_waits_of_parked_runs_go_too(storage: Storage) -> None:
    claim = await begun(storage, "usr_ada")
    asks = emitted(AgentWaiting(wait="wt_1", kind="input", prompt="?", due_at=None), ts=1)
    opened = (OpenedWait(wait="wt_1", kind="input"),)
    batch = Batch(run=claim.run, attempt=claim.attempt, ordinal=2, events=(asks,), waits=opened)
    assert isinstance((await storage.events.append([batch]))[0], Stored)
    assert await storage.runs.park(claim.run, claim.attempt, ordinal=3, waits=["wt_1"], closing=[])
    await storage.runs.cancel_user("usr_ada", CancelRequest(by="revoked"))
    assert (await erased(storage, "usr_ada"))[-1].has_more is False
    with pytest.raises(NotFound):
        await storage.runs.answer("usr_ada", claim.run, "wt_1", "hello")
    await storage.erasure.wipe()


async def test_of_a_process_nothing_is_left_not_even_its_name(storage: Storage) -> None:
    for name in ("~node", "nobody", "ada"):
        await storage.runs.send(IncomingMessage(user=name, thread=None, agent=name, content="?"))
    assert await storage.erasure.leftovers(older_s=60) == []
    assert await storage.erasure.leftovers(older_s=0) == ["~node"]
    await erased(storage, "~node", is_forced=True)
    assert await storage.erasure.leftovers(older_s=0) == []
    again = await storage.runs.send(IncomingMessage(user="~node", thread=None, agent="~node", content="?"))
    assert again.is_new
    assert await storage.erasure.leftovers(older_s=0) == ["~node"]
