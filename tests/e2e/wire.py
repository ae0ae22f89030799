"""A network between a client and a server that a test may cut, stall and repair."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, Self

__all__ = ["Wire"]

_CHUNK_BYTES: Final = 65_536
_CONNECT_S: Final = 5.0


class Wire:
    """A TCP proxy to one port of this machine; `url` is the server's address seen through it.

    ::

        async with Wire() as wire:
            wire.to_port = server.port   # may be set later: a page's origin is known before its server starts
            wire.cut()                   # both ends see their connections reset
            wire.stall()                 # open connections stay open, and nothing passes any more: a half-open link
            wire.stall(to_client=True)   # only what the server says is lost; it still hears the client
            await wire.block()           # nobody can connect
            await wire.unblock()         # new connections work, also after a stall

    A connection buffers at most 64 KiB in each direction; then its sender waits, as on a real link.
    """

    def __init__(self, to_port: int = 0) -> None:
        self.url = ""
        self.connections = 0  # accepted so far
        self.to_port = to_port
        self._port = 0
        self._server: asyncio.Server | None = None
        self._open: set[_Link] = set()

    async def __aenter__(self) -> Self:
        """Listen on a free port."""
        await self.unblock()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cut everything."""
        self.cut()
        await self.block()

    def cut(self) -> None:
        """Reset every connection."""
        for link in [*self._open]:
            link.abort()

    def stall(self, *, to_client: bool = False) -> None:
        """Lose from now on what open connections carry, both ways or only to the client; nobody is told."""
        for link in self._open:
            link.is_deaf = True
            link.is_dumb = link.is_dumb or not to_client

    async def block(self) -> None:
        """Refuse new connections."""
        if self._server:
            self._server.close()
            self._server = None

    async def unblock(self) -> None:
        """Accept connections, on the same port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]
            self.url = f"http://127.0.0.1:{self._port}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            async with asyncio.timeout(_CONNECT_S):
                other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.to_port)
        except (OSError, TimeoutError):
            writer.transport.abort()
            return
        link = _Link(writer, other_writer)
        self._open.add(link)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(link.pass_on(reader, other_writer, from_client=True))
                tasks.create_task(link.pass_on(other_reader, writer, from_client=False))
        finally:
            self._open.discard(link)
            link.abort()


class _Link:
    """One connection through the wire."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.is_dumb = False  # what the client says is lost
        self.is_deaf = False  # what the server says is lost
        self._writers = writers

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if not (self.is_dumb if from_client else self.is_deaf):
                    writer.write(data)
                    await writer.drain()
            if not (self.is_dumb or self.is_deaf):  # the end of a stalled connection is lost too
                self.abort()

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
