"""Two connections to one Redis server: one that hears, one that says. Here alone are clients of Redis built.

Nothing is retried and nothing pooled below the bus: who waits for a connection of a pool, or for ten tries of a client
(the defaults of redis-py), stands still for as long. Each of the two has one task that uses it.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from redis.asyncio.connection import BlockingConnectionPool, Connection, SSLConnection
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError

from runwire.errors import ConfigurationError, Unavailable
from runwire.storage.redis.address import Address, Node

__all__ = ["GIVE_UP_S", "Link", "answered", "ask", "open_pool"]

GIVE_UP_S: Final = 0.5  # for any answer; then the connection is replaced
_TICK_S: Final = 0.15
_SILENT_TICKS: Final = 3  # without a word, the answer to a PING included: the way from the server is cut
_READ_BYTES: Final = 65_536
_CONFIRMED: Final = (b"subscribe", b"ssubscribe")
_REFUSED: Final = (AuthenticationError, AuthorizationError, NoPermissionError)


class Link:
    """What one server hears from this process, and what it hears from there.

    Args:
        address: how to speak to it.
        node: where it is.
        is_sharded: whether its channels are those of a cluster's shard (SPUBLISH, SSUBSCRIBE).
    """

    def __init__(self, address: Address, node: Node, *, is_sharded: bool) -> None:
        self._ear = _connection(address, node)
        self._mouth = _connection(address, node)
        self._prefix = "S" if is_sharded else ""
        self._clock = asyncio.get_running_loop().time
        self.heard_s = self._clock()
        self.subscribed: set[bytes] = set()  # what the server was asked for
        self._asked: Counter[bytes] = Counter()  # how many answers are still to come: to subscribing,
        self._left: Counter[bytes] = Counter()  # and to letting go

    async def open(self, channels: Iterable[bytes]) -> None:
        """Connect both ways and subscribe to these channels; returns when the server has confirmed them.

        Raises:
            Unavailable: it does not answer within `GIVE_UP_S`.
            ConfigurationError: it refuses the password, or what is to be done there.
        """
        async with answered():
            await _connect(self._ear)
            await _connect(self._mouth)
        await self.change(channels, ())
        async with answered():
            while self._asked:
                await self._read()
        # Proves that it may be spoken to, too; nobody hears the empty message but this link.
        await self.say([(channel, b"") for channel in list(self.subscribed)[:1]])

    async def say(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """Publish (channel, payload) in one go; returns when the server has taken them.

        Raises:
            Unavailable: it did not within `GIVE_UP_S`; some may have been heard.
        """
        if not messages:
            return
        command = f"{self._prefix}PUBLISH"
        async with answered():
            packed = self._mouth.pack_commands([(command, channel, payload) for channel, payload in messages])
            await self._mouth.send_packed_command(packed, check_health=False)
            for _ in messages:
                await self._mouth.read_response(timeout=math.inf)  # the deadline is that of all

    async def change(self, add: Iterable[bytes], remove: Iterable[bytes]) -> None:
        """Ask for channels and let others go, in one write; what comes of it is heard."""
        add = [channel for channel in add if channel not in self.subscribed]
        remove = [channel for channel in remove if channel in self.subscribed]
        self.subscribed.update(add)
        self.subscribed.difference_update(remove)
        self._asked.update(add)
        self._left.update(remove)
        # One command per channel: in a cluster those of one command must lie in one slot.
        commands = [(f"{self._prefix}SUBSCRIBE", channel) for channel in add]
        commands += [(f"{self._prefix}UNSUBSCRIBE", channel) for channel in remove]
        if commands:
            async with answered():
                await self._ear.send_packed_command(self._ear.pack_commands(commands), check_health=False)

    async def hear(self, take: Callable[[bytes, bytes], None], confirmed: Callable[[], None]) -> None:
        """Call `take(channel, payload)` for ever, and `confirmed()` each time all that was asked for has been given.

        Raises:
            Unavailable: the connection was lost, or the server no longer has a channel that was asked for.
        """
        async with answered(within_s=None):
            while True:
                kind, channel, payload = await self._read()
                if kind.endswith(b"message"):  # of a shard: smessage
                    take(channel, payload)
                elif kind in _CONFIRMED and not self._asked:
                    confirmed()

    async def watch(self) -> None:
        """Ask the server for a sign of life whenever it has been silent.

        Raises:
            Unavailable: it gave none for about `GIVE_UP_S`.
        """
        silent, seen_s = 0, self.heard_s
        while True:
            await asyncio.sleep(_TICK_S)
            # Counted in own turns: who was stopped himself has not listened, and proves nothing.
            silent = silent + 1 if self.heard_s == seen_s else 0
            seen_s = self.heard_s
            if silent > _SILENT_TICKS:
                raise Unavailable("Redis does not answer.")
            if silent == 1:
                async with answered():
                    await self._ear.send_command("PING", check_health=False)

    async def close(self) -> None:
        """End both connections without waiting for the server. Idempotent."""
        for connection in (self._ear, self._mouth):
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)

    async def _read(self) -> tuple[bytes, bytes, bytes]:
        """Return the kind, channel and payload of what the server says next."""
        answer = await self._ear.read_response(timeout=math.inf, push_request=True)
        self.heard_s = self._clock()
        if not isinstance(answer, list):
            return b"", b"", b""
        kind, channel, payload = answer if len(answer) == 3 else (answer[0], b"", b"")  # a PONG has two parts
        if kind in _CONFIRMED:
            _count_down(self._asked, channel)
        elif kind.endswith(b"unsubscribe") and not _count_down(self._left, channel):
            raise Unavailable("A channel has moved to another node of the cluster.")
        return kind, channel, payload


async def ask(address: Address, node: Node, *command: str, login: tuple[str | None, str | None]) -> Any:
    """Return what a server answers to one command, on a connection of its own.

    Raises:
        Unavailable: nothing within `GIVE_UP_S`.
        ConfigurationError: it refuses the password.
    """
    connection = _connection(address, node, login=login)
    try:
        async with answered():
            await _connect(connection)
            await connection.send_command(*command, check_health=False)
            return await connection.read_response(timeout=math.inf)
    finally:
        with suppress(RedisError, OSError):
            await connection.disconnect(nowait=True)


def open_pool(address: Address, node: Node, *, size: int) -> BlockingConnectionPool:
    """Return connections to a server, `size` at most, for a client that speaks within `answered`.

    Who finds none free waits for one; the deadline of `answered` is that of the wait, too.
    """
    kind = SSLConnection if address.is_tls else Connection
    return BlockingConnectionPool(
        max_connections=size, timeout=None, connection_class=kind, **_options(address, node, address.login)
    )


def _connection(address: Address, node: Node, *, login: tuple[str | None, str | None] | None = None) -> Connection:
    options = _options(address, node, login or address.login)
    return SSLConnection(**options) if address.is_tls else Connection(**options)


def _options(address: Address, node: Node, login: tuple[str | None, str | None]) -> dict[str, Any]:
    user, password = login
    options: dict[str, Any] = {
        "host": node[0],
        "port": node[1],
        "username": user,
        "password": password,
        "protocol": 2,
        "driver_info": None,  # two round trips less
        "retry": None,
        # `answered` has the deadline: with one of its own, redis-py sends by way of `asyncio.wait_for`, and that of
        # Python 3.11 swallows a cancellation that comes when the bytes have just been sent.
        "socket_timeout": None,
        "socket_connect_timeout": GIVE_UP_S,
        "socket_read_size": _READ_BYTES,
        "socket_keepalive": True,
        "socket_keepalive_options": _KEEPALIVE,
    }
    return options | address.files if address.is_tls else options


async def _connect(connection: Connection) -> None:
    await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has no annotation there


def _count_down(answers: Counter[bytes], channel: bytes) -> bool:
    """Take one answer off; return whether one was due."""
    due = answers[channel]
    if due > 1:
        answers[channel] -= 1
    else:
        del answers[channel]
    return due > 0


def _keepalive() -> dict[int, int]:
    """Return the socket's options against a peer that is gone, as far as this system knows them."""
    wanted = {"TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 2_000}  # s, s, times, ms
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


_KEEPALIVE: Final = _keepalive()


@asynccontextmanager
async def answered(within_s: float | None = GIVE_UP_S) -> AsyncIterator[None]:
    """Speak to a server with a deadline; whatever it does instead of an answer is one of two errors."""
    try:
        async with asyncio.timeout(within_s):
            yield
    except _REFUSED as error:
        # The class alone: what a server or a driver writes may quote the password.
        reason = "refuses what the bus does there" if isinstance(error, NoPermissionError) else "refuses the password"
        raise ConfigurationError([f"redis_url: Redis {reason} ({type(error).__name__})."]) from None
    except (RedisError, OSError, TimeoutError, EOFError) as error:
        if isinstance(error.__context__, ssl.SSLCertVerificationError):
            fault = f"the certificate of Redis is not trusted ({error.__context__.verify_message})."
            raise ConfigurationError([f"redis_url: {fault}"]) from None
        raise Unavailable(f"Redis does not answer ({type(error).__name__}).") from None
