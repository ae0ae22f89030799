"""The load client: a process of its own that opens connections, has each start work, and counts what comes back.

    python -m bench.load < spec.json > result.json

It parses no frames: the bytes of a server's answer are searched for marks, in C, wherever the stream is cut. That makes
it several times cheaper than any of the servers; `client_ns` over `wall_ns` shows that it never was the bottleneck.
It also reads the CPU time of the server's process tree, right before the first command and after the last event.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import re
import sys
import time
from collections.abc import Callable
from typing import Final, cast

import msgspec

from bench import cpu
from bench.figures import quantile

__all__ = ["Count", "Result", "Spec", "frame", "run"]

EVENT: Final = b'"op":"event"'
_WELCOME: Final = b'"op":"welcome"'
_FAILED: Final = b'"type":"agent_failed"'
_REFUSED: Final = b'"ok":false'
_CLOCK: Final = re.compile(rb'"value":(\d{8,})\}')
_THREAD: Final = re.compile(rb'"thread":"(th_\w+)"')
_AT_ONCE: Final = 50  # upgrades under way at a time
_AGAIN_S: Final = 0.5  # after a refusal: a node whose loop lags takes on nothing new for a moment
_LEFT_S: Final = 0.1  # what a server still does after the last event is counted too
_CONNECT_S: Final = 60.0
_PONG_S: Final = (
    15.0  # any frame counts as life (PROTOCOL §1): below Runwire's `ping_s`, so that no ping goes unanswered
)


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What to do."""

    port: int
    pid: int  # of the server: the root of the process tree whose CPU is read
    connections: int
    credentials: list[str] = []  # of the connections, in turn; empty: none is shown
    is_greeted: bool = False  # each connection waits for `welcome`
    command: str | None = None  # the frame that each connection sends; None: it only stays open
    sends: int = 1  # so many times, each after the end of the one before
    events: int = 1  # of each send
    end: str = '"op":"event"'  # a send is over when its answer had so many of these…
    ends: int = 1
    spread_s: float = 0.0  # the first sends are spread over so long
    first: str | None = None  # time from each send to this mark is measured
    pause_s: float = 0.0  # between two sends of a connection
    has_clocks: bool = False  # events carry the time at which they were made
    hold_s: float = 0.0  # after all that connections stay open so long; then the memory is read
    deadline_s: float = 120.0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen."""

    events: int
    received_bytes: int
    refused: int = 0  # sends, each repeated later
    wall_ns: int  # from the first command to the last event
    server_ns: int  # CPU time of the server's process tree meanwhile
    client_ns: int  # CPU time of this process meanwhile
    connect_ns: int  # CPU time of the server while the connections were opened
    grown_bytes: int  # memory of the server, with all connections less without
    latencies_ms: dict[str, float] = {}  # p50, p99, max of event made → bytes here
    firsts_ms: list[float] = []  # send → first mark
    lasts_ms: list[float] = []  # send → end


class Count:
    """Counts a mark in a stream of bytes that is cut anywhere.

    The mark must not overlap itself, nor have a brace in it: most pieces end with one, and then nothing is cut.
    """

    def __init__(self, mark: bytes) -> None:
        if b"}" in mark:
            raise ValueError("A mark has no closing brace.")
        self._mark = mark
        self._cut = len(mark) - 1
        self._tail = b""

    def feed(self, data: bytes) -> int:
        """Return how many marks end in this piece."""
        found = data.count(self._mark)
        if self._tail:
            found += (self._tail + data[: self._cut]).count(self._mark)
        if data.endswith(b"}"):
            self._tail = b""
        else:
            self._tail = data[-self._cut :] if len(data) >= self._cut else (self._tail + data)[-self._cut :]
        return found


def frame(text: bytes) -> bytes:
    """Return a client's text frame; a mask of zeros is a mask (RFC 6455 §5.3)."""
    if len(text) < 126:
        head = bytes((0x81, 0x80 | len(text)))
    elif len(text) < 65_536:
        head = bytes((0x81, 0x80 | 126)) + len(text).to_bytes(2, "big")
    else:
        head = bytes((0x81, 0x80 | 127)) + len(text).to_bytes(8, "big")
    return head + bytes(4) + text


class _Connection(asyncio.Protocol):
    def __init__(self, load: _Load, credential: str | None) -> None:
        self._load = load
        self._credential = credential
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._receive: Callable[[bytes], None] = self._upgrade
        self._events = Count(EVENT)
        end = load.spec.end.encode()
        self._ends = None if end == EVENT else Count(end)  # searched for once where both are the same
        self._first = load.spec.first.encode() if load.spec.first else None
        self._wants_first = False
        self._text = b""  # around a cut, for marks that are looked for but not counted
        self._left = 0
        self._sends_left = load.spec.sends
        self._command = (load.spec.command or "").encode()
        self._has_thread = False
        self._sent_ns = 0
        self.opened: asyncio.Future[None] = load.loop.create_future()
        self.done: asyncio.Future[None] = load.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        proof = f"Authorization: Bearer {self._credential}\r\n" if self._credential else ""
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1:{self._load.spec.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{proof}\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self._receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        error = ConnectionError(f"The server ended a connection: {self._text[-200:]!r}")
        for future in (self.opened, self.done):
            if not future.done():
                future.set_exception(error)

    def send(self) -> None:
        """Send the command once more."""
        assert self._transport
        self._left = self._load.spec.ends
        self._sends_left -= 1
        self._wants_first = self._first is not None
        self._sent_ns = time.monotonic_ns()
        self._transport.write(frame(self._command))

    def _send_again(self) -> None:
        # The clock goes on: whoever was refused has waited.
        if self._transport:
            self._transport.write(frame(self._command))

    def show_life(self) -> None:
        """Send what keeps the connection open."""
        if self._transport:
            self._transport.write(frame(b'{"op":"pong"}'))

    def close(self) -> None:
        if self._transport:
            self._transport.abort()

    # ── what bytes mean now ─────────────────────────────────────────────────────────────────────────────

    def _upgrade(self, data: bytes) -> None:
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 101"):
            self.opened.set_exception(ConnectionError(f"The upgrade was refused: {head[:200]!r}"))
            return
        self._head = b""
        self._receive = self._welcome
        self._welcome(rest)

    def _welcome(self, data: bytes) -> None:
        self._head += data
        if self._load.spec.is_greeted and _WELCOME not in self._head:
            return
        self._receive = self._count
        self.opened.set_result(None)

    def _count(self, data: bytes) -> None:
        load = self._load
        load.received_bytes += len(data)
        found = self._events.feed(data)
        load.events += found
        if load.spec.has_clocks or self._wants_first or not self._has_thread:
            self._look(data)
        if _FAILED in data and not self.done.done():
            self.done.set_exception(ConnectionError(f"A run failed: {data[-400:]!r}"))
        if _REFUSED in data:
            load.refused += 1
            load.loop.call_later(_AGAIN_S, self._send_again)
        self._left -= found if self._ends is None else self._ends.feed(data)
        if self._left <= 0 < self._sent_ns:
            self._end()

    def _look(self, data: bytes) -> None:
        """Look for what is not counted."""
        load = self._load
        text = self._text + data
        if load.spec.has_clocks:
            now_ns = time.monotonic_ns()
            end = 0
            for match in _CLOCK.finditer(text):
                load.latencies_ns.append(now_ns - int(match[1]))
                end = match.end()
            text = text[end:]
        if self._wants_first and self._first and self._first in text:
            self._wants_first = False
            load.firsts_ns.append(time.monotonic_ns() - self._sent_ns)
        if not self._has_thread and (thread := _THREAD.search(text)):
            self._has_thread = True
            # The next message goes to the same conversation, as a person's would.
            self._command = self._command.replace(b'"thread":null', b'"thread":"' + thread[1] + b'"')
        self._text = text[-64:]

    def _end(self) -> None:
        load = self._load
        load.lasts_ns.append(time.monotonic_ns() - self._sent_ns)
        self._sent_ns = 0
        if self._sends_left:
            if load.spec.pause_s:
                load.loop.call_later(load.spec.pause_s * random.uniform(0.5, 1.5), self.send)
            else:
                self.send()
        elif not self.done.done():
            self.done.set_result(None)


class _Load:
    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.loop = asyncio.get_running_loop()
        self.events = 0
        self.refused = 0
        self.received_bytes = 0
        self.latencies_ns: list[int] = []
        self.firsts_ns: list[int] = []
        self.lasts_ns: list[int] = []

    async def run(self) -> Result:
        spec = self.spec
        before_bytes, before_ns = cpu.pss_bytes(spec.pid), cpu.cpu_ns(spec.pid)
        connections = await self._connect()
        if spec.is_greeted:
            self.loop.call_later(_PONG_S, self._show_life, connections)
        await asyncio.sleep(_LEFT_S)
        connect_ns = cpu.cpu_ns(spec.pid) - before_ns
        self.events = self.received_bytes = 0
        wall_ns = server_ns = client_ns = 0
        if spec.command:
            began_ns, server_ns, client_ns = time.monotonic_ns(), cpu.cpu_ns(spec.pid), time.process_time_ns()
            await self._work(connections)
            wall_ns, client_ns = time.monotonic_ns() - began_ns, time.process_time_ns() - client_ns
            await asyncio.sleep(_LEFT_S)
            server_ns = cpu.cpu_ns(spec.pid) - server_ns
        if spec.hold_s:
            await asyncio.sleep(spec.hold_s)
        grown_bytes = cpu.pss_bytes(spec.pid) - before_bytes
        for connection in connections:
            connection.close()
        return Result(
            events=self.events,
            received_bytes=self.received_bytes,
            refused=self.refused,
            wall_ns=wall_ns,
            server_ns=server_ns,
            client_ns=client_ns,
            connect_ns=connect_ns,
            grown_bytes=grown_bytes,
            latencies_ms=_quantiles(self.latencies_ns),
            firsts_ms=[ns / 1e6 for ns in self.firsts_ns],
            lasts_ms=[ns / 1e6 for ns in self.lasts_ns],
        )

    async def _connect(self) -> list[_Connection]:
        spec = self.spec
        slots = asyncio.Semaphore(_AT_ONCE)
        opened: list[_Connection] = []

        async def connect(number: int) -> None:
            credential = spec.credentials[number % len(spec.credentials)] if spec.credentials else None
            async with slots:
                _, connection = await self.loop.create_connection(
                    lambda: _Connection(self, credential), "127.0.0.1", spec.port
                )
                await connection.opened
            opened.append(connection)

        async with asyncio.timeout(_CONNECT_S), asyncio.TaskGroup() as group:
            for number in range(spec.connections):
                group.create_task(connect(number))
        return opened

    def _show_life(self, connections: list[_Connection]) -> None:
        for connection in connections:
            connection.show_life()
        self.loop.call_later(_PONG_S, self._show_life, connections)

    async def _work(self, connections: list[_Connection]) -> None:
        spec = self.spec
        for connection in connections:
            if spec.spread_s:
                self.loop.call_later(random.uniform(0, spec.spread_s), connection.send)
            else:
                connection.send()
        try:
            async with asyncio.timeout(spec.deadline_s):
                for connection in connections:
                    await connection.done
        except TimeoutError:
            wanted = spec.connections * spec.sends * spec.events
            raise TimeoutError(
                f"{self.events} of {wanted} events came within {spec.deadline_s:.0f} s, {self.refused} refusals."
            ) from None


def _quantiles(values_ns: list[int]) -> dict[str, float]:
    if not values_ns:
        return {}
    values = sorted(value / 1e6 for value in values_ns)
    return {"p50": quantile(values, 0.5), "p99": quantile(values, 0.99), "max": values[-1]}


async def run(spec: Spec) -> Result:
    """Do it."""
    return await _Load(spec).run()


def main() -> int:
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=Spec)
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None  # costs the client more; its share of the wall shows whether that matters
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            result = runner.run(run(spec))
    except (OSError, TimeoutError, ExceptionGroup) as raised:
        error: BaseException = raised
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
