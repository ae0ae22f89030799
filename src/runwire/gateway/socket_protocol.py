"""uvicorn's WebSocket protocol with what it lacks: a send that never waits, an abort, and bounds on idle frames."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, Protocol, cast

import msgspec
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidHeader
from websockets.frames import Frame
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

from runwire.errors import ProtocolError, RunwireError
from runwire.gateway.problem import problem
from runwire.gateway.server_settings import LINGER_S, Config, let_go, tune_kernel
from runwire.protocol.codes import CloseCode

__all__ = ["EXTENSION", "SocketProtocol", "SocketTransport"]

EXTENSION: Final = "runwire.socket"  # name of the scope extension that carries the SocketTransport

_SEND_BUFFER_BYTES: Final = 1_048_576  # a socket that is owed more is aborted: its owner stops far earlier
# Control frames and fragments between two whole messages. No byte limit counts them, and each costs as much as a
# message; a message of 64 KiB has room for as many fragments of 64 bytes.
_IDLE_FRAMES: Final = 1_000
_VERSION: Final = "Sec-WebSocket-Version"
_WHOLE_TEXT: Final = 0x81  # RFC 6455 §5.2: FIN and the opcode of text; what a server sends is not masked


class SocketTransport(Protocol):
    """The way to one socket: nothing here waits."""

    def buffered_amount(self) -> int:
        """Return how many bytes were written and not yet taken by the kernel."""
        ...

    def write(self, message: bytes) -> None:
        """Send one text message, UTF-8. Beyond the bound of the send buffer the socket is aborted."""
        ...

    def close(self, code: int, reason: str, *, abort_after_s: float) -> None:
        """Send a close frame behind what was written; abort if the peer does not answer in time."""
        ...

    def on_drained(self, call: Callable[[], None]) -> None:
        """Call back when the send buffer has fallen below its low mark."""
        ...


class _Handshake(ServerProtocol):
    """The protocol's state machine, whose refusals are problems (RFC 9457)."""

    def accept(self, request: Request) -> Response:
        """Take an upgrade, or refuse it."""
        response = super().accept(request)
        if isinstance(self.handshake_exc, InvalidHeader) and self.handshake_exc.name == _VERSION:
            # RFC 6455 §4.4: say which version is spoken here.
            response = self.reject(HTTPStatus.UPGRADE_REQUIRED, "This server speaks WebSocket version 13.")
            response.headers[_VERSION] = "13"
        return response

    def reject(self, status: StatusLike, text: str) -> Response:
        """Make the answer to an upgrade that is refused."""
        response = super().reject(status, "")
        is_ours = response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
        error: RunwireError = RunwireError("Something went wrong here.") if is_ours else ProtocolError(text.strip())
        _, body = problem(error, status=response.status_code)
        response.body = msgspec.json.encode(body)
        del response.headers["Content-Length"], response.headers["Content-Type"]
        response.headers["Content-Length"] = str(len(response.body))
        response.headers["Content-Type"] = "application/problem+json"
        return response


class SocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which also is the app's `SocketTransport`.

    Buffers: what is unsent up to `_SEND_BUFFER_BYTES`, then the socket is aborted; fragments up to the size of a
    message and `_IDLE_FRAMES` in number, then 4029.
    """

    _drained: Callable[[], None] | None = None
    _idle_frames = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound the buffers of transport and kernel."""
        super().connection_made(transport)
        self.conn = _Handshake(max_size=self.config.ws_max_size, logger=self.logger)
        tune_kernel(transport)
        high = cast(Config, self.config).settings.unsent_bytes
        self.transport.set_write_buffer_limits(high=high, low=high // 4)

    def connection_lost(self, exc: Exception | None) -> None:
        """Hold nothing that holds this."""
        super().connection_lost(exc)
        let_go(self.transport)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the first ones are a whole head, which HTTP has read before."""
        super().data_received(data)
        if not (self.handshake_initiated or self.close_sent):
            self._refuse_head()

    async def run_asgi(self) -> None:
        """Hand the transport to the app, for as long as it runs.

        Afterwards nothing holds itself: the collector comes by so rarely that what thousands of ended sockets held
        would stay for hours.
        """
        extensions = cast(dict[str, Any], self.scope["extensions"])
        extensions[EXTENSION] = self
        try:
            await super().run_asgi()
        finally:
            self._drained = None
            del extensions[EXTENSION]

    async def send(self, message: ASGISendEvent) -> None:
        """Answer the upgrade; its head is then forgotten, for a socket may live for hours."""
        await super().send(message)
        if self.handshake_complete:
            self.request = self.response = None  # type: ignore[assignment]  # nothing of the base class asks again

    def resume_writing(self) -> None:
        """Pass on that the reader has read."""
        super().resume_writing()
        if self._drained:
            self._drained()

    # ── SocketTransport ─────────────────────────────────────────────────────────────────────────────────

    def buffered_amount(self) -> int:
        """Return how many bytes were written and not yet taken by the kernel."""
        return self.transport.get_write_buffer_size()

    def write(self, message: bytes) -> None:
        """Send one text message; nothing happens after the close."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        if self.buffered_amount() + len(message) > _SEND_BUFFER_BYTES:
            self.transport.abort()
            return
        # Not through `conn`, whose frames are objects: what it has to say of its own (pongs, closes) has been written.
        self.transport.write(_text_head(len(message)) + message)

    def close(self, code: int, reason: str, *, abort_after_s: float) -> None:
        """Send a close frame and wait for the peer's, but not for long."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._resume_reading()
        # The base class closes the transport when the peer's close frame comes, and cancels this timer.
        self.close_timer = self.loop.call_later(abort_after_s, self.transport.abort)

    def on_drained(self, call: Callable[[], None]) -> None:
        """Call back when the send buffer has fallen below its low mark."""
        self._drained = call

    # ── what the base class does otherwise ──────────────────────────────────────────────────────────────

    def handle_ping(self) -> None:
        """Answer a ping, unless the peer sends nothing else."""
        if self._is_idle():
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """Ignore a pong: PROTOCOL has its own."""
        self._is_idle()

    def handle_cont(self, event: Frame) -> None:
        """Take a piece of a message."""
        if event.fin or self._is_idle():
            super().handle_cont(event)

    def _is_idle(self) -> bool:
        """Count a frame that completes nothing; return whether it may be taken."""
        self._idle_frames += 1
        if self.close_sent:
            return False
        if self._idle_frames > _IDLE_FRAMES:
            self.conn.fail(CloseCode.RATE, "Too many control frames or fragments.")
            self.frames = []
            self.handle_parser_exception()
            return False
        return True

    def send_receive_event_to_app(self) -> None:
        """Hand text that is no UTF-8 to the app as bytes: it refuses both alike, with `bye` 4500."""
        self._idle_frames = 0
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.curr_msg_data_type = "bytes"
        super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        """Let the close frame (1009 for one) reach a peer that is still sending.

        Closing at once, with unread bytes in the kernel, resets the connection, and the frame may be lost.
        """
        if self.close_sent:
            return  # what arrives after the fault is discarded
        if not self.handshake_complete:
            self.transport.abort()  # frames, and wrong ones, before the upgrade was answered
            return
        closed = self.conn.close_sent
        code, reason = (closed.code, closed.reason) if closed else (1006, "")
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self._linger()

    def shutdown(self) -> None:
        """Close what outlived the drain with 1001; the base class would use 1012 and wait for stuck readers."""
        if self.handshake_complete and not self.close_sent:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1001})
            self.close(1001, "the server is going away", abort_after_s=LINGER_S)
        elif self.close_sent:
            self.transport.close()
        else:
            super().shutdown()

    def _refuse_head(self) -> None:
        """Answer a head that the handshake could not read; the base class would leave the connection open."""
        said = b"".join(self.conn.data_to_send())
        if not said:  # no HTTP in its eyes, with no answer of its own
            self.conn.send_response(self.conn.reject(HTTPStatus.BAD_REQUEST, "This is no WebSocket upgrade."))
            said = b"".join(self.conn.data_to_send())
        self.transport.write(said)
        self._linger()

    def _linger(self) -> None:
        """End our half; the peer has some time for its own, so that it sees what was written last."""
        self.close_sent = True
        self._resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.close_timer = self.loop.call_later(LINGER_S, self.transport.abort)

    def _resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()


def _text_head(size_bytes: int) -> bytes:
    """Return the head of a text message in one frame, without compression (RFC 6455 §5.2)."""
    if size_bytes < 126:
        return struct.pack("!BB", _WHOLE_TEXT, size_bytes)
    if size_bytes < 65_536:
        return struct.pack("!BBH", _WHOLE_TEXT, 126, size_bytes)
    return struct.pack("!BBQ", _WHOLE_TEXT, 127, size_bytes)
