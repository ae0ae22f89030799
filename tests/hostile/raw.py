"""A socket that says exactly what a test wants: libraries are too polite for an attack."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
_MASK = b"\x11\x22\x33\x44"


def frame(  # the parts of RFC 6455 §5.2, each of which some test forges
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length: int | None = None,
) -> bytes:
    """Make one WebSocket frame; `length` is what its head claims."""
    size = len(payload) if length is None else length
    head = bytes([fin << 7 | rsv << 4 | opcode])
    bit = 0x80 if masked else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 65_536:
        head += bytes([bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", size)
    if not masked:
        return head + payload
    repeated = (_MASK * (len(payload) // 4 + 1))[: len(payload)]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return head + _MASK + mixed.to_bytes(len(payload), "big")


def say(value: Any) -> bytes:
    """Make the text frame of a JSON value, or of a text as it is."""
    return frame(TEXT, (value if isinstance(value, str) else json.dumps(value)).encode())


def upgrade(port: int, *lines: str, path: str = "/v1/ws", token: str | None = None) -> bytes:
    """Make the head of a sound upgrade, with further lines."""
    more = [*lines, *([f"Authorization: Bearer {token}"] if token else [])]
    head = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *more,
    ]
    return "\r\n".join([*head, "", ""]).encode("latin-1")


class Raw:
    """One TCP connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.frames: list[dict[str, Any]] = []

    async def write(self, data: bytes) -> None:
        """Write, and wait until the kernel has most of it; a server that hung up is no error."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            async with asyncio.timeout(20):
                await self.writer.drain()

    async def head(self) -> tuple[int, str]:
        """Read one HTTP head; give its status and text."""
        async with asyncio.timeout(20):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        return int(text.split()[1]), text

    async def answer(self) -> tuple[int, str, bytes]:
        """Read one HTTP answer with a length."""
        status, head = await self.head()
        named = [line for line in head.lower().split("\r\n") if line.startswith("content-length:")]
        async with asyncio.timeout(20):
            body = await self.reader.readexactly(int(named[0].split(":")[1])) if named else b""
        return status, head, body

    async def problem(self) -> dict[str, Any]:
        """Read one HTTP answer, which must be a problem (RFC 9457)."""
        status, head, body = await self.answer()
        assert "content-type: application/problem+json" in head.lower(), head
        found: dict[str, Any] = json.loads(body)
        assert found["status"] == status
        assert found["code"], found
        return found

    async def websocket_frame(self) -> tuple[int, bytes]:
        """Read one frame of the server: opcode and payload."""
        async with asyncio.timeout(20):
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2), "big")
            elif size == 127:
                size = int.from_bytes(await self.reader.readexactly(8), "big")
            return first & 0x0F, await self.reader.readexactly(size)

    async def next(self) -> dict[str, Any]:
        """Give the next frame of PROTOCOL."""
        while not self.frames:
            opcode, payload = await self.websocket_frame()
            if opcode == CLOSE:
                raise Closed(int.from_bytes(payload[:2], "big"))
            if opcode == TEXT:
                message = json.loads(payload)
                self.frames = message if isinstance(message, list) else [message]
        return self.frames.pop(0)

    async def reply(self, ident: str) -> dict[str, Any]:
        """Give the answer to a command."""
        while True:
            got = await self.next()
            if got.get("id") == ident:
                return got

    async def ending(self) -> int | None:
        """Read until the server ends the connection; give the code of its close frame, if there is one."""
        try:
            while True:
                await self.next()
        except Closed as closed:
            self.writer.close()
            return closed.code
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def gone(self) -> bytes:
        """Read until the server ends the connection; give what it said."""
        said = bytearray()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(30):
                while data := await self.reader.read(65_536):
                    said += data
        return bytes(said)


class Closed(Exception):
    """The server sent a close frame."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@contextlib.asynccontextmanager
async def dialled(port: int, said: bytes = b"") -> AsyncIterator[Raw]:
    """Connect and say something; leaving cuts the connection hard."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    raw = Raw(reader, writer)
    try:
        if said:
            await raw.write(said)
        yield raw
    finally:
        if not writer.transport.is_closing():
            writer.transport.abort()


@contextlib.asynccontextmanager
async def socket(port: int, token: str | None, *lines: str) -> AsyncIterator[Raw]:
    """Open a WebSocket; with a token it is signed in."""
    async with dialled(port, upgrade(port, *lines, token=token)) as raw:
        status, head = await raw.head()
        assert status == 101, head
        if token:
            assert (await raw.next())["op"] == "welcome"
        yield raw
