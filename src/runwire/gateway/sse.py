"""Events over HTTP: a stream (SSE) or one answer, both from the same `Subscription` as a socket's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from runwire.auth.identity import Identity
from runwire.errors import NotFound, RunwireError, Unavailable
from runwire.gateway.clock import wall_ms
from runwire.gateway.identities import Standing
from runwire.gateway.live import READ_S, Live, Patience
from runwire.gateway.subscription import Opened, Subscription, Subscriptions, Taken
from runwire.protocol import events, frames
from runwire.protocol.codes import CloseCode

__all__ = ["EventStream", "LongPoll", "StreamSettings"]

_TAKE_BYTES: Final = 65_536  # of one chunk
_RETRY_S: Final = 0.25  # after the database did not answer
_POLL_BYTES: Final = 262_144  # of one JSON answer


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """Times of a stream."""

    heartbeat_s: float = 15.0  # a comment so often, against proxies that close what is silent
    stall_s: float = 20.0  # a chunk that is not taken for so long ends the stream
    token_grace_s: float = 5.0  # how long after its end a token is still borne, as on a socket


class EventStream:
    """One SSE response: an ASGI app, and a listener in the index of live ones.

    Holds a cursor and one chunk: a reader that does not read stops it, and ends it after `stall_s`.

    Args:
        identity: whose it is.
        opened: where it begins.
        subscriptions: to end it.
        live: index to be in.
        standing: asked before every chunk.
        settings: times.
        wake: set by the subscription when there may be more.
        is_from_now: the client does not know its position yet: tell it first.
        until: run whose terminal event ends the stream.
        until_seq: seq of that event, if it is known.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        opened: Opened,
        subscriptions: Subscriptions,
        live: Live,
        standing: Standing,
        settings: StreamSettings,
        wake: asyncio.Event,
        is_from_now: bool,
        until: str | None,
        until_seq: int | None,
    ) -> None:
        self._identity = identity
        self._opened = opened
        self._subscription: Subscription = opened.subscription
        self._subscriptions = subscriptions
        self._live = live
        self._standing = standing
        self._settings = settings
        self._wake = wake
        self._patience = Patience()
        self._is_from_now = is_from_now
        self._until = until
        self._until_seq = until_seq
        self._clock = asyncio.get_running_loop().time
        self._ends_at_s = float("inf")
        if identity.expires_at is not None:
            # Monotonic from here on: a wall clock that jumps ends nothing (DESIGN §7).
            self._ends_at_s = self._clock() + (identity.expires_at - wall_ms()) / 1000 + settings.token_grace_s
        self._is_done = False
        self._bye: frames.Bye | None = None

    @property
    def identity(self) -> Identity:
        """Whose it is."""
        return self._identity

    def announce_drain(self) -> None:
        """Nothing: `bye` follows."""

    def end(self, code: CloseCode, reason: str, *, after_s: float | None = None) -> None:
        """Say bye and end the response."""
        if self._bye is None:
            self._bye = frames.Bye(code=code, reconnect=code.may_reconnect, after_s=after_s, reason=reason)
        self._wake.set()
        self._patience.cut()

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Serve the response until its end."""
        try:
            try:
                self._live.add(self)  # first in the index, then checked: before each chunk
            except Unavailable as error:
                self.end(CloseCode.TOO_MANY_CONNECTIONS, error.message)
            if self._live.is_draining:
                self.end(CloseCode.DRAINING, "The server is restarting.", after_s=1.0)
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(self._watch(receive))
                try:
                    await self._stream(send)
                finally:
                    watcher.cancel()
        finally:
            self._live.discard(self)
            self._subscriptions.close(self._subscription)

    async def _watch(self, receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass  # a body nobody asked for
        self._is_done = True
        self._wake.set()
        self._patience.cut()

    async def _stream(self, send: Callable[[MutableMapping[str, Any]], Awaitable[None]]) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        chunk = self._beginning()
        try:
            while not self._is_done:
                async with asyncio.timeout(self._settings.stall_s):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                chunk = await self._next()
            async with asyncio.timeout(self._settings.stall_s):
                await send({"type": "http.response.body", "body": chunk, "more_body": False})
        except TimeoutError:
            return  # the server closes what is unfinished

    def _beginning(self) -> bytes:
        reset = self._opened.reset
        if reset:
            self._until_passed(reset.from_)
            return _record(frames.encode(reset), position=f"{reset.log}:{reset.from_}")
        if self._is_from_now:
            position = frames.Position(thread=self._subscription.thread, seq=self._opened.after)
            return _record(frames.encode(position), position=f"{self._subscription.log}:{self._opened.after}")
        return b": here\n\n"  # proxies and clients see at once that the stream stands

    async def _next(self) -> bytes:
        """Wait for the next chunk; sets `_is_done` with the last one."""
        while not self._is_done:
            self._wake.clear()  # before looking
            if not self._standing.is_current(self._identity):
                self.end(CloseCode.REVOKED, "Your access was withdrawn.")
            elif self._clock() >= self._ends_at_s:
                self.end(CloseCode.TOKEN_EXPIRED, "The token has expired; refresh it and come back.")
            if self._bye:
                self._is_done = True
                if self._bye.code == CloseCode.REVOKED:
                    self._live.cut_off(self._identity)
                return _record(frames.encode(self._bye))
            try:
                taken = await self._patience.read(self._subscription.take(size_bytes=_TAKE_BYTES))
                # While that read the log, access may have been withdrawn.
                if taken and self._standing.is_current(self._identity):
                    return self._chunk(taken)
                patience_s = self._settings.heartbeat_s if taken is None else 0.0
            except Unavailable:
                patience_s = _RETRY_S
            if not await self._wait(patience_s):
                return b": heartbeat\n\n"
        return b""

    async def _wait(self, patience_s: float) -> bool:
        """Wait to be woken; return False if a heartbeat is due instead."""
        until_s = self._clock() + patience_s
        try:
            async with asyncio.timeout_at(min(until_s, self._ends_at_s)):
                await self._wake.wait()
        except TimeoutError:
            return patience_s < self._settings.heartbeat_s or self._ends_at_s < until_s
        return True

    def _chunk(self, taken: Taken) -> bytes:
        self._subscription.advance(taken)
        if taken.is_deleted:
            self._is_done = True
            return b""
        if taken.reset:
            self._until_passed(taken.reset.from_)
            return _record(frames.encode(taken.reset), position=f"{taken.reset.log}:{taken.reset.from_}")
        records = []
        for event, encoded in zip(taken.events, taken.encoded, strict=True):
            records.append(_record(encoded, position=f"{self._subscription.log}:{event.seq}"))
            if event.run == self._until and event.type in events.TERMINAL_TYPES:
                self._is_done = True
                break
        return b"".join(records)

    def _until_passed(self, seq: int) -> None:
        if self._until_seq is not None and self._until_seq <= seq:
            self._is_done = True


class LongPoll:
    """One JSON answer: an ASGI app, and a listener in the index of live ones while it may wait.

    Holds about `_POLL_BYTES` of events. Ends with its client, with its user's access and with the server.

    Args:
        identity: whose it is.
        opened: where it begins.
        subscriptions: to end it.
        live: index to be in.
        check: raises Unauthenticated if access was withdrawn or has ended; asked before the answer.
        wake: set by the subscription when there may be more.
        wait_s: how long it waits for an event at most.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        opened: Opened,
        subscriptions: Subscriptions,
        live: Live,
        check: Callable[[Identity], None],
        wake: asyncio.Event,
        wait_s: float,
    ) -> None:
        self._identity = identity
        self._opened = opened
        self._subscription = opened.subscription
        self._subscriptions = subscriptions
        self._live = live
        self._check = check
        self._wake = wake
        self._wait_s = wait_s
        self._patience = Patience()
        self._is_over = False

    @property
    def identity(self) -> Identity:
        """Whose it is."""
        return self._identity

    def announce_drain(self) -> None:
        """Nothing: the answer follows."""

    def end(self, code: CloseCode, reason: str, *, after_s: float | None = None) -> None:
        """Answer at once with what there is."""
        self._is_over = True
        self._wake.set()
        self._patience.cut()

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Serve the answer.

        Raises:
            NotFound: the thread was deleted meanwhile; answered like an unknown one, whatever was read before.
            Unauthenticated: access was withdrawn while this waited.
            Unavailable: the database does not answer; with `rate_limited`: the user has too many listeners.
        """
        try:
            if self._wait_s:
                self._live.add(self)
                self._is_over = self._live.is_draining
            body = await self._answer_or_leave(receive)
        finally:
            self._live.discard(self)
            self._subscriptions.close(self._subscription)
        self._check(self._identity)
        headers = [
            (b"content-type", b"application/json; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer_or_leave(self, receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> bytes:
        outcome: bytes | RunwireError
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(self._watch(receive))
            try:
                outcome = await self._answer()
            except RunwireError as error:
                outcome = error  # raised alone, not in the group's exception
            finally:
                watcher.cancel()
        if isinstance(outcome, RunwireError):
            raise outcome
        return outcome

    async def _watch(self, receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass  # a body nobody asked for
        self._is_over = True
        self._wake.set()
        self._patience.cut()

    async def _answer(self) -> bytes:
        subscription, reset = self._subscription, self._opened.reset
        encoded: list[bytes] = []
        size = 0
        deadline_s = asyncio.get_running_loop().time() + self._wait_s
        while reset is None and size < _POLL_BYTES:
            self._wake.clear()  # before looking
            taken = await self._patience.read(subscription.take(size_bytes=_TAKE_BYTES))
            if taken is None:
                if encoded or self._is_over or not await self._has_more(deadline_s):
                    break
                continue
            if taken.is_deleted:
                raise NotFound("There is no such thread.", field="thread")
            if taken.reset and encoded:
                break  # the next poll gets it: an answer has either
            subscription.advance(taken)
            reset = taken.reset
            encoded.extend(taken.encoded)
            size += sum(map(len, taken.encoded))
        if reset:
            return msgspec.json.encode({"reset": reset})
        answer = {
            "thread": subscription.thread,
            "log": subscription.log,
            "after": self._opened.after,
            "through": subscription.through,
            "events": [msgspec.Raw(frame) for frame in encoded],
        }
        return msgspec.json.encode(answer)

    async def _has_more(self, deadline_s: float) -> bool:
        """Wait for something to take; return False if nothing came in time."""
        if not self._subscription.is_behind:
            return await _is_woken(self._wake, deadline_s)
        # It is known to be there: an answer without it would be wrong, and a database is not waited for as an agent is.
        if await _is_woken(self._wake, asyncio.get_running_loop().time() + READ_S):
            return True
        raise Unavailable("The database does not answer.", retry_after_s=1.0)


async def _is_woken(wake: asyncio.Event, deadline_s: float) -> bool:
    try:
        async with asyncio.timeout_at(deadline_s):
            await wake.wait()
    except TimeoutError:
        return False
    return True


def _record(encoded: bytes, *, position: str | None = None) -> bytes:
    """Make one SSE record; a frame is one line, for JSON escapes line ends."""
    head = f"id: {position}\n".encode() if position else b""
    return head + b"data: " + encoded + b"\n\n"
