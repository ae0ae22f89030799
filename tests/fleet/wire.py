"""The cheapest client socket that is still a real one: RFC 6455 by hand over an asyncio transport, messages as bytes.

Hundreds of these live in one process beside the judge, so a message costs a slice and a call and no task.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
from collections.abc import Callable
from typing import Final, cast

__all__ = ["Wire"]

_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_HEAD_BYTES: Final = 16_384


class Wire(asyncio.Protocol):
    """One connection from upgrade to end.

    Args:
        token: of the upgrade.
        message: called with each whole text message.
        closed: called once, with why.
    """

    def __init__(self, token: str, *, message: Callable[[bytes], None], closed: Callable[[str], None]) -> None:
        self._token = token
        self._message = message
        self._closed = closed
        self._transport: asyncio.Transport | None = None
        self._held = bytearray()
        self._parts = bytearray()  # of a fragmented message
        self._is_open = False
        self._why = "reset"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(
            b"GET /v1/ws HTTP/1.1\r\nHost: fleet\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: runwire.v1\r\nSec-WebSocket-Key: "
            + base64.b64encode(os.urandom(16))
            + f"\r\nAuthorization: Bearer {self._token}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        """Take frames out of the stream."""
        self._held += data
        if not self._is_open and not self._upgraded():
            return
        at, held = 0, self._held
        while len(held) - at >= 2:
            first, size, body = held[at], held[at + 1] & 127, at + 2
            if size == 126:
                body = at + 4
                size = int.from_bytes(held[at + 2 : body], "big")
            elif size == 127:
                body = at + 10
                size = int.from_bytes(held[at + 2 : body], "big")
            if len(held) < body + size:
                break
            at = body + size
            self._frame(first, bytes(held[body:at]))
        del held[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that it is over."""
        self._transport = None
        self._closed(self._why)

    def send(self, text: bytes) -> None:
        """Send a text message; after the end nothing happens."""
        if self._transport is not None:
            self._write(_TEXT, text)

    def freeze(self) -> None:
        """Stop reading, as a tab whose machine is busy."""
        if self._transport is not None:
            self._transport.pause_reading()

    def thaw(self) -> None:
        """Read on."""
        if self._transport is not None:
            self._transport.resume_reading()

    def abort(self, why: str) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._why = why
            self._transport.abort()

    def reset(self) -> None:
        """Cut the connection by a RST, as a machine does that knows nothing of it any more."""
        if self._transport is not None:
            raw: socket.socket = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.abort("reset")

    def _upgraded(self) -> bool:
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            if len(self._held) > _HEAD_BYTES:
                self.abort("no end of the head")
            return False
        status = bytes(self._held[9:12])
        del self._held[: end + 4]
        if status != b"101":
            self.abort(f"status {status.decode(errors='replace')}")
            return False
        self._is_open = True
        return True

    def _frame(self, first: int, payload: bytes) -> None:
        kind = first & 15
        if kind in (0, _TEXT, _BINARY):
            if first & 128 and not self._parts:
                self._message(payload)
                return
            self._parts += payload
            if first & 128:
                whole, self._parts = bytes(self._parts), bytearray()
                self._message(whole)
        elif kind == _PING:
            self._write(_PONG, payload)
        elif kind == _CLOSE:
            self.abort(f"close {int.from_bytes(payload[:2], 'big')}")

    def _write(self, kind: int, payload: bytes) -> None:
        size = len(payload)
        if size < 126:
            head = bytes((128 | kind, 128 | size))
        else:
            head = bytes((128 | kind, 128 | 126)) + size.to_bytes(2, "big")
        if self._transport is not None:
            # A mask of zeros is a mask (RFC 6455 §5.3).
            self._transport.write(head + bytes(4) + payload)
