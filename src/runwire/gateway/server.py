"""uvicorn with what it lacks: a send that never waits, an abort, and a drain before it closes its sockets.

A plain ASGI app cannot drop a reader that never reads: uvicorn's `send` waits until the reader has read,
and so does its close. So the socket's protocol is handed to the app as a `SocketTransport`. Nor does uvicorn
end a connection that never asks for anything, or count all those that it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Awaitable, Callable, Generator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, Final, Protocol, cast

import h11
import msgspec
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from runwire.errors import Unavailable
from runwire.gateway.problem import problem

__all__ = ["EXTENSION", "Server", "ServerSettings", "SocketProtocol", "SocketTransport", "make_server"]

EXTENSION: Final = "runwire.socket"  # name of the scope extension that carries the SocketTransport

_log: Final = structlog.get_logger(__name__)
_SEND_BUFFER_BYTES: Final = 1_048_576  # a socket that is owed more is aborted: its owner stops far earlier
# asyncio sets TCP_NODELAY only where a listener names its protocol, which most listeners do not. Without it each
# answer that takes two writes waits 40 ms for the peer's delayed acknowledgement (measured).
_NODELAY: Final = 1
_NOTSENT_BYTES: Final = 65_536  # the kernel keeps no more unsent: what a reader leaves unread is seen by us
_DEAD_PEER_MS: Final = 60_000  # kernel's limit for unacknowledged or unread bytes: ends stuck HTTP and SSE readers
_LINGER_S: Final = 2.0  # time for the peer's half of the close
_REFUSED: Final = 64  # connections over the limit that are answered; the next one is cut off
_OTHER_FILES: Final = 128  # of the process: database, log, listeners, what agents open
_COME_BACK_S: Final = 5.0  # what those over the limit are told


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How the server listens."""

    host: str = "127.0.0.1"  # address to listen on
    port: int = 8000  # 0: any free port
    frame_bytes: int = 65_536  # a larger WebSocket message ends its connection with 1009
    unsent_bytes: int = 262_144  # high mark of a socket's send buffer; `on_drained` comes at a quarter of it
    trusted_proxies: Sequence[str] = ()  # addresses whose X-Forwarded-* are believed; none: the headers are ignored
    head_s: float = 10.0  # time for a whole request head, from accept or from the end of the answer before
    connections: int = 10_000  # requests, streams and sockets held at once; fewer if the process may open fewer files
    graceful_s: int = 5  # after the drain: time for HTTP requests to end
    takes_signals: bool = True  # False: the process is somebody else's, such as the command `run`


class _Config(uvicorn.Config):
    """uvicorn's configuration and what our parts want to know beside it."""

    settings = ServerSettings()
    is_full = False  # connections are being refused


class SocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which also is the app's `SocketTransport`."""

    _drained: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound the buffers of transport and kernel."""
        super().connection_made(transport)
        _tune_kernel(transport)
        high = cast(_Config, self.config).settings.unsent_bytes
        self.transport.set_write_buffer_limits(high=high, low=high // 4)

    async def run_asgi(self) -> None:
        """Hand the transport to the app."""
        cast(dict[str, Any], self.scope["extensions"])[EXTENSION] = self
        await super().run_asgi()

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
        self.conn.send_text(message)
        self.transport.write(b"".join(self.conn.data_to_send()))

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

    def send_receive_event_to_app(self) -> None:
        """Hand text that is no UTF-8 to the app as bytes: it refuses both alike, with `bye` 4500."""
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
        closed = self.conn.close_sent
        code, reason = (closed.code, closed.reason) if closed else (1006, "")
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.close_timer = self.loop.call_later(_LINGER_S, self.transport.abort)

    def shutdown(self) -> None:
        """Close what outlived the drain with 1001; the base class would use 1012 and wait for stuck readers."""
        if self.handshake_complete and not self.close_sent:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1001})
            self.close(1001, "the server is going away", abort_after_s=_LINGER_S)
        elif self.close_sent:
            self.transport.close()
        else:
            super().shutdown()

    def _resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()


class _HttpProtocol(H11Protocol):
    """HTTP that waits only so long for a request, for so many connections, and whose stuck readers the kernel ends.

    Over the limit the next `_REFUSED` connections are answered 503, upgrades too; any more are cut off unheard.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        """Take a connection, or make it one that is refused."""
        super().connection_made(transport)
        _tune_kernel(transport)
        config = cast(_Config, self.config)
        limit = config.settings.connections
        count = len(self.connections)  # with this one, and the sockets too
        if count > limit + _REFUSED:
            transport.abort()
            return
        self._is_refused = count > limit
        if self._is_refused:
            self.app = _refuse
            if not config.is_full:
                config.is_full = True
                _log.warning("connections_full", limit=limit)
        elif count < limit * 9 // 10:
            config.is_full = False
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request; the base class waits only for its first byte."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._await_head()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Leave the connection to the socket's protocol."""
        self._stop_waiting()
        super().handle_websocket_upgrade(event)

    def _should_upgrade(self) -> bool:
        return not self._is_refused and super()._should_upgrade()

    def _await_head(self) -> None:
        self._stop_waiting()
        self._head_timer = self.loop.call_later(cast(_Config, self.config).settings.head_s, self._end_unasked)

    def _stop_waiting(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()

    def _end_unasked(self) -> None:
        """Close the connection unless a request is being answered; the end of an answer may still be on its way."""
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]  # None before any request
            self.transport.close()


class Server(uvicorn.Server):
    """A uvicorn server that drains before it closes its sockets.

    uvicorn itself closes all of them with 1012 before any hook runs. A first signal starts the drain, a
    second one cuts it short.

    Args:
        config: as `make_server` builds it.
        drain: tell everybody to come back elsewhere; ends when the sockets are closed.
    """

    def __init__(self, config: uvicorn.Config, *, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._drain = drain
        self._is_stopping = False
        self._cut_short = False
        self._limit: asyncio.Timeout | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept."""
        await super().startup(sockets)
        self._is_up.set()

    async def until_up(self) -> None:
        """Wait until the server accepts; its `serve` is running elsewhere."""
        await self._is_up.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take SIGTERM and SIGINT while serving, if they are this server's to take."""
        if not cast(_Config, self.config).settings.takes_signals:
            yield
            return
        with super().capture_signals():
            yield

    def stop(self) -> None:
        """Drain, then exit; called again: exit now. Safe in a signal handler."""
        if not self._is_stopping:
            self._is_stopping = True
            return
        self._cut_short = True
        if self._loop:
            self._loop.call_soon_threadsafe(self._cut)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal.

        It is not kept for being raised again when `serve` returns, as the base class would: that would kill the
        process before the parts behind the server have stopped.
        """
        self.stop()

    async def on_tick(self, counter: int) -> bool:
        """Drain when asked to; the base class calls this every 0.1 s."""
        if not self._is_stopping:
            return await super().on_tick(counter)
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(0 if self._cut_short else None) as self._limit:
                await self._drain()
        except TimeoutError:
            pass  # cut short
        finally:
            self._limit = None
        self.should_exit = True
        return True

    def _cut(self) -> None:
        self.force_exit = True  # the base class waits for nobody any more
        if self._limit and self._loop:
            self._limit.reschedule(self._loop.time())


def make_server(
    app: Callable[..., Awaitable[None]], settings: ServerSettings, *, drain: Callable[[], Awaitable[None]]
) -> Server:
    """Build the server; `await server.serve(sockets=…)` runs it until it is stopped."""
    config = _Config(
        app,
        host=settings.host,
        port=settings.port,
        http=_HttpProtocol,
        ws=SocketProtocol,
        ws_max_size=settings.frame_bytes,
        ws_ping_interval=None,  # PROTOCOL has its own ping, which browsers can see
        ws_per_message_deflate=False,  # 1.4–2.1 × the CPU (reference/performance §1e)
        interface="asgi3",
        lifespan="off",
        log_config=None,  # uvicorn's own writes to standard output
        access_log=False,  # paths may carry tickets
        log_level="warning",  # and so do its lines about accepted sockets
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        server_header=False,
        timeout_graceful_shutdown=settings.graceful_s,
    )
    config.settings = replace(settings, connections=_affordable(settings.connections))
    return Server(config, drain=drain)


def _affordable(connections: int) -> int:
    """Return how many of these connections leave files for the rest of the process."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return connections
    return min(connections, max(files // 2, files - _OTHER_FILES - _REFUSED))


async def _refuse(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """Answer in place of the app that there is no room."""
    error = Unavailable("This server has no room for more connections; come back.", retry_after_s=_COME_BACK_S)
    status, body = problem(error)
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"retry-after", b"%d" % _COME_BACK_S),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": msgspec.json.encode(body)})


def _tune_kernel(transport: asyncio.BaseTransport) -> None:
    connected = transport.get_extra_info("socket")
    if connected is None or connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    options = (
        ("TCP_NODELAY", _NODELAY),
        ("TCP_NOTSENT_LOWAT", _NOTSENT_BYTES),
        ("TCP_USER_TIMEOUT", _DEAD_PEER_MS),
    )
    for option, value in options:
        if hasattr(socket, option):  # not on every platform; without it the kernel buffers more, no promise changes
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
