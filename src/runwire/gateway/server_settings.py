"""How the server listens, as its own parts and uvicorn's see it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import uvicorn

__all__ = ["LINGER_S", "Config", "ServerSettings", "let_go", "tune_kernel"]

LINGER_S: Final = 2.0  # time for the peer's half of the close

# asyncio sets TCP_NODELAY only where a listener names its protocol, which most listeners do not. Without it each
# answer that takes two writes waits 40 ms for the peer's delayed acknowledgement (measured).
_NODELAY: Final = 1
_NOTSENT_BYTES: Final = 65_536  # the kernel keeps no more unsent: what a reader leaves unread is seen by us
_DEAD_PEER_MS: Final = 60_000  # kernel's limit for unacknowledged or unread bytes: ends stuck HTTP and SSE readers


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How the server listens."""

    host: str = "127.0.0.1"  # address to listen on
    port: int = 8000  # 0: any free port
    frame_bytes: int = 65_536  # a larger WebSocket message ends its connection with 1009
    unsent_bytes: int = 262_144  # high mark of a socket's send buffer; `on_drained` comes at a quarter of it
    trusted_proxies: Sequence[str] = ()  # addresses whose X-Forwarded-* are believed; none: the headers are ignored
    head_s: float = 10.0  # time for a whole request head, from accept or from the end of the answer before
    head_bytes: int = 65_536  # size of a request head at most, then 431
    body_s: float = 10.0  # time for a whole request body, from the end of its head, then 408
    connections: int = 10_000  # requests, streams and sockets held at once; fewer if the process may open fewer files
    graceful_s: int = 5  # after the drain: time for HTTP requests to end
    takes_signals: bool = True  # False: the process is somebody else's, such as the command `run`


class Config(uvicorn.Config):
    """uvicorn's configuration and what our parts want to know beside it."""

    settings = ServerSettings()
    is_full = False  # connections are being refused


def tune_kernel(transport: asyncio.BaseTransport) -> None:
    """Have the kernel send at once, buffer little, and end peers that are gone."""
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


def let_go(transport: asyncio.BaseTransport) -> None:
    """Free a connection that has ended: asyncio's own transport holds itself, by the method that reads from it.

    The garbage collector, for which it would wait, comes by so rarely that a quiet server kept thousands (measured).
    """
    if getattr(transport, "_read_ready_cb", None) is not None:  # no public way; other loops' transports have none
        transport._read_ready_cb = None  # type: ignore[attr-defined]  # noqa: SLF001
