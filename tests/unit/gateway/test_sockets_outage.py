"""The database hangs: whoever has a read in flight still ends, at once when told, in time when it is time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.unit.gateway.node import Node, Reader, eventually, running

from runwire.gateway import live
from runwire.gateway.app import GatewaySettings
from runwire.protocol.codes import CloseCode
from runwire.protocol.connection import ConnectionSettings
from runwire.storage.memory.state import State
from runwire.storage.memory.storage import MemoryStorage

AT_ONCE_S = 0.5  # far less than a read of the log may take


class Outage:
    """From `begin` on no read of the log ever answers."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._events = storage.events
        self.waiting = 0

    def begin(self) -> None:
        self._events.read = self._hang  # type: ignore[method-assign]  # an outage, injected

    async def _hang(self, thread: str, *, after: int, limit: int = 500, size_bytes: int = 262_144) -> Any:
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1


@asynccontextmanager
async def hung(name: str = "ann", **times: float) -> AsyncIterator[tuple[Node, Reader]]:
    """A socket whose read of the log hangs."""
    storage = MemoryStorage(State())
    outage = Outage(storage)
    settings = GatewaySettings(connection=ConnectionSettings(**times))  # type: ignore[arg-type]  # only times
    async with running(settings, storage=storage) as node:
        thread = await old_thread(node)
        async with node.connect(name) as websocket:
            reader = Reader(websocket)
            await reader.frame()
            await reader.ask(op="subscribe", thread=thread, after=-1)  # its ring begins at the head
            outage.begin()
            reader.last[thread] = 0
            await reader.say(op="subscribe", thread=thread, after=0)
            await eventually(lambda: outage.waiting > 0)
            yield node, reader


async def old_thread(node: Node) -> str:
    """Make a thread whose events are in no ring."""
    async with node.connect() as websocket:
        ann = Reader(websocket)
        await ann.frame()
        data = (await ann.ask(op="send", content="hi"))["data"]
        await node.worker.whole_run(data["run"])
        await ann.until_end(data["run"])
    await eventually(lambda: node.gateway.tail.threads == 0)
    return str(data["thread"])


def revoke(node: Node) -> None:
    node.identities.withdraw("usr_ann")


def shed(node: Node) -> None:
    node.gateway.live.shed(1)


@pytest.mark.parametrize(("ending", "expected"), [(revoke, CloseCode.REVOKED), (shed, CloseCode.UNAVAILABLE)])
async def test_who_is_told_to_go_goes_at_once(ending: Callable[[Node], None], expected: CloseCode) -> None:
    async with hung() as (node, ann):
        ending(node)
        async with asyncio.timeout(AT_ONCE_S):
            assert (await ann.closed())[1] == expected
        assert len(node.gateway.live) == 0


async def test_what_the_socket_itself_finds_wrong_ends_it_at_once() -> None:
    async with hung() as (_, ann):
        await ann.websocket.send("no json")
        async with asyncio.timeout(AT_ONCE_S):
            assert (await ann.closed())[1] == CloseCode.BAD_FRAME


async def test_who_leaves_is_forgotten_at_once() -> None:
    async with hung() as (node, ann):
        await ann.websocket.close()
        async with asyncio.timeout(AT_ONCE_S):
            await eventually(lambda: len(node.gateway.live) == node.gateway.tail.threads == 0)


@pytest.mark.parametrize(
    ("name", "times", "expected"),
    [
        ("ann-0.2", {"token_grace_s": 0.1, "ping_s": 60.0}, CloseCode.TOKEN_EXPIRED),
        ("ann", {"ping_s": 0.1, "pong_s": 0.1}, CloseCode.NO_LIFE),
    ],
)
async def test_deadlines_of_a_socket_are_kept(
    monkeypatch: pytest.MonkeyPatch, name: str, times: dict[str, float], expected: CloseCode
) -> None:
    monkeypatch.setattr(live, "READ_S", 0.05)
    async with hung(name, **times) as (_, ann):
        async with asyncio.timeout(2):
            assert (await ann.closed())[1] == expected
