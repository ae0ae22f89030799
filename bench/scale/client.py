"""Sockets that only stay open, listen and count: as cheap as a client can be."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from contextlib import suppress
from typing import Final

from bench.load import frame

__all__ = ["Sockets"]

_LIFE_S: Final = 15.0
_AT_ONCE: Final = 50
_DEADLINE_S: Final = 180.0


class Sockets:
    """Open sockets at one gateway, each with another key; `close` ends all."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: list[tuple[asyncio.StreamWriter, asyncio.Task[None]]] = []
        self._subscribed = 0
        self._woken = asyncio.Event()

    async def grow(self, keys: list[str]) -> None:
        """Open sockets until each of these keys has one; keys that have one already come first."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def connect(key: str) -> tuple[asyncio.StreamWriter, asyncio.Task[None]]:
            async with slots:
                return await self._connect(key)

        async with asyncio.timeout(_DEADLINE_S):
            async with asyncio.TaskGroup() as tasks:
                new = [tasks.create_task(connect(key)) for key in keys[len(self._open) :]]
        self._open += [one.result() for one in new]

    async def subscribe(self, threads: list[str]) -> None:
        """Have socket n listen to thread n from its beginning, those that do already left out."""
        first = self._subscribed
        for (writer, _), thread in list(zip(self._open, threads, strict=False))[first:]:
            ask = {"op": "subscribe", "id": "1", "thread": thread, "after": 0, "view": "all"}
            writer.write(frame(json.dumps(ask).encode()))
        async with asyncio.timeout(_DEADLINE_S):
            while self._subscribed < len(threads):
                self._woken.clear()
                await self._woken.wait()

    async def close(self) -> None:
        """End all."""
        for writer, task in self._open:
            task.cancel()
            writer.transport.abort()
        await asyncio.wait([task for _, task in self._open])

    async def _connect(self, key: str) -> tuple[asyncio.StreamWriter, asyncio.Task[None]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        nonce = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(f"The upgrade was refused: {head[:120]!r}")
        seen = b""
        while b'"op":"welcome"' not in seen:
            seen += await _some(reader)
        return writer, asyncio.create_task(self._listen(reader, writer))  # noqa: TID251  # `close` ends it

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_subscribed, text = False, b""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LIFE_S):
                    text = text[-32:] + await _some(reader)
                if not is_subscribed and b'"op":"subscribed"' in text:
                    is_subscribed = True
                    self._subscribed += 1
                    self._woken.set()
            if b'"op":"ping"' in text:
                writer.write(frame(b'{"op":"pong"}'))
                text = b""


async def _some(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(65_536)
    if not data:
        raise ConnectionError("The server ended a connection.")
    return data
