"""uvicorn with what it lacks: protocols that wait for nobody, and a drain before it closes its sockets.

A plain ASGI app cannot drop a reader that never reads: uvicorn's `send` waits until the reader has read,
and so does its close. So the socket's protocol is handed to the app as a `SocketTransport`. Nor does uvicorn
end a connection that never asks for anything, or count all those that it holds: `HttpProtocol` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Awaitable, Callable, Generator
from dataclasses import replace
from types import FrameType
from typing import Final, cast

import uvicorn

from runwire.gateway.http_protocol import REFUSED, HttpProtocol
from runwire.gateway.server_settings import Config, ServerSettings
from runwire.gateway.socket_protocol import SocketProtocol

__all__ = ["Server", "ServerSettings", "make_server"]

_OTHER_FILES: Final = 128  # of the process: database, log, listeners, what agents open


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
        if not cast(Config, self.config).settings.takes_signals:
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
    config = Config(
        app,
        host=settings.host,
        port=settings.port,
        http=HttpProtocol,
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
        h11_max_incomplete_event_size=settings.head_bytes,
        timeout_graceful_shutdown=settings.graceful_s,
    )
    config.settings = replace(settings, connections=_affordable(settings.connections))
    return Server(config, drain=drain)


def _affordable(connections: int) -> int:
    """Return how many of these connections leave files for the rest of the process."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return connections
    return min(connections, max(files // 2, files - _OTHER_FILES - REFUSED))
