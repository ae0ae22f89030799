"""The server around the sockets: one signal drains, a second one cuts the drain short."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Any

from runwire.gateway.server import Server, ServerSettings, make_server


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def signalled(server: Server) -> None:
    server.handle_exit(signal.SIGTERM, None)


async def test_the_first_signal_drains_before_the_server_ends_and_later_ones_do_no_harm() -> None:
    order: list[str] = []

    async def drain() -> None:
        order.append("drained")
        assert server.servers[0].is_serving()

    server = make_server(nothing, ServerSettings(), drain=drain)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(sockets=[listening()]))
        signalled(server)
        await serving
        order.append("ended")
        signalled(server)
        await asyncio.sleep(0)
    assert order == ["drained", "ended"]


async def test_a_second_signal_cuts_a_drain_short_that_would_never_end() -> None:
    began = asyncio.Event()

    async def drain() -> None:
        began.set()
        await asyncio.Event().wait()

    server = make_server(nothing, ServerSettings(), drain=drain)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=[listening()]))
        signalled(server)
        await began.wait()
        signalled(server)
