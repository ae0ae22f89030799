"""TCP proxies before the gateways, in a process of their own: they cut, swallow and delay what goes through.

    python -m tests.fleet.proxy PORT:TARGET [PORT:TARGET …]

Commands come as lines on standard input: `cut N SHARE` (reset connections of proxy N, a share of them), `deaf N 1`
(swallow both directions, also of new connections; `deaf N 0` resets what was swallowed, as nothing could mend it),
`delay N SECONDS` (each piece comes that much later).
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import sys
from collections import deque
from typing import Final, cast

_HIGH_BYTES: Final = 65_536  # unsent to one side: the other is not read meanwhile, so a frozen reader is felt behind


class Side(asyncio.Protocol):
    """One end of a connection through the proxy."""

    def __init__(self, proxy: Proxy, other: Side | None = None) -> None:
        self.proxy = proxy
        self.other = other
        self.is_client = other is None
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []  # came before the other side was there; bounded by the pause below
        self._later: deque[tuple[float, bytes]] = deque()  # delayed, in order; as much as comes in the delay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_HIGH_BYTES)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.proxy.sides.add(self)
        if self.other is not None:  # the gateway's end, made for a client's
            self.other.met(self)
        elif not self.proxy.is_deaf:
            self.transport.pause_reading()
            self.proxy.tasks.create_task(self._meet())

    async def _meet(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(5):
                await loop.create_connection(lambda: Side(self.proxy, self), "127.0.0.1", self.proxy.target)
        except OSError:
            self.reset()

    def met(self, other: Side) -> None:
        """Take the gateway's end."""
        self.other = other
        if self.transport is None or self.transport.is_closing():
            other.reset()
        else:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.proxy.is_deaf:
            return
        if not self._later and self.proxy.delay_s <= 0:
            self._pass_on(data)
            return
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self.proxy.delay_s
        self._later.append((due_s, data))
        loop.call_at(due_s, self._catch_up)

    def _catch_up(self) -> None:
        now_s = asyncio.get_running_loop().time() + 0.001
        while self._later and self._later[0][0] <= now_s:
            self._pass_on(self._later.popleft()[1])

    def _pass_on(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None and not self.proxy.is_deaf:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.proxy.sides.discard(self)
        if self.other is None or self.other.transport is None or self.proxy.is_deaf:
            return
        if exc is not None:
            self.other.reset()
        elif not self.other.transport.is_closing():
            self._catch_up_all()
            self.other.transport.close()

    def _catch_up_all(self) -> None:
        while self._later:
            self._pass_on(self._later.popleft()[1])

    def eof_received(self) -> None: ...

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def reset(self) -> None:
        """End both ends with RST, not FIN."""
        for side in (self, self.other):
            if side is None or side.transport is None or side.transport.is_closing():
                continue
            linger = struct.pack("ii", 1, 0)
            side.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            side.transport.abort()


class Proxy:
    """What goes to one gateway."""

    def __init__(self, target: int, tasks: asyncio.TaskGroup) -> None:
        self.target = target
        self.tasks = tasks
        self.sides: set[Side] = set()
        self.is_deaf = False
        self.delay_s = 0.0

    def command(self, verb: str, value: float) -> None:
        """Do what a line says."""
        match verb:
            case "cut":
                clients = [side for side in self.sides if side.is_client]
                for side in random.sample(clients, round(len(clients) * value)):
                    side.reset()
            case "deaf":
                self.is_deaf = value > 0
                if not self.is_deaf:
                    for side in tuple(self.sides):
                        side.reset()
            case "delay":
                self.delay_s = value
            case _:
                raise ValueError(verb)


async def main(pairs: list[str]) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with asyncio.TaskGroup() as tasks:
        proxies = []
        for pair in pairs:
            port, target = map(int, pair.split(":"))
            proxy = Proxy(target, tasks)
            proxies.append(proxy)
            await loop.create_server(lambda proxy=proxy: Side(proxy), "127.0.0.1", port, backlog=1024)  # type: ignore[misc]
        print("ready", flush=True)
        while line := (await reader.readline()).decode().split():
            proxies[int(line[1])].command(line[0], float(line[2]))
        sys.exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
