"""A socket that has ended is let go of at once, with all it held, and not when the collector comes by."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter

from tests.unit.gateway.node import Reader, running

from runwire.gateway.socket_protocol import SocketProtocol
from runwire.gateway.websocket import Socket
from runwire.protocol.connection import Connection

_KINDS = (SocketProtocol, Socket, Connection)
_PATIENCE_S = 10.0


def _alive() -> Counter[str]:
    # Also what nobody can reach any more: the collector is off.
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one) in _KINDS)


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
