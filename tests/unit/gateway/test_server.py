"""The server around the sockets: one signal drains, a second one cuts the drain short."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.unit.gateway.node import eventually

from runwire.gateway.http_protocol import REFUSED
from runwire.gateway.server import Server, ServerSettings, _affordable, make_server


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


# ── strangers at the door ────────────────────────────────────────────────────────────────────────────────

HEAD = b"GET /v1/me HTTP/1.1\r\nHost: here\r\n"
UPGRADE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Door:
    """A server that serves until the test ends."""

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.writers: list[asyncio.StreamWriter] = []
        self._port = port

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    async def knock(self, said: bytes = b"") -> asyncio.StreamReader:
        """Connect and say something."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(said)
        self.writers.append(writer)
        return reader


@asynccontextmanager
async def door(app: Any = nothing, **settings: Any) -> AsyncIterator[Door]:
    async def drain() -> None:
        pass

    server = make_server(app, ServerSettings(graceful_s=1, **settings), drain=drain)
    listener = listening()
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=[listener]))
        await server.until_up()
        opened = Door(server, listener.getsockname()[1])
        try:
            yield opened
        finally:
            for writer in opened.writers:
                writer.close()
            server.stop()


async def answered(reader: asyncio.StreamReader) -> bytes:
    """Read one answer without a body."""
    async with asyncio.timeout(2):
        return await reader.readuntil(b"\r\n\r\n")


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Read until the server closes."""
    async with asyncio.timeout(2):
        return await reader.read()


@pytest.mark.parametrize("said", [b"", b"GET / HT", HEAD + b"X-Never: "])
async def test_who_brings_no_whole_request_in_time_is_sent_away(said: bytes) -> None:
    async with door(head_s=0.1) as here:
        assert await ended(await here.knock(said)) == b""
        await eventually(lambda: here.connections == 0)


@asynccontextmanager
async def answered_late(said: bytes) -> AsyncIterator[tuple[Door, asyncio.StreamReader]]:
    """A request that was answered after the time for its head was over."""
    go_on = asyncio.Event()

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await nothing(scope, receive, send)

    async with door(late, head_s=0.1) as here:
        reader = await here.knock(said)
        assert await ended(await here.knock()) == b""
        go_on.set()
        assert (await answered(reader)).startswith(b"HTTP/1.1 204")
        yield here, reader


async def test_the_next_request_of_a_connection_has_the_same_time() -> None:
    async with answered_late(HEAD + b"\r\n") as (here, reader):
        here.writers[0].write(HEAD)
        assert await ended(reader) == b""


async def test_a_body_that_trickles_in_after_its_answer_holds_no_connection() -> None:
    async with answered_late(HEAD + b"Content-Length: 100000\r\n\r\n") as (here, _):

        def is_gone_after_one_more_byte() -> bool:
            here.writers[0].write(b"x")
            return here.connections == 0

        await eventually(is_gone_after_one_more_byte)


async def test_an_answer_that_takes_its_time_and_a_socket_are_left_alone() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await go_on.wait()
            await send({"type": "websocket.send", "text": "still here"})
            return
        asked.set()
        await go_on.wait()
        await nothing(scope, receive, send)

    async with door(slow, head_s=0.05) as here:
        answer, upgraded = await here.knock(HEAD + b"\r\n"), await here.knock(UPGRADE)
        assert (await answered(upgraded)).startswith(b"HTTP/1.1 101")
        await asked.wait()
        assert await ended(await here.knock()) == b""  # the time of both is over as well
        assert await ended(await here.knock()) == b""
        go_on.set()
        assert (await answered(answer)).startswith(b"HTTP/1.1 204")
        async with asyncio.timeout(2):
            assert b"still here" in await upgraded.readuntil(b"here")


@pytest.mark.parametrize("request_", [HEAD + b"\r\n", UPGRADE])
async def test_beyond_the_limit_a_connection_is_told_to_come_back(request_: bytes) -> None:
    async with door(connections=2) as here:
        first, _ = await here.knock(), await here.knock()
        await eventually(lambda: here.connections == 2)
        refused = await ended(await here.knock(request_))
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in refused.lower()
        assert b'"code":"unavailable"' in refused
        here.writers[0].write(HEAD + b"\r\n")
        assert (await answered(first)).startswith(b"HTTP/1.1 204")
        here.writers[1].close()
        await eventually(lambda: here.connections == 1)
        assert (await answered(await here.knock(HEAD + b"\r\n"))).startswith(b"HTTP/1.1 204")


async def test_far_beyond_the_limit_nobody_is_heard() -> None:
    async with door(connections=2) as here:
        for _ in range(2 + REFUSED):
            await here.knock()
        await eventually(lambda: here.connections == 2 + REFUSED)
        with contextlib.suppress(ConnectionResetError):
            assert await ended(await here.knock(HEAD + b"\r\n")) == b""


def test_files_are_kept_for_the_database_however_many_connections_are_asked_for() -> None:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert _affordable(10) == 10
    assert _affordable(files) == _affordable(10 * files) < files - REFUSED


SLOW_BODY = b"POST /v1/threads HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n{"


async def test_a_body_that_does_not_come_in_time_is_408_and_its_app_is_told_that_nobody_is_there() -> None:
    heard: list[str] = []

    async def reading(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            heard.append("some")
        heard.append(message["type"])

    async with door(reading, body_s=0.1) as here:
        said = await ended(await here.knock(SLOW_BODY))
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b"application/problem+json" in said
        assert heard == ["some", "http.disconnect"]
        await eventually(lambda: here.connections == 0)


async def test_a_body_in_time_and_an_answer_without_its_body_are_left_alone() -> None:
    go_on = asyncio.Event()

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await go_on.wait()
        await send({"type": "http.response.body"})

    async with door(late, body_s=0.05) as here:
        reader = await here.knock(SLOW_BODY)
        assert b"200" in await answered(reader)
        await asyncio.sleep(0.1)  # the time for the body is over, and the answer goes on
        go_on.set()
        async with asyncio.timeout(2):
            await reader.readuntil(b"0\r\n\r\n")
