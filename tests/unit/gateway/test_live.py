"""The index of live listeners: everybody is told, also while some cannot leave."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.gateway.node import FakeIdentities, FakeStanding

from runwire.auth.identity import Identity
from runwire.errors import Unavailable
from runwire.gateway import live
from runwire.gateway.live import Live, Patience
from runwire.protocol.codes import CloseCode


class RecordingListener:
    """A listener that remembers what it was told and, like one whose read hangs, stays."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.codes: list[CloseCode] = []

    def announce_drain(self) -> None:
        pass

    def end(self, code: CloseCode, reason: str, *, after_s: float | None = None) -> None:
        self.codes.append(code)


async def test_all_are_shed_in_turns_also_when_none_of_them_can_leave_yet() -> None:
    index = Live(FakeStanding(), per_user=100)
    ann = await FakeIdentities().authenticate("t-ann")
    listeners = [RecordingListener(ann) for _ in range(20)]
    for listener in listeners:
        index.add(listener)
    for _ in range(10):
        index.shed(2)
    assert [listener.codes for listener in listeners] == [[CloseCode.UNAVAILABLE]] * 20
    assert len(index) == 0
    for listener in listeners:
        index.discard(listener)  # their own leaving counts nobody twice
    index.add(RecordingListener(ann))
    assert len(index) == 1


# ── waits for the database ───────────────────────────────────────────────────────────────────────────────


async def never() -> int:
    await asyncio.Event().wait()
    return 1


async def test_a_read_that_answers_is_handed_on() -> None:
    async def answer() -> int:
        return 1

    assert await Patience().read(answer()) == 1


async def test_a_read_that_hangs_is_unavailable_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "READ_S", 0.01)
    with pytest.raises(Unavailable):
        await Patience().read(never())


@pytest.mark.parametrize("times", [1, 3])
async def test_a_read_is_cut_at_once_however_often_it_is_cut(times: int) -> None:
    patience = Patience()
    patience.cut()  # nothing runs: nothing happens
    async with asyncio.timeout(0.5):  # far less than the time a read has

        async def cut() -> None:
            for _ in range(times):
                patience.cut()
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            group.create_task(cut())
            with pytest.raises(Unavailable):
                await patience.read(never())
    patience.cut()
    assert await patience.read(asyncio.sleep(0, 1)) == 1  # the next one is not concerned
