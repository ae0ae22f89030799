"""The bus between processes of one PostgreSQL database: LISTEN and NOTIFY, on a connection of its own.

A commit is heard by the listeners of its own process at once and whole. To the others it goes after it, in a statement
of its own: whole if it fits into a payload, else as a hint how far the thread's log goes now.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from runwire.errors import Unavailable
from runwire.protocol.ids import new_id
from runwire.storage.base import BusMessage, Committed, Wake
from runwire.storage.bus_local import LOOK_AGAIN, LocalBus
from runwire.storage.postgres.database import PostgresDatabase
from runwire.storage.sql import load

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ["MAX_UNSENT", "PostgresBus"]

MAX_UNSENT: Final = 4_096  # messages that wait for the connection
MAX_PAYLOAD: Final = 7_900  # bytes; the server takes less than 8,000
_CHANNEL: Final = "runwire"
_SLOW_S: Final = 0.2  # what waited behind a statement that took longer is stale: a look at the log is worth more
_GIVE_UP_S: Final = 2.0  # for the answer to a statement; then the connection is replaced
# Who has nothing to say asks all the same: else one who only listens would never learn that its connection is gone,
# and be deaf for as long as nobody there sends a beacon.
_PULSE_S: Final = 2.0
_BACKOFF_S: Final = (0.05, 2.0)  # the first pause, doubled with each failure, and the longest

_SQL: Final = load("postgres_bus.sql")
_log: Final = structlog.get_logger(__name__)


class _Envelope(msgspec.Struct):
    """What one payload carries, when it is read."""

    node: str  # of the bus that sent it
    log: str  # the history that its process is on
    committed: list[Committed] = []
    wakes: list[Wake] = []


class _Packed(msgspec.Struct):
    """The same when it is written: each message has been encoded, so that its size is known."""

    node: str
    log: str
    committed: list[msgspec.Raw]
    wakes: list[msgspec.Raw]


class PostgresBus:
    """Hand messages to listeners of this process, and to those of all others on the same database.

    Up to `MAX_UNSENT` messages wait for the connection. One more is dropped, and so is what is published while there is
    no connection or while a statement takes longer than 200 ms; the others are told to look when it works again.

    Args:
        database: whose server carries the messages; `run` opens another connection to it.
    """

    # Slower than in one process: each beacon is a commit that notifies, and those take turns in the whole server.
    beacon_s: Final = 0.5

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._local = LocalBus()
        self._node = new_id("bus")
        self._own_channel = f"{_CHANNEL}_{self._node}".lower()
        self._unsent: deque[BusMessage] = deque()  # of itself safe between threads
        self._has_lost = False  # others must be told to look
        self._is_connected = False
        self._is_closed = False
        self._is_awake = False  # a wake-up is scheduled: no second one is needed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._ended = asyncio.Event()  # nothing runs
        self._ended.set()

    def publish(self, message: BusMessage) -> None:
        """Hand a message over without waiting. Any thread may call.

        A beacon is heard only if it comes back over the database: that is what it is for.
        """
        if self._is_closed:
            return
        if not (isinstance(message, Wake) and message.topic == "beacon"):
            self._local.publish(message)
        if not self._is_connected or len(self._unsent) >= MAX_UNSENT:
            self._has_lost = True
            return
        self._unsent.append(message)  # before the flag is read, which `_take` clears before it looks
        if not self._is_awake and self._loop is not None:
            self._is_awake = True
            try:
                self._loop.call_soon_threadsafe(self._woken.set)
            except RuntimeError:  # the loop is closed
                self._is_closed = True

    def listen(self, hear: Callable[[BusMessage], None]) -> Callable[[], None]:
        """Call `hear` in the running event loop for every message from now on; returns the way to stop."""
        return self._local.listen(hear)

    def follow(self, user: str) -> Callable[[], None]:
        """Do nothing: all that is said here is heard anyway."""
        return _nothing

    async def close(self) -> None:
        """Say what is still to be said, for at most 200 ms, and stop; later publishes are dropped. Idempotent.

        In the loop of `run`, which ends.
        """
        self._is_closed = True
        self._woken.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_SLOW_S):
                # The last message of a server that stops is that others may have its runs.
                await self._ended.wait()
        await self._local.close()

    async def run(self) -> None:
        """Carry messages until cancelled or closed, in the loop that opened the database; connects again for ever."""
        self._loop = asyncio.get_running_loop()
        self._ended.clear()
        try:
            await self._keep_up()
        finally:
            self._ended.set()

    async def _keep_up(self) -> None:
        failures = 0
        while not self._is_closed:
            try:
                async with self._database.alone(statement_timeout_s=_GIVE_UP_S) as connection:
                    await self._join(connection)
                    failures = 0
                    await self._carry(connection)
            except Unavailable as error:
                level = "debug" if failures else "warning"  # one line per outage, then quietly
                getattr(_log, level)("bus_unavailable", reason=error.message)
            except Exception as error:  # top of a worker loop: hints end nobody's work
                _log.exception("bus_failed", error=type(error).__name__)
            finally:
                self._is_connected = False
                self._unsent.clear()
                self._has_lost = True  # what was being said may have reached nobody
            if not self._is_closed:
                first_s, longest_s = _BACKOFF_S
                pause_s = min(first_s * 2**failures, longest_s)
                failures = min(failures + 1, 10)
                # Jitter, so that the processes of one server do not come back in step.
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret

    async def _join(self, connection: Connection[Record]) -> None:
        connection.add_termination_listener(self._lost)
        for channel in (_CHANNEL, self._own_channel):
            await connection.add_listener(channel, self._hear)
        self._is_connected = True
        # Nobody knows what was said meanwhile.
        for wake in LOOK_AGAIN:
            self._local.publish(wake)

    def _lost(self, _connection: object) -> None:
        self._is_connected = False
        self._woken.set()

    async def _carry(self, connection: Connection[Record]) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            messages = self._take()
            if messages:
                began_s = clock()
                channels, payloads = self._payloads(messages)
                async with asyncio.timeout(_GIVE_UP_S):
                    await connection.execute(_SQL["notify"], channels, payloads)
                if clock() - began_s > _SLOW_S and self._unsent:
                    self._unsent.clear()
                    self._has_lost = True
                continue
            if self._is_closed:
                return
            if connection.is_closed():
                raise Unavailable("The connection of the bus was lost.")
            try:
                async with asyncio.timeout(_PULSE_S):
                    await self._woken.wait()
            except TimeoutError:
                async with asyncio.timeout(_GIVE_UP_S):
                    await connection.execute(_SQL["notify"], [], [])

    def _take(self) -> list[BusMessage]:
        """Return all that is to be said. Armed before it looks: what is published from here on wakes again."""
        self._is_awake = False
        self._woken.clear()
        messages = [self._unsent.popleft() for _ in range(len(self._unsent))]
        if self._has_lost:
            self._has_lost = False
            messages += LOOK_AGAIN
        return messages

    def _payloads(self, messages: Sequence[BusMessage]) -> tuple[list[str], list[str]]:
        beacons = [one for one in messages if isinstance(one, Wake) and one.topic == "beacon"]
        own = list(self._packed(beacons[-1:]))
        others = list(self._packed(one for one in messages if not (isinstance(one, Wake) and one.topic == "beacon")))
        # A channel of one's own spares the others every beacon.
        return [self._own_channel] * len(own) + [_CHANNEL] * len(others), own + others

    def _packed(self, messages: Iterable[BusMessage]) -> Iterator[str]:
        """Yield payloads, as few as hold all messages; equal wake-ups are said once."""
        packed = self._empty()
        empty_bytes = size = len(msgspec.json.encode(packed))
        for message in dict.fromkeys(messages):
            encoded = b"" if _is_large(message) else msgspec.json.encode(message)
            if (not encoded or empty_bytes + len(encoded) > MAX_PAYLOAD) and isinstance(message, Committed):
                message = Wake(topic="moved", thread=message.thread, seq=message.last_seq)
                encoded = msgspec.json.encode(message)
            if size + len(encoded) + 1 > MAX_PAYLOAD:
                yield msgspec.json.encode(packed).decode()
                packed, size = self._empty(), empty_bytes
            (packed.committed if isinstance(message, Committed) else packed.wakes).append(msgspec.Raw(encoded))
            size += len(encoded) + 1
        if size > empty_bytes:
            yield msgspec.json.encode(packed).decode()

    def _empty(self) -> _Packed:
        return _Packed(node=self._node, log=self._database.log, committed=[], wakes=[])

    def _hear(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        try:
            envelope = msgspec.json.decode(str(payload), type=_Envelope)
        except msgspec.MsgspecError:  # somebody else's, or of another release: what it was about is found by looking
            self._local.publish(Wake(topic="moved"))
            return
        if envelope.node == self._node and channel == _CHANNEL:
            return  # was heard here when it was published
        if envelope.log != self._database.log:
            # One of the two is on a history that is over: the log says which events there are.
            self._local.publish(Wake(topic="moved"))
            return
        messages: list[BusMessage] = [*envelope.committed, *envelope.wakes]
        for message in messages:
            self._local.publish(message)


def _is_large(message: BusMessage) -> bool:
    """Return whether a message will not fit, so that megabytes need not be encoded to see it."""
    return isinstance(message, Committed) and len(message.packed) > MAX_PAYLOAD


def _nothing() -> None:
    """Stop nothing."""
