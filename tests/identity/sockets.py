"""Cheap sockets, a thousand in one process: each keeps when the server ended it, with what code, and what came after.

Written from RFC 6455 and PROTOCOL alone.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import struct
import time
from typing import Any, Final

__all__ = ["Ended", "RawSocket", "opened"]

_OPEN_S: Final = 30.0


class Ended(Exception):
    """The server would not have this socket."""

    def __init__(self, why: str) -> None:
        super().__init__(why)


class RawSocket(asyncio.Protocol):
    """One signed-in WebSocket that only listens.

    Args:
        port: of the gateway.
        token: in the Authorization header.
        credential: what the token stands for: the id of a session or a key.
    """

    def __init__(self, port: int, token: str, credential: str) -> None:
        loop = asyncio.get_running_loop()
        self.port = port
        self.token = token
        self.credential = credential
        self.is_open: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        self.code: int | None = None  # of the bye; None: the connection just ended
        self.ended_at_s = 0.0  # wall clock, as the database's
        self.said_after = 0  # frames after the bye: there may be none
        self.opened_s = time.monotonic()
        self._transport: asyncio.Transport | None = None
        self._bytes = bytearray()
        self._is_upgraded = False

    @property
    def is_alive(self) -> bool:
        return not self.over.done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "TCP"
        self._transport = transport
        nonce = base64.b64encode(random.randbytes(16)).decode()
        transport.write(
            f"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: runwire.v1\r\nAuthorization: Bearer {self.token}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        if not self._is_upgraded:
            head, found, rest = bytes(self._bytes).partition(b"\r\n\r\n")
            if not found:
                return
            if b" 101 " not in head.split(b"\r\n")[0]:
                self._end(None, head.split(b"\r\n")[0].decode())
                return
            self._is_upgraded, self._bytes = True, bytearray(rest)
        while self._take_frame():
            pass

    def connection_lost(self, _error: Exception | None) -> None:
        self._end(self.code, "the connection ended")

    def drop(self) -> None:
        """Go away without a word."""
        self.over.cancel()
        if self._transport:
            self._transport.abort()

    def _take_frame(self) -> bool:
        held = self._bytes
        if len(held) < 2:
            return False
        size, start = held[1] & 127, 2
        if size == 126:
            size, start = (struct.unpack(">H", held[2:4])[0], 4) if len(held) >= 4 else (1 << 30, 4)
        elif size == 127:
            size, start = (struct.unpack(">Q", held[2:10])[0], 10) if len(held) >= 10 else (1 << 30, 10)
        if len(held) < start + size:
            return False
        kind, payload = held[0] & 15, bytes(held[start : start + size])
        del held[: start + size]
        if kind == 8:
            self._end(self.code, "closed")
            return False
        if kind == 1:
            message = json.loads(payload)
            for frame in message if isinstance(message, list) else [message]:
                self._hear(frame)
        return True

    def _hear(self, frame: dict[str, Any]) -> None:
        if self.code is not None:
            self.said_after += 1
        match frame["op"]:
            case "welcome" if not self.is_open.done():
                self.is_open.set_result(None)
            case "ping" if self._transport:
                text = b'{"op":"pong"}'
                self._transport.write(bytes([0x81, 0x80 | len(text)]) + b"\0\0\0\0" + text)  # RFC 6455 §5.3: masked
            case "bye":
                self.code = frame["code"]

    def _end(self, code: int | None, why: str) -> None:
        if self.over.done():
            return
        self.code, self.ended_at_s = code, time.time_ns() / 1e9
        self.over.set_result(None)
        if not self.is_open.done():
            self.is_open.set_exception(Ended(f"{why} (bye {code})"))
            self.is_open.exception()  # somebody may have stopped waiting
        if self._transport:
            self._transport.abort()


async def opened(port: int, token: str, credential: str) -> RawSocket:
    """Open a socket and wait for its `welcome`. Raises Ended, OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_OPEN_S):
        _, socket = await loop.create_connection(lambda: RawSocket(port, token, credential), "127.0.0.1", port)
        await socket.is_open
    return socket
