"""A socket that has ended is let go of at once, with all it held, and not when the collector comes by."""

from __future__ import annotations

import asyncio
import gc
import socket
from asyncio.selector_events import _SelectorSocketTransport  # type: ignore[attr-defined]  # in no stub
from collections import Counter

import pytest
from tests.unit.gateway.node import Reader, running

from runwire.gateway.http_protocol import HttpProtocol
from runwire.gateway.socket_protocol import SocketProtocol
from runwire.gateway.websocket import Socket
from runwire.protocol.connection import Connection

_KINDS = (SocketProtocol, Socket, Connection)
_CONNECTIONS = (HttpProtocol, *_KINDS, _SelectorSocketTransport)
_PATIENCE_S = 10.0


def _alive(kinds: tuple[type, ...] = _KINDS) -> Counter[str]:
    # Also what nobody can reach any more: the collector is off.
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one) in kinds)


async def test_an_ended_socket_leaves_nothing_to_the_collector() -> None:
    async with running() as node:
        async with node.connect() as websocket:
            await Reader(websocket).frame()
        gc.collect()
        gc.disable()
        try:
            before = _alive()
            for _ in range(5):
                async with node.connect() as websocket:
                    ann = Reader(websocket)
                    await ann.frame()
                    await ann.ask(op="send", content="hi")
                    websocket.transport.abort()
            async with asyncio.timeout(_PATIENCE_S):
                while _alive() - before:  # noqa: ASYNC110 - of objects nobody tells
                    await asyncio.sleep(0.05)
        finally:
            gc.enable()


_ASKED = b"GET /v1/threads HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
_UPGRADED = (
    b"GET /v1/ws HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    b"Authorization: Bearer t-ann\r\n\r\n"
)


async def _visit(port: int, head: bytes, answer: bytes) -> None:
    """Say something over a bare socket, which has no transport on this side, hear something, and leave."""
    loop = asyncio.get_running_loop()
    with socket.socket() as peer:
        peer.setblocking(False)
        await loop.sock_connect(peer, ("127.0.0.1", port))
        await loop.sock_sendall(peer, head)
        assert (await loop.sock_recv(peer, 65_536)).startswith(b"HTTP/1.1 " + answer)


@pytest.mark.parametrize(("head", "answer"), [(_ASKED, b"401"), (_UPGRADED, b"101")], ids=["request", "socket"])
async def test_an_ended_connection_is_freed_with_its_transport(head: bytes, answer: bytes) -> None:
    async with running() as node:
        await _visit(node.port, head, answer)
        gc.collect()
        gc.disable()
        try:
            before = _alive(_CONNECTIONS)
            for _ in range(5):
                await _visit(node.port, head, answer)
            async with asyncio.timeout(_PATIENCE_S):
                while _alive(_CONNECTIONS) - before:  # noqa: ASYNC110 - of objects nobody tells
                    await asyncio.sleep(0.05)
        finally:
            gc.enable()
