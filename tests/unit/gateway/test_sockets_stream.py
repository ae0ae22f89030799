"""How a stream over HTTP ends: told to, at the end of its token, and while the database hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx2
import pytest
from tests.unit.gateway.node import Node, eventually, running
from tests.unit.gateway.test_sockets_outage import AT_ONCE_S, Outage, old_thread, revoke, shed

from runwire.gateway.app import GatewaySettings
from runwire.gateway.clock import wall_ms
from runwire.gateway.sse import StreamSettings
from runwire.storage.memory.state import State
from runwire.storage.memory.storage import MemoryStorage


@asynccontextmanager
async def streaming(node: Node, thread: str, *, name: str = "ann") -> AsyncIterator[AsyncIterator[str]]:
    """Open a stream and give its chunks."""
    headers = {"Authorization": f"Bearer t-{name}", "Accept": "text/event-stream"}
    async with (
        httpx2.AsyncClient(base_url=node.url) as http,
        http.stream("GET", f"/v1/threads/{thread}/events", headers=headers) as response,
    ):
        yield response.aiter_text()


@pytest.mark.parametrize("ending", [revoke, shed])
async def test_a_stream_whose_read_hangs_ends_at_once_when_told(ending: Callable[[Node], None]) -> None:
    storage = MemoryStorage(State())
    outage = Outage(storage)
    async with running(storage=storage) as node:
        thread = await old_thread(node)
        await node.keep_ring(thread)
        outage.begin()
        async with streaming(node, thread) as chunks:
            await eventually(lambda: outage.waiting > 0)
            ending(node)
            async with asyncio.timeout(AT_ONCE_S):
                assert '"op":"bye"' in "".join([chunk async for chunk in chunks])
        await eventually(lambda: len(node.gateway.live) == 0)


async def test_a_token_is_borne_for_its_grace_and_then_ends_the_stream() -> None:
    loop = asyncio.get_running_loop()
    quick = GatewaySettings(stream=StreamSettings(token_grace_s=0.3))
    async with running(quick) as node:
        thread = await node.empty_log()
        began_s = loop.time()
        async with streaming(node, thread, name="ann-0.1") as chunks, asyncio.timeout(3):
            assert '"code":4005' in "".join([chunk async for chunk in chunks])
        assert loop.time() - began_s > 0.35


async def test_a_wall_clock_that_jumps_ends_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = GatewaySettings(stream=StreamSettings(heartbeat_s=0.02))
    async with running(quick) as node:
        thread = await node.empty_log()
        async with streaming(node, thread, name="ann-600") as chunks:
            assert "here" in await anext(chunks)
            now_ms = wall_ms()
            monkeypatch.setattr("runwire.gateway.sse.wall_ms", lambda: now_ms + 86_400_000)
            for _ in range(3):
                assert await anext(chunks) == ": heartbeat\n\n"
