"""Leases as a worker counts them: by arithmetic, and what it does and leaves undone without one."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.runtime.bench import QUICK, Gate, bench, types_of
from tests.unit.runtime.hooks import HookedStorage

from runwire.agents.context import Context
from runwire.errors import Unavailable
from runwire.runtime.lease import Contact, Lease
from runwire.storage.base import Claim, Signal


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_lease_counts_from_when_it_was_asked_for_and_ends_a_margin_early() -> None:
    clock = FakeClock()
    lease = Lease(6.0, sent_s=100.0, now_s=clock)

    def is_valid(now_s: float) -> bool:
        clock.now_s = now_s
        return lease.is_valid

    assert is_valid(103.9)
    assert not is_valid(104.0)
    lease.renew(102.0)  # its answer came late, and it is good all the same for what is left
    assert is_valid(105.9)
    lease.renew(101.0)  # an answer that was overtaken by a later one
    assert is_valid(105.9)
    assert not is_valid(106.0)


def test_a_margin_may_be_set_and_a_lease_without_end_has_none() -> None:
    clock = FakeClock()
    short = Lease(6.0, sent_s=100.0, margin_s=5.0, now_s=clock)
    endless = Lease(math.inf, sent_s=100.0, now_s=clock)
    clock.now_s = 101.0
    assert not short.is_valid
    clock.now_s = 1e9
    assert endless.is_valid


async def test_who_waits_for_a_lease_goes_on_in_its_own_loop_when_it_is_renewed() -> None:
    clock = FakeClock()
    lease = Lease(6.0, sent_s=0.0, now_s=clock)
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(10):
        elsewhere = tasks.create_task(asyncio.to_thread(asyncio.run, lease.wait_valid()))
        here = tasks.create_task(lease.wait_valid())
        while len(lease._waiters) < 2:  # noqa: ASYNC110 - of a thread's waiting nothing is said
            await asyncio.sleep(0.01)
        lease.renew(90.0)  # too old to help
        assert not here.done()
        assert not elsewhere.done()
        lease.renew(100.0)
    assert lease._waiters == []


def _contact(*times: float, lease_s: float = 6.0) -> Contact:
    contact = Contact(lease_s)
    for sent_s in times:
        contact.succeeded(sent_s=sent_s, now_s=sent_s + 0.1)
    return contact


def test_what_was_lost_is_taken_only_after_a_whole_lease_of_contact_without_a_gap() -> None:
    contact = _contact(*range(100, 107))
    assert not contact.may_take_lost(106.05)  # the first answer came at 100.1
    assert contact.may_take_lost(106.2)
    contact.succeeded(sent_s=109.5, now_s=109.6)  # half a lease, and a bit: others were cut off as well, perhaps
    assert not contact.may_take_lost(109.7)
    for sent_s in range(110, 117):
        contact.succeeded(sent_s=sent_s, now_s=sent_s + 0.1)
    assert contact.may_take_lost(116.2)
    assert not contact.may_take_lost(119.0)  # it slept since: what it knew is old
    assert not Contact(6.0).may_take_lost(0.0)
    assert Contact(math.inf).may_take_lost(0.0)


def test_an_answer_that_took_long_is_a_gap_too() -> None:
    contact = _contact(*range(100, 107))
    contact.succeeded(sent_s=107.0, now_s=109.5)
    assert not contact.may_take_lost(109.6)


def test_blindness_counts_from_the_first_failure_and_not_from_a_time_asleep() -> None:
    contact = _contact(100.0)
    assert contact.blind_s(500.0) == 0.0
    contact.failed(now_s=500.0)
    contact.failed(now_s=530.0)
    assert contact.blind_s(560.0) == 60.0
    contact.succeeded(sent_s=561.0, now_s=561.1)
    assert contact.blind_s(600.0) == 0.0


LEASE_S = 0.6
LEASED = replace(QUICK, signals_s=60.0)  # nothing is learned but by renewals


def _away(storage: HookedStorage) -> asyncio.Event:
    """Let every renewal fail until the event is set."""
    is_back = asyncio.Event()

    async def renew(real: Callable[[], Awaitable[Any]], *args: Any, **options: Any) -> None:
        if not is_back.is_set():
            raise Unavailable("the test says so")
        await real()

    storage.runs.around["renew"] = renew
    return is_back


async def test_without_a_lease_nothing_is_stored_and_no_step_begins_and_with_it_all_goes_on() -> None:
    gates, stepped = [Gate(), Gate()], Gate()
    gates[1].open()

    async def step() -> None:
        stepped.arrive()

    async def agent(ctx: Context, message: str) -> Any:
        await gates[0].pass_()
        await ctx.thinking("said without a lease")
        await gates[1].pass_()
        await ctx.tool(step)
        return "done"

    storage = HookedStorage(lease_s=LEASE_S)
    is_back = _away(storage)
    async with bench(agent, storage=storage, settings=LEASED) as b:
        run = await b.send()
        await gates[0].arrival()
        (held,) = b.worker._runs
        while held.lease.is_valid:  # noqa: ASYNC110 - a lease runs out without a word
            await asyncio.sleep(0.02)
        gates[0].open()
        await gates[1].arrival()
        await b.agent_turns(50)
        await asyncio.sleep(0.1)
        assert types_of(await b.events(run)) == ["agent_started"]
        assert stepped.arrivals == 0
        is_back.set()
        events = await b.ended(run)
        assert {event.attempt for event in events} == {1}
        assert stepped.arrivals == 1


async def test_a_step_does_not_begin_between_the_end_of_its_lease_and_the_news() -> None:
    """The word that a tool is called is stored, and then the process stands still until its lease is over."""
    called = Gate()

    async def step() -> None:
        called.arrive()

    async def agent(ctx: Context, message: str) -> Any:
        await ctx.tool(step)
        return "done"

    storage = HookedStorage(lease_s=LEASE_S)
    is_back = _away(storage)

    async def append(real: Callable[[], Awaitable[Any]], batches: Any) -> Any:
        outcomes = await real()
        if any(event.type == "tool_executing" for batch in batches for event in batch.events):
            time.sleep(LEASE_S)  # noqa: ASYNC251 - the whole loop stands still, as by SIGSTOP
        return outcomes

    storage.events.around["append"] = append
    async with bench(agent, storage=storage, settings=LEASED) as b:
        run = await b.send()
        await b.until(lambda: _has(b, run, "tool_executing"))
        await b.agent_turns(50)
        await asyncio.sleep(0.1)
        assert called.arrivals == 0
        is_back.set()
        await b.ended(run)
        assert called.arrivals == 1


async def _has(b: Any, run: str, kind: str) -> bool:
    return kind in types_of(await b.events(run))


async def test_a_claim_that_was_under_way_for_longer_than_its_lease_begins_only_when_it_is_renewed() -> None:
    began = Gate()

    async def agent(ctx: Context, message: str) -> Any:
        began.arrive()
        return "done"

    storage = HookedStorage(lease_s=LEASE_S)
    is_back = _away(storage)

    async def claim(real: Callable[[], Awaitable[list[Claim]]], *args: Any, **options: Any) -> list[Claim]:
        claims = await real()
        if claims:
            time.sleep(LEASE_S)  # noqa: ASYNC251 - the whole loop stands still, as by SIGSTOP
        return claims

    storage.runs.around["claim"] = claim
    async with bench(agent, storage=storage, settings=LEASED) as b:
        run = await b.send()
        while not b.worker.active:  # noqa: ASYNC110 - of a claim nothing is said
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert await b.events(run) == []
        assert began.arrivals == 0
        is_back.set()
        await b.ended(run)


async def test_who_renews_a_lease_that_had_run_out_asks_first_whether_the_run_was_taken() -> None:
    """A renewal passes over what others took, without a word: by itself it would give the lease back to a zombie."""
    gate, stopped = Gate(), Gate()

    async def agent(ctx: Context, message: str) -> Any:
        try:
            await gate.pass_()
        finally:
            stopped.arrive()

    storage = HookedStorage(lease_s=LEASE_S)
    is_back = _away(storage)

    async def signals(real: Any, worker: str, held: dict[str, int], waits: Any = ()) -> list[Signal]:
        return [Signal(run=run, attempt=attempt + 1, is_lost=True) for run, attempt in held.items()]

    async with bench(agent, storage=storage, settings=LEASED) as b:
        await b.send()
        await gate.arrival()
        (held,) = b.worker._runs
        while held.lease.is_valid:  # noqa: ASYNC110 - a lease runs out without a word
            await asyncio.sleep(0.02)
        b.worker._settings = replace(LEASED, max_runs=0)  # it is not to claim it again
        storage.runs.around["signals"] = signals
        is_back.set()
        await stopped.arrival()
        await b.idle()
        assert not held.lease.is_valid


@pytest.mark.parametrize("is_blind", [True, False])
async def test_code_is_stopped_silently_when_its_worker_was_blind_for_long_and_not_before(is_blind: bool) -> None:
    gate, stopped = Gate(), Gate()

    async def agent(ctx: Context, message: str) -> Any:
        try:
            await gate.pass_()
        finally:
            stopped.arrive()

    storage = HookedStorage(lease_s=LEASE_S)
    settings = replace(LEASED, blind_s=0.3 if is_blind else 60.0, poll_s=60.0)
    async with bench(agent, storage=storage, settings=settings) as b:
        run = await b.send()
        await gate.arrival()
        storage.runs.around["fire_timers"] = storage.runs.around["claim"] = _refused
        storage.runs.around["renew"] = _refused
        if is_blind:
            await stopped.arrival()
            await b.idle()
        else:
            await asyncio.sleep(1.0)
            assert stopped.arrivals == 0
        assert types_of(await b.events(run)) == ["agent_started"]
        gate.open()


async def _refused(*_args: Any, **_options: Any) -> None:
    raise Unavailable("the test says so")


async def test_a_zombie_that_has_said_its_last_words_is_let_go() -> None:
    gate = Gate()

    async def agent(ctx: Context, message: str) -> Any:
        await gate.pass_()
        return "done"

    storage = HookedStorage(lease_s=LEASE_S)
    is_back = _away(storage)

    async def signals(real: Any, worker: str, held: dict[str, int], waits: Any = ()) -> list[Signal]:
        return [Signal(run=run, attempt=attempt + 1, is_lost=True) for run, attempt in held.items()]

    async with bench(agent, storage=storage, settings=LEASED) as b:
        await b.send()
        await gate.arrival()
        (held,) = b.worker._runs
        while held.lease.is_valid:  # noqa: ASYNC110 - the end of a lease is no event
            await asyncio.sleep(0.02)
        gate.open()
        while not held._is_leaving:  # noqa: ASYNC110 - nor is the last word of a run
            await asyncio.sleep(0.02)
        b.worker._settings = replace(LEASED, max_runs=0)
        storage.runs.around["signals"] = signals
        is_back.set()
        await b.idle()
