"""Calls in tasks of their own: shared, begun again when they must be newer, never cancelled by a caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from runwire.auth.background import Background, Shared
from runwire.errors import Unavailable


class Counted:
    """Work that says which call of it answers, and waits to be let through."""

    def __init__(self) -> None:
        self.begun = 0
        self.gates: list[asyncio.Event] = []

    async def __call__(self) -> int:
        self.begun += 1
        number, gate = self.begun, asyncio.Event()
        self.gates.append(gate)
        await gate.wait()
        if number == 13:
            raise ValueError("thirteen")
        return number


def running(check: Callable[[Background], Awaitable[None]]) -> None:
    async def main() -> None:
        background = Background()
        await background.run(check(background))  # type: ignore[arg-type]  # every check is a coroutine

    asyncio.run(main())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_whoever_asks_while_a_call_runs_gets_its_outcome() -> None:
    async def check(background: Background) -> None:
        work = Counted()
        shared = Shared(background, work)
        async with asyncio.TaskGroup() as group:
            callers = [group.create_task(shared.outcome()) for _ in range(10)]
            await turns()
            work.gates[0].set()
        assert [caller.result() for caller in callers] == [1] * 10
        assert work.begun == 1

    running(check)


def test_whoever_needs_a_newer_one_waits_for_a_call_that_begins_now() -> None:
    async def check(background: Background) -> None:
        work = Counted()
        shared = Shared(background, work)
        async with asyncio.TaskGroup() as group:
            old = group.create_task(shared.outcome())
            await turns()
            newer = [group.create_task(shared.next_outcome()) for _ in range(3)]
            await turns()
            assert work.begun == 1
            work.gates[0].set()
            await turns()
            work.gates[1].set()
        assert old.result() == 1
        assert [caller.result() for caller in newer] == [2] * 3

    running(check)


def test_a_cancelled_caller_leaves_the_call_to_the_others() -> None:
    async def check(background: Background) -> None:
        work = Counted()
        shared = Shared(background, work)
        async with asyncio.TaskGroup() as group:
            impatient = group.create_task(shared.outcome())
            patient = group.create_task(shared.outcome())
            await turns()
            impatient.cancel()
            await turns()
            work.gates[0].set()
        assert impatient.cancelled()
        assert (patient.result(), work.begun) == (1, 1)

    running(check)


def test_an_error_goes_to_whoever_asked_and_ends_nothing_else() -> None:
    async def check(background: Background) -> None:
        work = Counted()
        work.begun = 12
        shared = Shared(background, work)
        async with asyncio.TaskGroup() as group:
            group.create_task(_raises(shared))
            await turns()
            work.gates[0].set()
            await turns()
            after = group.create_task(shared.outcome())
            await turns()
            work.gates[1].set()
        assert after.result() == 14

    running(check)


async def _raises(shared: Shared[int]) -> None:
    with pytest.raises(ValueError, match="thirteen"):
        await shared.outcome()


def test_nothing_can_be_started_before_and_after() -> None:
    async def check() -> None:
        background = Background()
        with pytest.raises(Unavailable):
            background.start(turns)

        async def main() -> None:
            await background.until_running()
            await background.start(turns)

        await background.run(main())
        with pytest.raises(Unavailable):
            background.start(turns)

    asyncio.run(check())
