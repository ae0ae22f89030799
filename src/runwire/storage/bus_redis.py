"""The bus between processes on Redis: a channel per group of users, so that nobody reads what nobody there listens to.

A commit is heard by the listeners of its own process at once and whole, whether or not Redis is there. To the others it
goes after it, off the path of the commit: whole, or as a hint how far the thread's log goes if it is large.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

import msgspec
import structlog

from runwire.errors import ConfigurationError, Unavailable
from runwire.protocol.ids import new_id
from runwire.storage.base import BusMessage, Committed, Storage, Wake
from runwire.storage.bus_local import LOOK_AGAIN, LocalBus
from runwire.storage.redis.address import parse_address
from runwire.storage.redis.link import Link
from runwire.storage.redis.route import Route, find_route
from runwire.storage.redis.unsent import Unsent, size_of

__all__ = ["MAX_MESSAGE_BYTES", "SHARDS", "RedisBus"]

SHARDS: Final = 64  # channels of commits; part of the wire between releases: never changed alone
MAX_MESSAGE_BYTES: Final = 262_144  # of events in one message; more goes as a hint, not through everybody's sockets
_WAKE: Final = SHARDS  # the place of the wake-ups' channel among all, and of the one that nobody else hears
_OWN: Final = SHARDS + 1
_SLOW_S: Final = 0.2  # what waited behind an answer that took longer is stale: a look at the log is worth more
_PULSE_S: Final = 1.0  # who has nothing to say says that, so that a lost connection is noticed before it is needed
_LINGER_S: Final = 10.0  # a channel that nobody here follows is kept for as long: people reconnect
_STABLE_S: Final = 5.0  # a connection that lasted less is no end of an outage
_BACKOFF_S: Final = (0.05, 1.0)  # the first pause, doubled with each failure, and the longest

_log: Final = structlog.get_logger(__name__)


class _Envelope(msgspec.Struct, array_like=True, gc=False):
    """What one payload carries."""

    node: str  # of the bus that sent it
    log: str  # the history that its process is on
    committed: list[Committed] = []
    wakes: list[Wake] = []


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Envelope).decode


class RedisBus:
    """Hand messages to listeners of this process, and to those of all others with the same Redis and prefix.

    Up to 4,096 messages with 32 MiB of events wait (`storage/redis/unsent.py`). One more is dropped, and so is what is
    published while there is no connection or while an answer takes longer than 200 ms; those who listen there are told
    to look when it works again.

    Args:
        storage: whose log is meant; what comes from another history is only a reason to look.
        url: of Redis (`storage/redis/address.py`).
        prefix: what the channels' names begin with; other deployments on the same Redis have another.

    Raises:
        ConfigurationError: the URL cannot be meant.
    """

    beacon_s: Final = 0.1

    def __init__(self, storage: Storage, url: str, *, prefix: str = "runwire") -> None:
        self._storage = storage
        self._address = parse_address(url)
        self._prefix = prefix
        self._local = LocalBus()
        self._node = new_id("bus")
        self._channels = [f"{prefix}:{shard}".encode() for shard in range(SHARDS)] + [f"{prefix}:wake".encode()]
        self._unsent = Unsent()
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        # In the loop of `run` alone:
        self._woken = asyncio.Event()
        self._ended = asyncio.Event()  # nothing runs
        self._ended.set()
        self._followers: Counter[int] = Counter()  # of each shard
        self._left_s: dict[int, float] = {}  # when its last follower left a shard that is still subscribed
        self._steered = asyncio.Event()
        self._links: list[Link] = []
        self._route = Route(nodes=self._address.nodes)
        self._own: list[bytes] = []  # per link, the channel that only this process hears
        self._beaten_s: list[float] = []  # when something came back over it
        self._is_outage_told = False
        self._refused = ""  # what this outage was last said to be, if a person must do something about it
        self._has_met = False  # this Redis has taken what was to be done there
        self._is_stranger_told = False

    @property
    def shown(self) -> str:
        """Return where it is, as a person may read it."""
        return f"{self._address.shown} (channels {self._prefix}:*)"

    def publish(self, message: BusMessage) -> None:
        """Hand a message over without waiting. Any thread may call.

        A beacon is heard only if it comes back from Redis: that is what it is for.
        """
        if self._is_closed:
            return
        is_beacon = isinstance(message, Wake) and message.topic == "beacon"
        if not is_beacon:
            self._local.publish(message)
        place = _OWN if is_beacon else _WAKE
        if isinstance(message, Committed):
            place = _shard(message.user)
            if len(message.packed) > MAX_MESSAGE_BYTES:
                # Here, not when it is said: megabytes are not kept waiting for Redis.
                message = Wake(topic="moved", thread=message.thread, seq=message.last_seq)
        if self._unsent.put(place, message, is_missed=not is_beacon) and self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._woken.set)
            except RuntimeError:  # the loop is closed
                self._is_closed = True

    def listen(self, hear: Callable[[BusMessage], None]) -> Callable[[], None]:
        """Call `hear` in the running event loop for every message from now on; returns the way to stop."""
        return self._local.listen(hear)

    def follow(self, user: str) -> Callable[[], None]:
        """Have commits of this user's threads brought here; returns the way to stop. In the loop of `run`.

        What is committed before Redis has confirmed the subscription may be missed: then all listeners are told to
        look. Who is followed by nobody here is heard for ten seconds more, so that a reconnect asks Redis nothing.
        """
        shard = _shard(user)
        self._followers[shard] += 1
        self._left_s.pop(shard, None)
        self._steered.set()
        has_stopped = False

        def stop() -> None:
            nonlocal has_stopped
            if not has_stopped:
                has_stopped = True
                self._unfollow(shard)

        return stop

    def _unfollow(self, shard: int) -> None:
        self._followers[shard] -= 1
        if not self._followers[shard]:
            del self._followers[shard]
            if self._loop is not None:
                self._left_s[shard] = self._loop.time()
                self._steered.set()

    async def close(self) -> None:
        """Say what is still to be said, for at most 200 ms, and stop; later publishes are dropped. Idempotent.

        In the loop of `run`, which ends.
        """
        self._is_closed = True
        self._woken.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_SLOW_S):
                await self._ended.wait()
        await self._local.close()

    async def run(self) -> None:
        """Carry messages until cancelled or closed; connects again for ever.

        Raises:
            ConfigurationError: the first answer of Redis was that it refuses the password, or what is to be done
                there. One that does not answer stops nobody: the log is looked at instead.
        """
        self._loop = asyncio.get_running_loop()
        self._ended.clear()
        try:
            await self._keep_up(self._loop.time)
        finally:
            self._ended.set()

    # ── connections ─────────────────────────────────────────────────────────────────────────────────────

    async def _keep_up(self, clock: Callable[[], float]) -> None:
        failures = 0
        while not self._is_closed:
            joined_s: float | None = None
            try:
                async with AsyncExitStack() as stack:
                    await self._join(stack)
                    joined_s = clock()
                    await self._carry()
            except Unavailable as error:
                self._tell_outage(error.message, is_first=not failures)
            except ConfigurationError as error:
                if not failures and not self._has_met:
                    raise
                self._tell_outage(error.faults[0], is_first=not failures or error.faults[0] != self._refused)
                self._refused = error.faults[0]
            except Exception as error:  # top of a worker loop: hints end nobody's work
                _log.exception("bus_failed", error=type(error).__name__)
            finally:
                self._unsent.drop(unless=_OWN, is_shut=True)
                self._links = []
            if not self._is_closed:
                if joined_s is not None and clock() - joined_s > _STABLE_S:
                    failures = 0
                first_s, longest_s = _BACKOFF_S
                pause_s = min(first_s * 2**failures, longest_s)
                failures = min(failures + 1, 10)
                # Jitter, so that the processes of one Redis do not come back in step.
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret

    def _tell_outage(self, reason: str, *, is_first: bool) -> None:
        """Write one line per outage, and one when it turns out that somebody must act; then quietly."""
        if is_first:
            self._is_outage_told = True
        getattr(_log, "warning" if is_first else "debug")("bus_unavailable", redis=self._address.shown, reason=reason)

    async def _join(self, stack: AsyncExitStack) -> None:
        route = await find_route(self._address)
        links = [Link(self._address, node, is_sharded=bool(route.slots)) for node in route.nodes]
        for link in links:
            stack.push_async_callback(link.close)
        self._route, self._own = route, [self._own_channel(route, place) for place in range(len(links))]
        wanted = self._wanted()
        async with _tasks() as tasks:
            for place, link in enumerate(links):
                here = [channel for channel in wanted if route.place(channel) == place]
                tasks.create_task(link.open([self._own[place], *here]))
        assert self._loop is not None, "`run` sets it"
        self._links, self._beaten_s = links, [self._loop.time()] * len(links)
        self._has_met = True
        self._refused = ""
        self._unsent.open()
        if self._is_outage_told:
            self._is_outage_told = False
            _log.info("bus_back", redis=self._address.shown)
        # Nobody knows what was said meanwhile.
        for wake in LOOK_AGAIN:
            self._local.publish(wake)

    def _own_channel(self, route: Route, place: int) -> bytes:
        """Return a name that this server carries; in a cluster one is found among as many tries as it has nodes."""
        number = 0
        while True:
            channel = f"{self._prefix}:node:{self._node}:{number}".encode()
            if route.place(channel) == place:
                return channel
            number += 1

    async def _carry(self) -> None:
        """Say and hear until closed, or until a connection is lost."""
        async with _tasks() as tasks:
            others = [tasks.create_task(self._steer())]
            for place, link in enumerate(self._links):
                others.append(tasks.create_task(link.hear(self._hearing(place), self._look)))
                others.append(tasks.create_task(link.watch()))
            await self._speak()
            for task in others:
                task.cancel()

    # ── saying ──────────────────────────────────────────────────────────────────────────────────────────

    async def _speak(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            messages = self._take()
            if messages:
                began_s = clock()
                await self._say(list(self._payloads(messages)), messages)
                if clock() - began_s > _SLOW_S:
                    self._unsent.drop(unless=_OWN, is_shut=False)
            elif self._is_closed:
                return
            else:
                try:
                    async with asyncio.timeout(_PULSE_S):
                        await self._woken.wait()
                except TimeoutError:
                    await self._say([(channel, b"") for channel in self._own], [])

    async def _say(self, payloads: list[tuple[bytes, bytes]], messages: Sequence[tuple[int, BusMessage]]) -> None:
        try:
            if len(self._links) == 1:
                await self._links[0].say(payloads)
                return
            async with _tasks() as tasks:
                for place, link in enumerate(self._links):
                    tasks.create_task(link.say([one for one in payloads if self._route.place(one[0]) == place]))
        except BaseException:
            self._unsent.lose(place for place, _ in messages if place != _OWN)
            raise

    def _take(self) -> list[tuple[int, BusMessage]]:
        """Return what is to be said next. Armed before it looks: what is published from here on wakes again."""
        self._woken.clear()
        messages, lost = self._unsent.take()
        for place in sorted(lost):
            messages += [(place, wake) for wake in (LOOK_AGAIN if place == _WAKE else (Wake(topic="moved"),))]
        return messages

    def _payloads(self, messages: Iterable[tuple[int, BusMessage]]) -> Iterator[tuple[bytes, bytes]]:
        """Yield (channel, payload), as few as hold all messages; equal wake-ups are said once."""
        by_place: dict[int, dict[BusMessage, None]] = {}
        for place, message in messages:
            by_place.setdefault(place, {})[message] = None
        for place, several in by_place.items():
            channels = self._own if place == _OWN else [self._channels[place]]
            for payload in self._packed(several):
                for channel in channels:
                    yield channel, payload

    def _packed(self, messages: Iterable[BusMessage]) -> Iterator[bytes]:
        log = self._storage.log
        envelope, size = _Envelope(self._node, log, [], []), 0
        for message in messages:
            if size + size_of(message) > MAX_MESSAGE_BYTES:
                yield _encode(envelope)
                envelope, size = _Envelope(self._node, log, [], []), 0
            if isinstance(message, Committed):
                envelope.committed.append(message)
                size += size_of(message)
            else:
                envelope.wakes.append(message)
        yield _encode(envelope)

    # ── hearing ─────────────────────────────────────────────────────────────────────────────────────────

    def _wanted(self) -> list[bytes]:
        """Return the channels of wake-ups and of all shards that somebody follows here, or did a moment ago."""
        shards = self._followers.keys() | self._left_s.keys()
        return [self._channels[place] for place in (*sorted(shards), _WAKE)]

    async def _steer(self) -> None:
        """Subscribe to what is followed and no more, whenever that changes."""
        assert self._loop is not None, "`run` sets it"
        while True:
            self._steered.clear()
            now_s = self._loop.time()
            self._left_s = {shard: left_s for shard, left_s in self._left_s.items() if now_s - left_s < _LINGER_S}
            wanted = self._wanted()
            for place, link in enumerate(self._links):
                here = {self._own[place], *(channel for channel in wanted if self._route.place(channel) == place)}
                await link.change(sorted(here - link.subscribed), sorted(link.subscribed - here))
            next_s = min(self._left_s.values(), default=None)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(None if next_s is None else next_s + _LINGER_S):
                    await self._steered.wait()

    def _look(self) -> None:
        """Have all listeners look: what was committed before a subscription was confirmed was not heard.

        A ring is made before its user is followed, and the log is read after that; what falls between this read and the
        confirmation is found by this look, and not only by the next periodic one.
        """
        self._local.publish(Wake(topic="moved"))

    def _hearing(self, place: int) -> Callable[[bytes, bytes], None]:
        """Return what takes the messages of one link."""

        def take(channel: bytes, payload: bytes) -> None:
            if channel == self._own[place]:
                self._beaten(place, payload)
            elif payload:
                self._heard(payload)

        return take

    def _beaten(self, place: int, payload: bytes) -> None:
        """Pass a beacon on that came back, if all servers of a cluster have brought one of late."""
        assert self._loop is not None, "`run` sets it"
        now_s = self._beaten_s[place] = self._loop.time()
        if payload and now_s - min(self._beaten_s) < 2 * self.beacon_s:
            with suppress(msgspec.MsgspecError):
                for beacon in _decode(payload).wakes:
                    self._local.publish(beacon)

    def _heard(self, payload: bytes) -> None:
        try:
            envelope = _decode(payload)
        except msgspec.MsgspecError:  # somebody else's, or of another release: what it was about is found by looking
            self._look()
            return
        if envelope.node == self._node:
            return  # was heard here when it was published
        if envelope.log != self._storage.log:
            # One of the two is on a history that is over: the log says which events there are.
            self._look()
            if not self._is_stranger_told:
                self._is_stranger_told = True
                _log.warning("bus_hears_other_log", prefix=self._prefix, log=envelope.log)
            return
        for committed in envelope.committed:
            self._local.publish(committed)
        for wake in envelope.wakes:
            self._local.publish(wake)


def _shard(user: str) -> int:
    """Return the channel of a user's commits: the same in every process and release."""
    return zlib.crc32(user.encode()) % SHARDS


@asynccontextmanager
async def _tasks() -> AsyncIterator[asyncio.TaskGroup]:
    """Run tasks beside each other; what ended them is raised alone, not in a group."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what says most about why several tasks ended: a refusal, else an outage, else whatever it was."""
    for kind in (ConfigurationError, Unavailable, BaseException):
        found: BaseException | None = group.subgroup(kind)
        if found is not None:
            while isinstance(found, BaseExceptionGroup):
                found = found.exceptions[0]
            return found
    return group
