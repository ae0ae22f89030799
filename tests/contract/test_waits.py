"""The promises of waits, parking, answers and timers, on every adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Literal

import pytest
from tests.contract.adapters import Adapter, append, claim_one, completed, said, send, started, thought

from runwire.errors import Conflict, NotFound, ProtocolError
from runwire.protocol.events import (
    AgentCancelled,
    AgentResumed,
    AgentWaiting,
    EmittedEvent,
    decode_data,
    emitted,
    unpack,
)
from runwire.storage.base import (
    AlreadyStored,
    Answer,
    Answered,
    Batch,
    Cancelled,
    CancelRequest,
    Claim,
    Committed,
    Fenced,
    OpenedWait,
    Overtaken,
    RunEnd,
    Signal,
    Storage,
    Stored,
    Unstorable,
    WaitKind,
)
from runwire.storage.clock import now_ms

ADA, BOB = "usr_ada", "usr_bob"
BY_USER = CancelRequest(by="user", reason="stop")
CANCELLED, COMPLETED = RunEnd(status="cancelled"), RunEnd(status="completed")
HOUR_MS = 3_600_000


def waiting(wait: str, kind: WaitKind = "input", *, due_at: int | None = None) -> EmittedEvent:
    return emitted(AgentWaiting(wait=wait, kind=kind, prompt="?", due_at=due_at), ts=1)


def ended(wait: str) -> EmittedEvent:
    return emitted(AgentResumed(wait=wait, value=None, by="ended"), ts=1)


def off() -> EmittedEvent:
    return emitted(AgentCancelled(by="user"), ts=1)


def told(committed: Sequence[Committed]) -> list[tuple[str, str, int, int]]:
    return [
        (event.run, event.type, event.seq, event.attempt)
        for one in committed
        for event in unpack(one.packed, first_seq=one.first_seq, run=one.run, attempt=one.attempt)
    ]


async def begin(
    storage: Storage, *waits: str, kind: WaitKind = "input", due_at: int | None = None, user: str = ADA
) -> Claim:
    """Claim a new run of a new thread that has begun to wait: its worker has appended 1 + the waits."""
    await send(storage, user=user)
    claim = await claim_one(storage)
    assert claim.user == user
    await open_waits(storage, claim, *waits, kind=kind, due_at=due_at, ordinal=0)
    return claim


async def open_waits(
    storage: Storage, claim: Claim, *waits: str, ordinal: int, kind: WaitKind = "input", due_at: int | None = None
) -> None:
    first = (started(),) if ordinal == 0 else (thought("on"),)
    batch = Batch(
        run=claim.run,
        attempt=claim.attempt,
        ordinal=ordinal,
        events=(*first, *(waiting(wait, kind, due_at=due_at) for wait in waits)),
        waits=tuple(OpenedWait(wait=wait, kind=kind, due_at=due_at) for wait in waits),
    )
    (outcome,) = await storage.events.append([batch])
    assert isinstance(outcome, Stored), outcome


async def park(storage: Storage, claim: Claim, *waits: str, ordinal: int | None = None) -> bool:
    ordinal = 1 + len(waits) if ordinal is None else ordinal
    closing = [ended(wait) for wait in waits]
    return await storage.runs.park(claim.run, claim.attempt, ordinal=ordinal, waits=waits, closing=closing)


async def parked(storage: Storage, *waits: str, user: str = ADA, due_at: int | None = None) -> Claim:
    claim = await begin(storage, *waits, user=user, due_at=due_at)
    assert await park(storage, claim, *waits)
    return claim


async def claims(storage: Storage, worker: str = "w2", *, limit: int = 9, user_limit: int = 9) -> list[Claim]:
    return await storage.runs.claim(worker, agents=["echo"], limit=limit, user_limit=user_limit)


async def status(storage: Storage, claim: Claim) -> str:
    return (await storage.runs.get(claim.user, claim.run)).status


async def journal(storage: Storage, claim: Claim) -> list[str]:
    return said(await storage.events.read_run(claim.run))


async def refused(call: Awaitable[object]) -> Conflict:
    with pytest.raises(Conflict) as refusal:
        await call
    assert refusal.value.code == "conflict"
    return refusal.value


# park ---------------------------------------------------------------------------------------------


async def test_parked_run_is_held_by_nobody(storage: Storage) -> None:
    claim = await parked(storage, "wt_1")
    assert await status(storage, claim) == "waiting"
    late = Batch(run=claim.run, attempt=1, ordinal=2, events=(thought("late"),))
    assert await storage.events.append([late]) == [Fenced()]
    assert await storage.runs.signals("w1", {claim.run: 1}) == [Signal(run=claim.run, attempt=1, is_lost=True)]
    await storage.runs.release(claim.run, 1, reason="drained")
    await storage.runs.renew("w1", {claim.run: 1})
    assert await storage.runs.claim("w1", agents=["echo"], limit=9, user_limit=9, holding=[]) == []
    assert await journal(storage, claim) == ["user_message", "agent_started", "agent_waiting"]


async def test_parked_run_keeps_its_thread_but_not_its_users_limit(storage: Storage) -> None:
    claim = await parked(storage, "wt_1")
    behind = await send(storage, claim.thread)
    elsewhere = await send(storage)
    assert [one.run for one in await claims(storage, user_limit=1)] == [elsewhere.run]
    assert (await storage.runs.get(ADA, behind.run)).status == "queued"
    with pytest.raises(Conflict) as refusal:
        await send(storage, claim.thread, on_active="reject")
    assert refusal.value.code == "run_active"


async def test_only_the_holder_that_has_stored_all_may_park(storage: Storage) -> None:
    claim = await begin(storage, "wt_1")
    for attempt, ordinal in ((2, 2), (0, 2), (1, 1), (1, 3)):
        call = storage.runs.park(claim.run, attempt, ordinal=ordinal, waits=["wt_1"], closing=[])
        assert not await call
    assert not await storage.runs.park("run_unknown", 1, ordinal=0, waits=["wt_1"], closing=[])
    queued = await send(storage)
    assert not await storage.runs.park(queued.run, 0, ordinal=0, waits=["wt_1"], closing=[])
    assert await status(storage, claim) == "running"
    await append(storage, claim, completed(), ordinal=2, end=COMPLETED)
    assert not await park(storage, claim, "wt_1", ordinal=3)


async def test_parking_again_after_a_lost_reply_says_the_same(storage: Storage) -> None:
    claim = await parked(storage, "wt_1")
    assert await park(storage, claim, "wt_1")
    await storage.runs.answer(ADA, claim.run, "wt_1", "yes")
    assert await park(storage, claim, "wt_1")
    (again,) = await claims(storage)  # nor was it put to sleep by that
    assert not await park(storage, claim, "wt_1")
    assert (again.attempt, await status(storage, claim)) == (2, "running")


async def test_parked_run_that_was_called_off_is_not_parked_again(storage: Storage) -> None:
    claim = await parked(storage, "wt_1")
    await storage.runs.cancel(ADA, claim.run, BY_USER)
    assert not await park(storage, claim, "wt_1")
    assert await status(storage, claim) == "cancelled"


@pytest.mark.parametrize("first", ["answer", "park"])
async def test_no_answer_is_lost_whichever_write_comes_first(storage: Storage, first: str) -> None:
    claim = await begin(storage, "wt_1", "wt_2")
    if first == "park":
        assert await park(storage, claim, "wt_1", "wt_2")
        assert await claims(storage) == []
    answered = await storage.runs.answer(ADA, claim.run, "wt_2", "yes")
    assert answered.is_parked == (first == "park")
    if first == "answer":
        assert await park(storage, claim, "wt_1", "wt_2")
    assert await status(storage, claim) == "waiting"
    (again,) = await claims(storage)
    assert (again.run, again.attempt, again.ordinal, again.is_resumed) == (claim.run, 2, 3, True)
    assert (again.lost, again.handed_over, again.cancel) == ((), None, None)
    assert await status(storage, claim) == "running"


async def test_answer_that_the_holder_has_learned_of_does_not_wake_it(storage: Storage) -> None:
    claim = await begin(storage, "wt_1", "wt_2")
    await storage.runs.answer(ADA, claim.run, "wt_1", "yes")
    assert await park(storage, claim, "wt_2", ordinal=3)
    assert await claims(storage) == []
    await storage.runs.answer(ADA, claim.run, "wt_2", "no")
    assert len(await claims(storage)) == 1


async def test_answer_and_park_at_once_lose_nothing(storage: Storage) -> None:
    for place in range(5):
        claim = await begin(storage, f"wt_{place}")
        async with asyncio.TaskGroup() as group:
            group.create_task(storage.runs.answer(ADA, claim.run, f"wt_{place}", place))
            is_parked = group.create_task(park(storage, claim, f"wt_{place}"))
        assert is_parked.result()
        (again,) = await claims(storage)
        assert (again.run, again.is_resumed) == (claim.run, True)


async def test_run_that_is_called_off_while_it_is_held_is_parked_and_woken(storage: Storage) -> None:
    claim = await begin(storage, "wt_1")
    await storage.runs.cancel(ADA, claim.run, BY_USER)
    assert await park(storage, claim, "wt_1")
    (again,) = await claims(storage)
    assert (again.run, again.cancel, again.is_resumed) == (claim.run, BY_USER, True)


async def test_run_parks_and_goes_on_many_times(storage: Storage) -> None:
    claim = await parked(storage, "wt_1")
    for number in range(2, 5):
        await storage.runs.answer(ADA, claim.run, f"wt_{number - 1}", number)
        (claim,) = await claims(storage, "w1")
        assert (claim.attempt, claim.is_resumed, claim.lost) == (number, True, ())
        await open_waits(storage, claim, f"wt_{number}", ordinal=claim.ordinal)
        assert await park(storage, claim, f"wt_{number}", ordinal=claim.ordinal + 2)
    assert (await journal(storage, claim)).count("agent_resumed") == 3


# answer -------------------------------------------------------------------------------------------


async def test_answer_is_an_event_that_the_worker_did_not_write(storage: Storage) -> None:
    claim = await begin(storage, "wt_1")
    answered = await storage.runs.answer(ADA, claim.run, "wt_1", {"city": "Ulm", "n": [1, None, "\x00ü"]})
    assert (answered.run, answered.thread, answered.wait) == (claim.run, claim.thread, "wt_1")
    assert answered.committed is not None
    assert (answered.committed.user, answered.committed.log) == (ADA, storage.log)
    assert told([answered.committed]) == [(claim.run, "agent_resumed", 4, 1)]
    data = decode_data((await storage.events.read_run(claim.run))[-1])
    assert (data.wait, data.value, data.by) == ("wt_1", {"city": "Ulm", "n": [1, None, "\x00ü"]}, ADA)
    await append(storage, claim, thought("on"), ordinal=2)


async def test_answer_given_again_is_no_second_one(storage: Storage) -> None:
    claim = await begin(storage, "wt_1")
    value = {"a": [1, {"b": None}], "c": True}
    first = await storage.runs.answer(ADA, claim.run, "wt_1", value)
    again = await storage.runs.answer(ADA, claim.run, "wt_1", {"c": True, "a": [1.0, {"b": None}]})
    assert first.committed is not None
    assert again == Answered(run=claim.run, thread=claim.thread, wait="wt_1", committed=None, is_parked=False)
    assert await park(storage, claim, "wt_1")
    assert (await storage.runs.answer(ADA, claim.run, "wt_1", value)).is_parked
    (again_held,) = await claims(storage)
    await append(storage, again_held, completed(), ordinal=2, end=COMPLETED)
    assert (await storage.runs.answer(ADA, claim.run, "wt_1", value)).committed is None  # a lost reply, much later
    assert (await journal(storage, claim)).count("agent_resumed") == 1


@pytest.mark.parametrize(
    ("value", "other"),
    [(1, True), (0, False), (None, False), ("1", 1), ([1], [1, 2]), ([1, 2], [2, 1]), ({"a": 1}, {"a": 1, "b": None})],
)
async def test_other_answer_is_refused_and_told_who_was_first(storage: Storage, value: Any, other: Any) -> None:
    claim = await begin(storage, "wt_1")
    await storage.runs.answer(ADA, claim.run, "wt_1", value)
    error = await refused(storage.runs.answer(ADA, claim.run, "wt_1", other))
    assert ADA in error.message
    await refused(storage.runs.answer(ADA, claim.run, "wt_1", [value]))
    assert decode_data((await storage.events.read_run(claim.run))[-1]).value == value


async def test_of_two_answers_at_once_one_wins(storage: Storage) -> None:
    claim = await parked(storage, "wt_1")
    wins: list[int] = []
    losses: list[str] = []

    async def answer(value: int) -> None:
        try:
            answered = await storage.runs.answer(ADA, claim.run, "wt_1", value)
        except Conflict as error:
            losses.append(error.message)
        else:
            assert answered.committed is not None
            wins.append(value)

    async with asyncio.TaskGroup() as group:
        for value in range(8):
            group.create_task(answer(value))
    assert (len(wins), len(losses)) == (1, 7)
    assert decode_data((await storage.events.read_run(claim.run))[-1]).value == wins[0]
    assert len(await claims(storage)) == 1


async def test_approval_takes_true_or_false(storage: Storage) -> None:
    claim = await begin(storage, "wt_1", "wt_2", kind="approval")
    for value in (1, 0, "true", None, [True]):
        with pytest.raises(ProtocolError) as refusal:
            await storage.runs.answer(ADA, claim.run, "wt_1", value)
        assert refusal.value.field == "value"
    assert (await storage.runs.answer(ADA, claim.run, "wt_1", True)).committed is not None
    assert (await storage.runs.answer(ADA, claim.run, "wt_2", False)).committed is not None


async def test_timer_takes_no_answer(storage: Storage) -> None:
    claim = await begin(storage, "wt_1", kind="timer", due_at=now_ms() + HOUR_MS)
    with pytest.raises(ProtocolError) as refusal:
        await storage.runs.answer(ADA, claim.run, "wt_1", None)
    assert refusal.value.field == "wait"


async def test_what_is_foreign_or_unknown_cannot_be_answered(storage: Storage) -> None:
    claim, other = await begin(storage, "wt_1"), await begin(storage, "wt_2")
    for user, run, wait, field in (
        (BOB, claim.run, "wt_1", "run"),
        (ADA, "run_unknown", "wt_1", "run"),
        (ADA, claim.run, "wt_unknown", "wait"),
        (ADA, other.run, "wt_1", "wait"),
    ):
        with pytest.raises(NotFound) as refusal:
            await storage.runs.answer(user, run, wait, "x")
        assert refusal.value.field == field
    await storage.threads.delete(ADA, claim.thread)
    with pytest.raises(NotFound):
        await storage.runs.answer(ADA, claim.run, "wt_1", "x")
    assert (await storage.runs.answer(ADA, other.run, "wt_2", "x")).committed is not None


async def test_wait_of_an_ended_run_takes_no_answer(storage: Storage) -> None:
    claim = await begin(storage, "wt_1")
    await append(storage, claim, completed(), ordinal=2, end=COMPLETED)
    await refused(storage.runs.answer(ADA, claim.run, "wt_1", "late"))
    assert await journal(storage, claim) == ["user_message", "agent_started", "agent_waiting", "agent_completed"]


async def test_run_that_is_asked_to_end_can_be_answered_until_it_has(storage: Storage) -> None:
    claim = await begin(storage, "wt_1")
    await storage.runs.cancel(ADA, claim.run, BY_USER)
    assert (await storage.runs.answer(ADA, claim.run, "wt_1", 1)).committed is not None


async def test_holder_hears_of_answers_as_long_as_it_asks(storage: Storage) -> None:
    claim, other = await begin(storage, "wt_1", "wt_2"), await begin(storage, "wt_3")
    held = {claim.run: 1, other.run: 1}
    waits = ["wt_1", "wt_2", "wt_3", "wt_unknown"]
    assert await storage.runs.signals("w1", held, waits) == []
    await storage.runs.answer(ADA, claim.run, "wt_2", {"a": [True]})
    expected = Signal(run=claim.run, attempt=1, answers=(Answer(wait="wt_2", value={"a": [True]}, by=ADA),))
    for _ in range(2):
        assert await storage.runs.signals("w1", held, waits) == [expected]
    assert await storage.runs.signals("w1", held, ["wt_1", "wt_3"]) == []
    assert await storage.runs.signals("w1", {other.run: 1}, waits) == []
    await storage.runs.cancel(ADA, claim.run, BY_USER)
    (signal,) = await storage.runs.signals("w1", held, waits)
    assert (signal.cancel, signal.answers) == (BY_USER, expected.answers)
    (foreign,) = await storage.runs.signals("w2", {claim.run: 1}, waits)
    assert (foreign.is_lost, foreign.cancel, foreign.answers) == (True, None, ())


# timers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["timer", "approval", "input"])
async def test_wait_whose_time_has_come_is_resumed_with_null(
    storage: Storage, kind: Literal["timer", "approval", "input"]
) -> None:
    claim = await begin(storage, "wt_1", kind=kind, due_at=1)
    (fired,) = await storage.runs.fire_timers()
    assert (fired.run, fired.thread, fired.wait, fired.is_parked) == (claim.run, claim.thread, "wt_1", False)
    assert fired.committed is not None
    assert told([fired.committed]) == [(claim.run, "agent_resumed", 4, 1)]
    data = decode_data((await storage.events.read_run(claim.run))[-1])
    assert (data.wait, data.value, data.by) == ("wt_1", None, "timer")
    assert await storage.runs.fire_timers() == []
    (signal,) = await storage.runs.signals("w1", {claim.run: 1}, ["wt_1"])
    assert signal.answers == (Answer(wait="wt_1", value=None, by="timer"),)


async def test_wait_is_not_resumed_before_its_time(storage: Storage) -> None:
    await begin(storage, "wt_1", due_at=now_ms() + HOUR_MS)
    await begin(storage, "wt_2")
    assert await storage.runs.fire_timers() == []


@pytest.mark.parametrize("first", ["timer", "park"])
async def test_timer_wakes_a_parked_run(storage: Storage, first: str) -> None:
    claim = await begin(storage, "wt_1", due_at=1)
    if first == "park":
        assert await park(storage, claim, "wt_1")
    (fired,) = await storage.runs.fire_timers()
    assert fired.is_parked == (first == "park")
    if first == "timer":
        assert await park(storage, claim, "wt_1")
    (again,) = await claims(storage)
    assert (again.run, again.is_resumed) == (claim.run, True)


async def test_of_answer_and_timer_the_first_one_stands(storage: Storage) -> None:
    claim = await begin(storage, "wt_1", "wt_2", due_at=1)
    await storage.runs.answer(ADA, claim.run, "wt_1", 1)  # its time has come, but nobody has said so
    assert [one.wait for one in await storage.runs.fire_timers()] == ["wt_2"]
    await refused(storage.runs.answer(ADA, claim.run, "wt_2", None))
    assert (await journal(storage, claim)).count("agent_resumed") == 2


async def test_timers_fire_in_portions_the_oldest_first(storage: Storage) -> None:
    for place in (3, 1, 2):
        await begin(storage, f"wt_{place}", kind="timer", due_at=place)
    assert [one.wait for one in await storage.runs.fire_timers(limit=2)] == ["wt_1", "wt_2"]
    assert [one.wait for one in await storage.runs.fire_timers(limit=2)] == ["wt_3"]


async def test_timers_that_are_fired_by_many_at_once_fire_once(storage: Storage) -> None:
    claim = await begin(storage, *(f"wt_{place}" for place in range(20)), kind="timer", due_at=1)
    fired: list[str] = []

    async def fire() -> None:
        fired.extend(one.wait for one in await storage.runs.fire_timers(limit=7))

    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(fire())
    await fire()
    await fire()
    await fire()
    assert sorted(fired) == sorted(f"wt_{place}" for place in range(20))
    assert (await journal(storage, claim)).count("agent_resumed") == 20


async def test_timer_of_a_run_that_has_ended_does_not_fire(storage: Storage) -> None:
    claim = await begin(storage, "wt_1", due_at=1)
    await append(storage, claim, completed(), ordinal=2, end=COMPLETED)
    await parked(storage, "wt_2", due_at=1, user=BOB)
    await storage.runs.cancel_user(BOB, CancelRequest(by="revoked"))
    assert await storage.runs.fire_timers() == []


# closing ------------------------------------------------------------------------------------------


def closing(claim: Claim, *waits: str, ordinal: int) -> Batch:
    return Batch(
        run=claim.run,
        attempt=claim.attempt,
        ordinal=ordinal,
        events=(*(ended(wait) for wait in waits), off()),
        end=CANCELLED,
        closes=waits,
    )


async def test_run_closes_its_waits_when_it_ends(storage: Storage) -> None:
    claim = await begin(storage, "wt_1", "wt_2")
    batch = closing(claim, "wt_1", "wt_2", ordinal=3)
    (outcome,) = await storage.events.append([batch])
    assert isinstance(outcome, Stored)
    again = AlreadyStored(first_seq=outcome.committed.first_seq, last_seq=outcome.committed.last_seq)
    assert await storage.events.append([batch]) == [again]
    await refused(storage.runs.answer(ADA, claim.run, "wt_1", 1))


@pytest.mark.parametrize("by", ["user", "timer"])
async def test_batch_that_closes_an_answered_wait_is_overtaken(storage: Storage, by: str) -> None:
    claim, other = await begin(storage, "wt_1", "wt_2", due_at=1 if by == "timer" else None), await begin(storage)
    if by == "timer":
        await storage.runs.fire_timers()
    else:
        await storage.runs.answer(ADA, claim.run, "wt_2", 1)
    before = await journal(storage, claim)
    beside = Batch(run=other.run, attempt=1, ordinal=1, events=(thought("beside"),))
    outcomes = await storage.events.append([closing(claim, "wt_1", "wt_2", ordinal=3), beside])
    assert outcomes[0] == Overtaken()
    assert isinstance(outcomes[1], Stored)
    assert (await journal(storage, claim), await status(storage, claim)) == (before, "running")
    # Nothing was written: the run ends anew at the same ordinal, and closes what is still open.
    left = () if by == "timer" else ("wt_1",)
    (outcome,) = await storage.events.append([closing(claim, *left, ordinal=3)])
    assert isinstance(outcome, Stored)
    assert await status(storage, claim) == "cancelled"


async def test_stale_batch_that_closes_an_answered_wait_is_fenced(storage: Storage) -> None:
    claim = await begin(storage, "wt_1")
    await storage.runs.answer(ADA, claim.run, "wt_1", 1)
    assert await storage.events.append([closing(claim, "wt_1", ordinal=1)]) == [Fenced()]
    await storage.runs.release(claim.run, 1, reason="drained")
    assert await storage.events.append([closing(claim, "wt_1", ordinal=2)]) == [Fenced()]


async def test_wait_can_begin_and_end_in_one_batch(storage: Storage) -> None:
    claim = await begin(storage)
    batch = Batch(
        run=claim.run,
        attempt=1,
        ordinal=1,
        events=(waiting("wt_1"), ended("wt_1"), off()),
        end=CANCELLED,
        waits=(OpenedWait(wait="wt_1", kind="input"),),
        closes=("wt_1",),
    )
    (outcome,) = await storage.events.append([batch])
    assert isinstance(outcome, Stored)
    await refused(storage.runs.answer(ADA, claim.run, "wt_1", 1))


@pytest.mark.parametrize("fault", ["not named", "named in vain", "there already", "closed unnamed"])
async def test_wait_that_cannot_be_kept_fails_its_batch_alone(storage: Storage, fault: str) -> None:
    claim, other = await begin(storage, "wt_1"), await begin(storage)
    named = (OpenedWait(wait="wt_2", kind="input"),)
    events, waits = {
        "not named": ((waiting("wt_2"),), ()),
        "named in vain": ((thought("x"),), named),
        "there already": ((waiting("wt_1"),), (OpenedWait(wait="wt_1", kind="input"),)),
        "closed unnamed": ((ended("wt_1"),), ()),
    }[fault]
    guilty = Batch(run=claim.run, attempt=1, ordinal=2, events=events, waits=waits)
    beside = Batch(run=other.run, attempt=1, ordinal=1, events=(thought("beside"),))
    outcomes = await storage.events.append([guilty, beside])
    assert isinstance(outcomes[0], Unstorable)
    assert isinstance(outcomes[1], Stored)
    await append(storage, claim, thought("on"), ordinal=2)
    assert (await storage.runs.answer(ADA, claim.run, "wt_1", 1)).committed is not None


# calling off --------------------------------------------------------------------------------------

OFF = ["agent_resumed", "agent_cancelled"]


async def test_cancelling_a_parked_run_ends_it_in_that_write(storage: Storage) -> None:
    claim = await parked(storage, "wt_1", "wt_2")
    behind = await send(storage, claim.thread)
    result = await storage.runs.cancel(ADA, claim.run, BY_USER)
    assert (result.run, result.thread, result.status) == (claim.run, claim.thread, "cancelled")
    assert told(result.committed) == [
        (claim.run, "agent_resumed", 6, 1),
        (claim.run, "agent_resumed", 7, 1),
        (claim.run, "agent_cancelled", 8, 1),
    ]
    events = (await storage.events.read_run(claim.run))[-3:]
    assert [decode_data(event).by for event in events] == ["ended", "ended", "user"]
    row = await storage.runs.get(ADA, claim.run)
    assert (row.status, row.terminal_seq) == ("cancelled", 8)
    again = await storage.runs.cancel(ADA, claim.run, BY_USER)
    assert again == Cancelled(run=claim.run, thread=claim.thread, status="cancelled", committed=())
    await refused(storage.runs.answer(ADA, claim.run, "wt_1", 1))
    assert [one.run for one in await claims(storage)] == [behind.run]


async def test_cancelling_a_woken_run_leaves_its_end_to_who_claims_it(storage: Storage) -> None:
    claim = await parked(storage, "wt_1")
    await storage.runs.answer(ADA, claim.run, "wt_1", 1)
    result = await storage.runs.cancel(ADA, claim.run, BY_USER)
    assert (result.status, result.committed) == ("waiting", ())
    again = await storage.runs.cancel(None, claim.run, CancelRequest(by="revoked"))  # the first request stands
    assert again == result
    (held,) = await claims(storage)
    assert (held.run, held.cancel, held.is_resumed, held.ordinal) == (claim.run, BY_USER, True, 2)
    await append(storage, held, off(), ordinal=2, end=CANCELLED)
    assert (await journal(storage, claim))[-2:] == OFF


async def test_of_answer_and_cancel_at_once_both_are_kept(storage: Storage) -> None:
    for place in range(6):
        claim = await parked(storage, f"wt_{place}")

        async def answer(claim: Claim = claim, wait: str = f"wt_{place}") -> bool:
            try:
                await storage.runs.answer(ADA, claim.run, wait, 1)
            except Conflict:
                return False
            return True

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer()), group.create_task(storage.runs.cancel(ADA, claim.run, BY_USER))]
        found = await claims(storage)
        assert [one.run for one in found] == ([claim.run] if tasks[0].result() else [])
        for held in found:
            assert held.cancel == BY_USER
            await append(storage, held, off(), ordinal=2, end=CANCELLED)
        assert (await journal(storage, claim))[-2:] == OFF


async def test_interrupt_ends_a_parked_run_in_the_send(storage: Storage) -> None:
    claim = await parked(storage, "wt_1")
    queued = await send(storage, claim.thread)
    sent = await send(storage, claim.thread, on_active="interrupt")
    assert (sent.stop, sent.after) == ((), 4)
    assert [(run, kind) for run, kind, _, _ in told(sent.committed)] == [
        (claim.run, "agent_resumed"),
        (claim.run, "agent_cancelled"),
        (queued.run, "agent_cancelled"),
        (sent.run, "user_message"),
    ]
    event = (await storage.events.read_run(claim.run))[-1]
    assert (decode_data(event).by, decode_data(event).reason) == ("policy", "interrupt")
    assert [one.run for one in await claims(storage)] == [sent.run]


async def test_interrupt_leaves_a_woken_run_to_who_claims_it(storage: Storage) -> None:
    claim = await parked(storage, "wt_1")
    await storage.runs.answer(ADA, claim.run, "wt_1", 1)
    sent = await send(storage, claim.thread, on_active="interrupt")
    (held,) = await claims(storage)
    assert (held.run, held.cancel) == (claim.run, CancelRequest(by="policy", reason="interrupt"))
    await append(storage, held, off(), ordinal=2, end=CANCELLED)
    assert [one.run for one in await claims(storage)] == [sent.run]


async def test_deleting_a_thread_ends_its_parked_run(storage: Storage) -> None:
    claim = await parked(storage, "wt_1")
    assert await storage.threads.delete(ADA, claim.thread) == []
    assert await claims(storage) == []
    assert (await journal(storage, claim))[-2:] == OFF
    woken = await parked(storage, "wt_2")
    await storage.runs.answer(ADA, woken.run, "wt_2", 1)
    await storage.threads.delete(ADA, woken.thread)
    (held,) = await claims(storage)
    assert (held.run, held.cancel) == (woken.run, CancelRequest(by="user", reason="thread deleted"))


async def test_withdrawn_access_ends_parked_runs(storage: Storage) -> None:
    claim, woken = await parked(storage, "wt_1"), await parked(storage, "wt_2")
    await storage.runs.answer(ADA, woken.run, "wt_2", 1)
    results = await storage.runs.cancel_user(ADA, CancelRequest(by="revoked"))
    assert [(one.run, one.status) for one in results] == [(claim.run, "cancelled"), (woken.run, "waiting")]
    assert [kind for _, kind, _, _ in told(results[0].committed)] == OFF
    (held,) = await claims(storage)
    assert (held.run, held.cancel) == (woken.run, CancelRequest(by="revoked"))


# claim --------------------------------------------------------------------------------------------


async def wake(storage: Storage, claim: Claim, wait: str) -> None:
    await asyncio.sleep(0.005)  # some ticks of the clock: `woken_at` is in ms, and those of one ms have no order
    await storage.runs.answer(claim.user, claim.run, wait, 1)


async def test_lost_runs_come_before_woken_ones_and_these_before_queued_ones(adapter: Adapter) -> None:
    woken = await parked(adapter.storage, "wt_1")
    lost = await begin(adapter.storage, user=BOB)
    queued = await send(adapter.storage, user="usr_cem")
    await adapter.crash()
    await adapter.storage.runs.answer(ADA, woken.run, "wt_1", 1)
    found = await claims(adapter.storage)
    assert [(one.run, one.is_resumed, one.lost) for one in found] == [
        (lost.run, False, (1,)),
        (woken.run, True, ()),
        (queued.run, False, ()),
    ]


async def test_woken_runs_count_against_their_users_limit(storage: Storage) -> None:
    woken = [await parked(storage, f"wt_{place}") for place in range(3)]
    running = await begin(storage)
    queued = await send(storage)
    for place, claim in enumerate(woken):
        await storage.runs.answer(ADA, claim.run, f"wt_{place}", 1)
    assert await claims(storage, user_limit=1) == []
    found = await claims(storage, user_limit=3)
    assert len(found) == 2
    assert {one.run for one in found} < {one.run for one in woken}
    await append(storage, running, completed(), ordinal=1, end=COMPLETED)
    (third,) = await claims(storage, user_limit=3)
    assert third.is_resumed  # before the queued one
    (last,) = await claims(storage, user_limit=4)
    assert last.run == queued.run


async def test_woken_runs_are_served_users_in_turn_the_first_woken_first(storage: Storage) -> None:
    theirs = {user: [await parked(storage, f"wt_{user}{n}", user=user) for n in range(3)] for user in ("u_a", "u_b")}
    for user in ("u_a", "u_b"):
        for place in (2, 0, 1):
            await wake(storage, theirs[user][place], f"wt_{user}{place}")
    found = [one.run for _ in range(2) for one in await claims(storage, limit=3)]
    first, second = ("u_a", "u_b") if found[0] == theirs["u_a"][2].run else ("u_b", "u_a")
    expected = [theirs[user][place].run for place in (2, 0, 1) for user in (first, second)]
    # Each claim serves whoever waited longest since the last one.
    assert found[:2] == expected[:2]
    assert [run for run in found if run in {one.run for one in theirs[first]}] == expected[::2]
    assert [run for run in found if run in {one.run for one in theirs[second]}] == expected[1::2]


async def test_many_claims_at_once_take_a_woken_run_once(storage: Storage) -> None:
    for place, claim in enumerate([await parked(storage, f"wt_{place}") for place in range(8)]):
        await storage.runs.answer(ADA, claim.run, f"wt_{place}", 1)
    found: list[str] = []

    async def take(worker: str) -> None:
        found.extend(one.run for one in await claims(storage, worker, limit=3))

    for _ in range(2):  # where rows are passed over that another claim looks at, a second look finds the rest
        async with asyncio.TaskGroup() as group:
            for place in range(6):
                group.create_task(take(f"w{place + 5}"))
    assert len(found) == len(set(found)) == 8


# elsewhere ----------------------------------------------------------------------------------------


async def test_parked_run_and_its_waits_survive_a_crash(adapter: Adapter) -> None:
    claim = await parked(adapter.storage, "wt_1", "wt_2")
    other = await parked(adapter.storage, "wt_3", user=BOB)
    await adapter.storage.runs.answer(ADA, claim.run, "wt_1", 1)
    await adapter.crash()
    assert [await status(adapter.storage, one) for one in (claim, other)] == ["waiting", "waiting"]
    (held,) = await claims(adapter.storage)
    assert (held.run, held.attempt, held.is_resumed, held.lost) == (claim.run, 2, True, ())
    result = await adapter.storage.runs.cancel(BOB, other.run, BY_USER)
    assert [kind for _, kind, _, _ in told(result.committed)] == OFF
    (answered,) = [await adapter.storage.runs.answer(ADA, claim.run, "wt_2", 2)]
    assert answered.committed is not None
    await adapter.crash()
    (held,) = await claims(adapter.storage)
    assert (held.run, held.attempt, held.is_resumed, held.lost) == (claim.run, 3, False, (2,))


async def test_thread_with_a_parked_run_is_active(storage: Storage) -> None:
    ended_first = await begin(storage)
    await append(storage, ended_first, completed(), ordinal=1, end=COMPLETED)
    sent = await send(storage, ended_first.thread)
    claim = await claim_one(storage)
    await open_waits(storage, claim, "wt_1", ordinal=0)
    assert await park(storage, claim, "wt_1")
    await send(storage, claim.thread)
    heads = await storage.events.heads({claim.thread: 0})
    assert heads[claim.thread].is_active
    assert await storage.threads.reset_from(claim.thread) == sent.seq - 1
    trimmed = await storage.upkeep.trim(ended_before=2**53, deleted_before=2**53)
    assert (trimmed.runs, trimmed.threads) == (0, ())
    assert (await storage.upkeep.stats()).counts["unfinished_runs"] == 2
    assert [row.run for row in await storage.runs.list(ADA, status="waiting")] == [claim.run]
    await storage.runs.cancel_user(ADA, BY_USER)
    assert not (await storage.events.heads({claim.thread: 0}))[claim.thread].is_active


async def test_deleted_thread_whose_run_waits_for_its_claimer_is_purged_afterwards(storage: Storage) -> None:
    claim = await parked(storage, "wt_1")
    await storage.runs.answer(ADA, claim.run, "wt_1", 1)
    await storage.threads.delete(ADA, claim.thread)
    assert (await storage.upkeep.trim(ended_before=None, deleted_before=2**53)).runs == 0
    (held,) = await claims(storage)
    await append(storage, held, off(), ordinal=2, end=CANCELLED)
    assert (await storage.upkeep.trim(ended_before=None, deleted_before=2**53)).runs == 1


async def test_waits_go_with_their_run(storage: Storage) -> None:
    claim = await begin(storage, "wt_1")
    await append(storage, claim, completed(), ordinal=2, end=COMPLETED)
    await send(storage, claim.thread)
    assert (await storage.upkeep.trim(ended_before=2**53, deleted_before=0)).runs == 1
    again = await begin(storage, "wt_1")  # an id that is free again shows that nothing of it is left
    assert (await storage.runs.answer(ADA, again.run, "wt_1", 1)).committed is not None
