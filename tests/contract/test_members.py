"""Who serves a database, which agents may be asked, and whose runs a worker takes; on every adapter."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest
from tests.contract.adapters import Adapter, append, send, started

from runwire.protocol.events import AgentResumed, AgentWaiting, emitted
from runwire.storage.base import (
    Batch,
    CancelRequest,
    Claim,
    IncomingMessage,
    Member,
    Offered,
    OpenedWait,
    Sent,
    Storage,
)
from runwire.storage.base_members import MAX_AGENTS

MINUTE_S = 60.0
DAY_S = 86_400.0


def worker(node: str, *agents: str, default: str | None = None) -> Member:
    return Member(node=node, roles=("worker",), agents=agents, default_agent=default, version="1.0", code="c0de")


async def ask(storage: Storage, agent: str, thread: str | None = None, *, user: str = "usr_ada") -> Sent:
    return await storage.runs.send(IncomingMessage(user=user, thread=thread, agent=agent, content="hello"))


async def claimed(storage: Storage, node: str, agents: Sequence[str], **options: Any) -> list[str]:
    return [claim.run for claim in await storage.runs.claim(node, agents=agents, limit=9, user_limit=99, **options)]


async def take(storage: Storage, node: str, *agents: str) -> Claim:
    (claim,) = await storage.runs.claim(node, agents=agents, limit=1, user_limit=99)
    return claim


async def be_there(adapter: Adapter, *members: Member, for_s: float = MINUTE_S) -> None:
    """Have these been there for so long without a gap, and said so again just now."""
    for member in members:
        await adapter.storage.members.announce(member)
    for _ in range(math.ceil(for_s / 20)):
        await adapter.later(20)
        for member in members:
            await adapter.storage.members.announce(member)


# who is there -------------------------------------------------------------------------------------


async def test_members_are_listed_with_what_they_said(storage: Storage) -> None:
    both = Member(node="n1", roles=("worker", "gateway"), agents=("b", "a"), default_agent="b", version="1.2", code="x")
    assert await storage.members.announce(both)
    assert await storage.members.announce(Member(node="n2", roles=("auth",)))
    rows = {row.member.node: row for row in await storage.members.list()}
    assert rows["n1"].member == Member(
        node="n1", roles=("gateway", "worker"), agents=("a", "b"), default_agent="b", version="1.2", code="x"
    )
    assert rows["n2"].member == Member(node="n2", roles=("auth",))
    assert all(row.is_live and row.left_at is None and row.since == row.seen_at > 10**12 for row in rows.values())


async def test_only_what_changed_is_news(adapter: Adapter) -> None:
    members = adapter.storage.members
    assert await members.announce(worker("n1", "a", "b"))
    assert not await members.announce(worker("n1", "b", "a"))
    assert await members.announce(worker("n1", "a"))
    assert await members.announce(worker("n1", "a", default="a"))
    assert not await members.announce(worker("n1", "a", default="a"))
    await members.leave("n1")
    assert await members.announce(worker("n1", "a", default="a"))


async def test_member_is_live_as_long_as_its_word_is_good(adapter: Adapter) -> None:
    members = adapter.storage.members
    await members.announce(worker("n1", "a"))
    await adapter.later(55)
    assert [row.is_live for row in await members.list()] == [True]
    await adapter.later(10)
    assert [row.is_live for row in await members.list()] == [False]
    await members.announce(worker("n1", "a"), good_s=600)
    await adapter.later(595)
    assert [row.is_live for row in await members.list()] == [True]
    await members.leave("n1")
    ((is_live, left_at, seen_at),) = [(row.is_live, row.left_at, row.seen_at) for row in await members.list()]
    assert not is_live
    assert left_at == seen_at
    await members.leave("n1")
    await members.leave("n_unknown")
    assert (await members.list())[0].left_at == left_at


async def test_gap_begins_its_time_anew(adapter: Adapter) -> None:
    members = adapter.storage.members

    async def there_for_s() -> float:
        await members.announce(worker("n1", "a"))
        (row,) = await members.list()
        return (row.seen_at - row.since) / 1000

    assert await there_for_s() == 0
    await adapter.later(25)
    assert 25 <= await there_for_s() < 27
    await adapter.later(25)
    assert 50 <= await there_for_s() < 53
    await adapter.later(35)
    assert await there_for_s() == 0
    await adapter.later(25)
    await members.leave("n1")
    assert await there_for_s() == 0
    await adapter.later(-90)  # the clock was set back
    assert await there_for_s() == 0


async def test_who_was_not_seen_for_a_day_is_removed_by_whoever_announces(adapter: Adapter) -> None:
    members = adapter.storage.members
    for node in ("n1", "n2", "n3"):
        await members.announce(worker(node, "a"))
    await adapter.later(DAY_S + 1, "n1")
    await adapter.later(DAY_S - 60, "n2")
    await members.announce(worker("n3", "a"))
    assert [row.member.node for row in await members.list()] == ["n3", "n2"]


async def test_names_and_agents_of_a_member_are_bounded() -> None:
    assert len(worker("n1", *(f"a{number}" for number in range(MAX_AGENTS))).agents) == MAX_AGENTS
    for refused in ([f"a{number}" for number in range(MAX_AGENTS + 1)], ["x" * 256], [""]):
        with pytest.raises(ValueError, match=r"may have|characters"):
            worker("n1", *refused)
    with pytest.raises(ValueError, match="characters"):
        worker("n" * 256)


async def test_many_announce_at_once(adapter: Adapter) -> None:
    members = adapter.storage.members
    for number in range(20):
        await members.announce(worker(f"old{number}", "a"))
    await adapter.later(DAY_S + 1)
    async with asyncio.TaskGroup() as group:
        for number in range(30):
            group.create_task(members.announce(worker(f"n{number % 10}", "a")))
    assert sorted(row.member.node for row in await members.list()) == [f"n{number}" for number in range(10)]


# who may be asked ---------------------------------------------------------------------------------


async def test_agents_of_all_that_were_seen_within_a_day_are_offered(adapter: Adapter) -> None:
    members = adapter.storage.members
    assert await members.offered() == Offered()
    await members.announce(Member(node="g1", roles=("gateway",)))
    await members.announce(worker("n1", "b", "a"))
    await members.announce(worker("n2", "b", "c"))
    await adapter.later(DAY_S - 60, "n1")
    assert (await members.offered()).names == ("a", "b", "c")
    await adapter.later(120, "n1")
    assert (await members.offered()).names == ("b", "c")


async def test_agents_of_who_said_goodbye_are_offered_for_a_while_unless_nobody_else_is_there(adapter: Adapter) -> None:
    members = adapter.storage.members
    await members.announce(worker("n1", "old"))
    await members.announce(worker("n2", "new"))
    await members.leave("n1")
    assert (await members.offered()).names == ("new", "old")
    await adapter.later(61, "n1")
    assert (await members.offered()).names == ("new",)
    await members.leave("n2")
    assert (await members.offered()).names == ("new", "old")  # whoever comes next may have it
    await adapter.later(DAY_S)
    assert await members.offered() == Offered()


async def test_default_is_the_first_by_name_that_a_live_worker_chose(adapter: Adapter) -> None:
    members = adapter.storage.members
    await members.announce(worker("n1", "only"))
    offered = await members.offered()
    assert (offered.chosen, offered.default) == (None, "only")
    await members.announce(worker("n2", "a", "z"))
    assert (await members.offered()).default is None
    await members.announce(worker("n3", "a", "z", default="z"))
    assert (await members.offered()).default == "z"
    await members.announce(worker("n4", "a", "z", default="a"))
    await members.announce(worker("n3", "a", "z", default="z"))
    assert (await members.offered()).default == "a"
    await adapter.later(61, "n4")
    assert (await members.offered()).default == "z"
    await adapter.later(61, "n3")
    assert (await members.offered()).default == "a"


# whose runs are taken -----------------------------------------------------------------------------


async def test_worker_takes_only_runs_of_agents_that_it_has(adapter: Adapter) -> None:
    storage = adapter.storage
    await be_there(adapter, worker("w1", "a"), worker("w2", "b", "c"))
    runs = {name: (await ask(storage, name)).run for name in ("c", "a", "b")}
    assert await claimed(storage, "w1", ["a"]) == [runs["a"]]
    assert await claimed(storage, "w1", ["a"]) == []
    assert await claimed(storage, "w2", ["b", "c"]) == [runs["c"], runs["b"]]


async def test_run_of_an_agent_that_nobody_has_is_taken_by_who_may(adapter: Adapter) -> None:
    storage = adapter.storage
    await be_there(adapter, worker("w1", "a"))
    run = (await ask(storage, "gone")).run
    assert await claimed(storage, "w1", ["a"], take_orphans=False) == []
    assert await claimed(storage, "w1", ["a"]) == [run]


async def test_agent_is_nobodys_only_when_the_word_of_the_last_who_had_it_is_not_good_any_more(
    adapter: Adapter,
) -> None:
    storage = adapter.storage
    here = worker("w1", "a")
    await be_there(adapter, here, worker("w2", "b"))
    run = (await ask(storage, "b")).run
    await adapter.later(55, "w2")
    assert await claimed(storage, "w1", ["a"]) == []
    await storage.members.leave("w2")  # a goodbye: from now on for as long again
    await adapter.later(55, "w2")
    assert await claimed(storage, "w1", ["a"]) == []
    await adapter.later(6, "w2")
    assert await claimed(storage, "w1", ["a"]) == [run]


async def test_with_leases_only_who_was_there_for_long_enough_takes_what_nobody_has(adapter: Adapter) -> None:
    storage, here = adapter.storage, worker("w1", "a")
    if math.isinf(storage.lease_s):  # the only process there is
        return
    run = (await ask(storage, "gone")).run
    assert await claimed(storage, "w1", ["a"]) == []  # not even a member
    await be_there(adapter, here, for_s=40)
    assert await claimed(storage, "w1", ["a"]) == []
    await adapter.later(40)  # an outage, or the clock was set forward: it must come back first, and so must others
    assert await claimed(storage, "w1", ["a"]) == []
    await be_there(adapter, here, for_s=40)
    assert await claimed(storage, "w1", ["a"]) == []
    await be_there(adapter, here, for_s=20)
    await storage.members.leave("w1")
    assert await claimed(storage, "w1", ["a"]) == []
    await be_there(adapter, here)
    await adapter.later(-5)  # set back
    assert await claimed(storage, "w1", ["a"]) == []
    await be_there(adapter, here)
    assert await claimed(storage, "w1", ["a"]) == [run]


async def test_own_word_of_another_time_is_no_reason_to_leave_a_run(adapter: Adapter) -> None:
    """A worker that dropped an agent, and has not said so yet, is the last that had it: the run must end."""
    await be_there(adapter, worker("w1", "a", "b"))
    run = (await ask(adapter.storage, "b")).run
    assert await claimed(adapter.storage, "w1", ["a"]) == [run]


async def test_lost_run_is_left_to_who_has_its_agent(adapter: Adapter) -> None:
    for agent in ("a", "b"):
        await ask(adapter.storage, agent)
        claim = await take(adapter.storage, "w0", agent)
        await append(adapter.storage, claim, started(), ordinal=0)
    await adapter.crash()
    storage = adapter.storage
    await be_there(adapter, worker("w1", "a"), worker("w2", "b"))
    (mine,) = await storage.runs.claim("w1", agents=["a"], limit=9, user_limit=9)
    assert (mine.agent, mine.attempt) == ("a", 2)
    await adapter.later(61, "w2")
    (theirs,) = await storage.runs.claim("w1", agents=["a"], limit=9, user_limit=9)
    assert (theirs.agent, theirs.attempt) == ("b", 2)


async def test_run_given_back_is_left_to_who_has_its_agent(adapter: Adapter) -> None:
    storage = adapter.storage
    await be_there(adapter, worker("w1", "a"), worker("w2", "b"))
    await ask(storage, "b")
    claim = await take(storage, "w2", "b")
    await storage.runs.release(claim.run, 1, reason="drained")
    assert await claimed(storage, "w1", ["a"]) == []
    assert await claimed(storage, "w3", ["b"]) == [claim.run]


async def test_lost_run_that_was_called_off_needs_no_agent(adapter: Adapter) -> None:
    storage = adapter.storage
    await be_there(adapter, worker("w1", "a"), worker("w2", "b"))
    await ask(storage, "b")
    claim = await take(storage, "w2", "b")
    await storage.runs.release(claim.run, 1, reason="drained")
    await storage.runs.cancel("usr_ada", claim.run, CancelRequest(by="user"))
    (mine,) = await storage.runs.claim("w1", agents=["a"], limit=9, user_limit=9, take_orphans=False)
    assert (mine.run, mine.cancel) == (claim.run, CancelRequest(by="user"))


async def test_answered_run_is_left_to_who_has_its_agent(adapter: Adapter) -> None:
    storage = adapter.storage
    await be_there(adapter, worker("w1", "a"), worker("w2", "b"))
    await ask(storage, "b")
    claim = await take(storage, "w2", "b")
    await append(storage, claim, started(), ordinal=0)
    event = emitted(AgentWaiting(wait="wt_1", kind="input"), ts=1)
    opened = OpenedWait(wait="wt_1", kind="input")
    await storage.events.append([Batch(run=claim.run, attempt=1, ordinal=1, events=(event,), waits=(opened,))])
    closing = [emitted(AgentResumed(wait="wt_1", value=None, by="ended"), ts=1)]
    assert await storage.runs.park(claim.run, 1, ordinal=2, waits=["wt_1"], closing=closing)
    await storage.runs.answer("usr_ada", claim.run, "wt_1", "go")
    assert await claimed(storage, "w1", ["a"]) == []
    (woken,) = await storage.runs.claim("w3", agents=["b"], limit=9, user_limit=9, take_orphans=False)
    assert (woken.run, woken.is_resumed) == (claim.run, True)


async def test_run_that_is_left_alone_holds_back_its_own_thread_and_nothing_else(adapter: Adapter) -> None:
    storage = adapter.storage
    await be_there(adapter, worker("w1", "a"), worker("w2", "b"))
    first = await ask(storage, "b")
    behind = await ask(storage, "a", first.thread)
    beside = await ask(storage, "a")
    other = await ask(storage, "a", user="usr_bob")
    # One at a time: whose turn it is, and has nothing that may start, must not keep the others away.
    taken = [(await take(storage, "w1", "a")).run for _ in range(2)]
    assert sorted(taken) == sorted([beside.run, other.run])
    assert await claimed(storage, "w1", ["a"]) == []
    await storage.runs.cancel("usr_ada", first.run, CancelRequest(by="user"))
    assert await claimed(storage, "w1", ["a"]) == [behind.run]


async def test_user_whose_runs_are_left_alone_takes_nobodys_turn(adapter: Adapter) -> None:
    storage = adapter.storage
    await be_there(adapter, worker("w1", "a"), worker("w2", "b"))
    users = [f"usr_{number}" for number in range(5)]
    for user in users:
        blocked = await ask(storage, "b", user=user)
        if user != users[-1]:
            await ask(storage, "a", blocked.thread, user=user)  # behind it
    free = await ask(storage, "a", user=users[-1])
    (claim,) = await storage.runs.claim("w1", agents=["a"], limit=1, user_limit=1)
    assert claim.run == free.run


async def test_users_take_turns_among_the_runs_of_several_agents(adapter: Adapter) -> None:
    storage = adapter.storage
    await be_there(adapter, worker("w1", "a", "c"), worker("w2", "b"))
    for user, agent in (("x", "c"), ("x", "a"), ("x", "b"), ("y", "b"), ("y", "a"), ("z", "b"), ("x", "a"), ("y", "c")):
        await ask(storage, agent, user=f"usr_{user}")
    claims = await storage.runs.claim("w1", agents=["a", "c"], limit=9, user_limit=2)
    assert [(claim.user[-1], claim.agent) for claim in claims] == [("x", "c"), ("y", "a"), ("x", "a"), ("y", "c")]


async def test_claim_whose_answer_was_lost_comes_again_with_the_same_agents(storage: Storage) -> None:
    sent = await send(storage)
    assert await claimed(storage, "w1", ["echo"], holding=[]) == [sent.run]
    assert await claimed(storage, "w1", ["echo"], holding=[]) == [sent.run]


async def test_what_is_a_process_own_is_offered_to_nobody(storage: Storage) -> None:
    await storage.members.announce(Member(node="w1", roles=("worker",), agents=("walk", "~w1")))
    await storage.members.announce(Member(node="g1", roles=("gateway",), agents=("~g1",)))
    assert await storage.members.offered() == Offered(names=("walk",))
    assert (await storage.members.offered()).default == "walk", "it is the only one that anybody may ask"
