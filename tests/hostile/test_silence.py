"""Peers that vanish, stall or trickle: each is ended within three times its deadline, and its place is free again."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator

import pytest
from tests.hostile.raw import dialled, say, socket, upgrade
from tests.hostile.target import Target

_LIFE_S = 1.0 + 1.0  # `ping_s` + `pong_s` of this server


class Swallowing:
    """A TCP proxy that can fall silent: it keeps both connections and passes on nothing, not even their end."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._is_open = asyncio.Event()
        self._is_open.set()
        self.port = 0
        self.ended_by_server = 0
        self._writers: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Swallowing]:
        async with asyncio.TaskGroup() as tasks:

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
                self._writers += [writer, up_writer]
                tasks.create_task(self._pass(reader, up_writer, is_from_server=False))
                tasks.create_task(self._pass(up_reader, writer, is_from_server=True))

            listening = await asyncio.start_server(serve, "127.0.0.1", 0)
            self.port = listening.sockets[0].getsockname()[1]
            try:
                yield self
            finally:
                listening.close()
                self._is_open.set()
                for writer in self._writers:
                    writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_from_server: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                if not self._is_open.is_set() and not is_from_server:
                    await self._is_open.wait()
                if self._is_open.is_set():
                    writer.write(data)
        if is_from_server:
            self.ended_by_server += 1
        await self._is_open.wait()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def fall_silent(self) -> None:
        self._is_open.clear()


async def test_half_open_sockets_are_freed_in_time(target: Target) -> None:
    """The peers vanish without a FIN, as a laptop's lid does it; one of them listens to a run that streams."""
    token = await target.key("traveller")
    before = target.files
    proxy = Swallowing(target.port)
    async with proxy.running(), contextlib.AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(socket(proxy.port, token)) for _ in range(20)]
        await raws[0].write(say({"op": "send", "id": "x", "agent": "steady", "content": "go on"}))
        run = (await raws[0].reply("x"))["data"]["run"]
        assert target.files >= before + 20 - 2  # what an earlier test has left may end meanwhile
        proxy.fall_silent()
        began_s = time.monotonic()
        while proxy.ended_by_server < 20 or target.files > before + 2:
            assert time.monotonic() - began_s < 3 * (_LIFE_S + 2.0), "half-open sockets are kept"
            await _beat(target)
    traveller = target.client(token)
    status, shown = await asyncio.to_thread(traveller.http, "GET", f"/v1/runs/{run}")
    assert (status, shown["status"]) == (200, "running"), "a vanished client ended its run"
    await asyncio.to_thread(traveller.http, "POST", f"/v1/runs/{run}/cancel", {})


async def _beat(target: Target) -> None:
    async with dialled(target.port, b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") as raw:
        assert (await raw.answer())[0] == 200


@pytest.mark.timeout(60)
async def test_heads_and_bodies_that_trickle_are_ended_together_within_their_deadline(target: Target) -> None:
    """One byte a moment keeps nothing alive: the deadline is for the whole head (10 s) and the whole body (10 s)."""
    token = await target.key("mallory")
    auth = f"Authorization: Bearer {token}\r\n"
    slow = {
        "head": b"GET /v1/me HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
        "upgrade": upgrade(target.port, token=token)[:-2] + b"X-Slow: ",
        "nothing": b"",
        "body": f"POST /v1/threads HTTP/1.1\r\nHost: 127.0.0.1\r\n{auth}Content-Length: 9999\r\n\r\n".encode(),
        "sign-in": b"POST /auth/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999\r\n\r\n",
        "form": b"POST /auth/token HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999\r\n\r\n",
        "chunks": (
            f"POST /v1/threads HTTP/1.1\r\nHost: 127.0.0.1\r\n{auth}Transfer-Encoding: chunked\r\n\r\n".encode()
        ),
    }
    trickle = {"nothing": b"", "chunks": b"1\r\n{\r\n"}
    said: dict[str, bytes] = {}

    async def one(name: str) -> None:
        async with dialled(target.port, slow[name]) as raw, asyncio.TaskGroup() as tasks:

            async def drip() -> None:
                while True:
                    await raw.write(trickle.get(name, b"x"))
                    await asyncio.sleep(0.2)  # the attack itself

            dripping = tasks.create_task(drip())
            said[name] = await raw.gone()
            dripping.cancel()

    async with asyncio.timeout(3 * 10), asyncio.TaskGroup() as tasks:
        for name in slow:
            for _ in range(5):
                tasks.create_task(one(name))
    for name in ("body", "sign-in", "form", "chunks"):
        assert said[name].startswith(b"HTTP/1.1 408 "), (name, said[name])
        assert b'"code":"bad_request"' in said[name]


@pytest.mark.timeout(60)
async def test_while_the_database_is_locked_requests_are_told_so_and_readers_go_on(besieged: Target) -> None:
    """Another process holds the write lock of the file, as a careless backup would.

    Nothing is shown before it is committed, so a neighbour's run waits as long; then it goes on.
    """
    async with besieged.watched(delay_s=60.0):
        await _lock_the_database(besieged)


async def _lock_the_database(target: Target) -> None:
    token = await target.key("writer")
    writer = target.client(token)
    _, made = await asyncio.to_thread(writer.http, "POST", "/v1/threads", {})
    file = target.server.process.data_dir / "runwire.db"
    lock = sqlite3.connect(file, isolation_level=None)
    try:
        lock.execute("BEGIN IMMEDIATE")
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            late = tasks.create_task(asyncio.to_thread(writer.http, "POST", "/v1/threads", {}))
            sent = tasks.create_task(
                asyncio.to_thread(
                    writer.http, "POST", f"/v1/threads/{made['thread']}/messages", {"content": "x", "agent": "plain"}
                )
            )
            status, _ = await asyncio.to_thread(writer.http, "GET", f"/v1/threads/{made['thread']}")
            assert status == 200, "who only reads needs no lock"
            await asyncio.wait([late, sent], return_when=asyncio.FIRST_COMPLETED)
            lock.execute("ROLLBACK")
        assert time.monotonic() - began_s < 3 * 20.0
        for status, body in (late.result(), sent.result()):
            assert status in (201, 202) or (status, body["code"]) == (503, "unavailable"), body
    finally:
        lock.close()
    assert (await asyncio.to_thread(writer.http, "POST", "/v1/threads", {}))[0] == 201
