"""The promises of `Threads`, on every adapter."""

from __future__ import annotations

import pytest
from tests.contract.adapters import append, claim_one, completed, send, started

from runwire.errors import NotFound
from runwire.storage.base import RunEnd, Storage


async def test_thread_belongs_to_whoever_made_it(storage: Storage) -> None:
    row = await storage.threads.create("usr_ada", title="Plans")
    assert (row.user, row.title, row.head, row.floor) == ("usr_ada", "Plans", 0, 0)
    assert await storage.threads.get("usr_ada", row.thread) == row
    for user, thread in (("usr_bob", row.thread), ("usr_ada", "th_unknown"), ("usr_nobody", row.thread)):
        for call in (
            storage.threads.get(user, thread),
            storage.threads.rename(user, thread, "Mine"),
            storage.threads.delete(user, thread),
        ):
            with pytest.raises(NotFound) as refusal:
                await call
            assert refusal.value.message == "There is no such thread."
    assert await storage.threads.get("usr_ada", row.thread) == row
    assert await storage.threads.list("usr_bob") == []


async def test_many_threads_are_found_each_within_its_own_user(storage: Storage) -> None:
    adas, bobs = [await storage.threads.create(user, title=user) for user in ("usr_ada", "usr_bob")]
    gone = await storage.threads.create("usr_ada")
    await storage.threads.delete("usr_ada", gone.thread)
    asked = [("usr_ada", adas.thread), ("usr_bob", bobs.thread), ("usr_ada", bobs.thread), ("usr_bob", adas.thread)]
    asked += [
        ("usr_ada", gone.thread),
        ("usr_ada", "th_unknown"),
        ("usr_nobody", adas.thread),
        (adas.thread, "usr_ada"),
    ]
    found = await storage.threads.get_many(asked)
    assert found == {("usr_ada", adas.thread): adas, ("usr_bob", bobs.thread): bobs}
    assert await storage.threads.get_many([]) == {}


async def test_threads_are_listed_newest_first_in_pages(storage: Storage) -> None:
    made = [(await storage.threads.create("usr_ada")).thread for _ in range(5)]
    await storage.threads.create("usr_bob")
    page = await storage.threads.list("usr_ada", limit=2)
    rest = await storage.threads.list("usr_ada", before=page[-1].thread)
    assert [row.thread for row in page + rest] == made[::-1]
    assert await storage.threads.list("usr_ada", before="th_unknown") == []
    await storage.threads.delete("usr_ada", made[3])
    assert [row.thread for row in await storage.threads.list("usr_ada", before=made[3])] == made[2::-1]


async def test_thread_can_be_renamed(storage: Storage) -> None:
    row = await storage.threads.create("usr_ada")
    assert (await storage.threads.rename("usr_ada", row.thread, "New")).title == "New"
    assert (await storage.threads.get("usr_ada", row.thread)).title == "New"
    assert (await storage.threads.rename("usr_ada", row.thread, None)).title is None


async def test_head_is_the_last_seq(storage: Storage) -> None:
    sent = await send(storage)
    claim = await claim_one(storage)
    await append(storage, claim, started(), ordinal=0)
    assert (await storage.threads.get("usr_ada", sent.thread)).head == 2


async def test_deleting_a_thread_stops_its_runs(storage: Storage) -> None:
    sent = await send(storage)
    claim = await claim_one(storage)
    queued = await send(storage, sent.thread)
    elsewhere = await send(storage)
    assert await storage.threads.delete("usr_ada", sent.thread) == [sent.run]
    (signal,) = await storage.runs.signals("w1", {claim.run: 1})
    assert (signal.run, signal.cancel is not None) == (sent.run, True)
    with pytest.raises(NotFound):
        await storage.threads.get("usr_ada", sent.thread)
    with pytest.raises(NotFound):
        await storage.threads.delete("usr_ada", sent.thread)
    # The holder ends its run in the tombstone's log, and can still read its journal for that.
    await append(storage, claim, started(), completed(), ordinal=0, end=RunEnd(status="completed"))
    assert len(await storage.events.read_run(sent.run)) == 3
    assert [event.type for event in await storage.events.read_run(queued.run)] == ["user_message", "agent_cancelled"]
    (left,) = await storage.runs.claim("w1", agents=["echo"], limit=9, user_limit=9)
    assert left.run == elsewhere.run


async def test_reset_starts_before_the_oldest_unfinished_run_else_the_last(storage: Storage) -> None:
    empty = await storage.threads.create("usr_ada")
    assert await storage.threads.reset_from(empty.thread) == 0
    first = await send(storage)
    claim = await claim_one(storage)
    second = await send(storage, first.thread)
    assert await storage.threads.reset_from(first.thread) == 0
    await append(storage, claim, started(), completed(), ordinal=0, end=RunEnd(status="completed"))
    assert await storage.threads.reset_from(first.thread) == second.seq - 1 == 1
    claim = await claim_one(storage)
    await append(storage, claim, started(), completed(), ordinal=0, end=RunEnd(status="completed"))
    assert await storage.threads.reset_from(first.thread) == 1
    await storage.threads.delete("usr_ada", first.thread)
    for thread in (first.thread, "th_unknown"):
        with pytest.raises(NotFound):
            await storage.threads.reset_from(thread)
