"""The socket of a client: opens it, opens it again, feeds the session and writes what it says."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Final

import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from runwire.client.backoff import Backoff
from runwire.client.feed import Feed
from runwire.client.refusal import may_reconnect, stopped
from runwire.client.session import Pending, Session
from runwire.client.token import Token, text_of
from runwire.errors import Forbidden, NotFound, ProtocolError, RunwireError, Unauthenticated, Unavailable
from runwire.protocol import frames
from runwire.protocol.codes import CloseCode

__all__ = ["Link"]

_OPEN_S: Final = 10.0  # for TCP, TLS, upgrade and welcome, each
_TOKEN_S: Final = 30.0  # for the caller's own token function
_REFRESH_EARLY_S: Final = 60.0  # before its end, or a fifth of its life if that is less
_MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024  # the server batches up to 256 KiB; a single event may be larger
_CLOSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _End:
    """How a connection ended."""

    code: int
    reason: str
    after_s: float | None = None


class Link:
    """Keep one socket open until it is closed or the server says stop. `run` is its only task.

    Args:
        url: `http(s)://host[:port][/prefix]` or the same with ws(s).
        token: what signs in.
        client: `name/version`, for the server's log.
    """

    def __init__(self, url: str, token: Token, *, client: str) -> None:
        numbers = count(1)
        self.session = Session(new_id=lambda: str(next(numbers)))
        self.error: RunwireError | None = None  # why it ended for good
        self.last_fault: str = "it was not tried yet"
        self._address = f"{url.replace('http', 'ws', 1) if url.startswith('http') else url}".rstrip("/") + "/v1/ws"
        self._token = token
        self._client = client
        self._written = asyncio.Event()  # there may be frames to send
        self._welcomed = asyncio.Event()  # the first welcome came, or `error` is set
        self._expiring = asyncio.Event()  # the server said so

    async def run(self) -> None:
        """Connect and stay connected; returns only when the server says stop, with `error` set."""
        backoff = Backoff()
        while True:
            began_s = time.monotonic()
            end: _End | None = None
            try:
                end = await self._connection()
            except Unavailable as error:
                end = _End(1006, error.message, error.retry_after_s)
            except RunwireError as error:
                self._stop(error)
                return
            finally:
                self.session.lost()
            if not may_reconnect(end.code):
                self._stop(stopped(end.code, end.reason))
                return
            self.last_fault = end.reason or f"closed with {end.code}"
            backoff.lost(lived_s=time.monotonic() - began_s)
            chance = random.random()  # noqa: S311 - jitter, not a secret
            await asyncio.sleep(backoff.wait_s(chance=chance, asked_s=end.after_s))

    async def welcomed(self, *, timeout_s: float) -> frames.Welcome:
        """Wait for the first welcome.

        Raises:
            Unavailable: none came in time; connecting goes on until the link is cancelled.
            Unauthenticated, Forbidden: not let in.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._welcomed.wait()
        except TimeoutError:
            fault = self.last_fault.rstrip(".")
            raise Unavailable(f"{self._address} did not answer within {timeout_s:g} s: {fault}.") from None
        if self.error is not None:
            raise self.error
        assert self.session.welcome
        return self.session.welcome

    async def command(self, frame: frames.Command, *, timeout_s: float, pending: Pending | None = None) -> Pending:
        """Send a command and wait for its reply, over as many connections as it takes.

        Raises:
            Unavailable: no reply in time; whether it was done is not known.
            RunwireError: it was refused, or the link has ended.
        """
        if self.error is not None:
            raise self.error
        done = asyncio.Event()
        pending = pending or Pending(frame)
        pending.wake = done.set
        self.session.command(pending)
        self.flush()
        try:
            async with asyncio.timeout(timeout_s):
                await done.wait()
        except TimeoutError:
            raise Unavailable(f"No reply to {type(frame).__name__.lower()} within {timeout_s:g} s.") from None
        finally:
            if not pending.is_done:
                self.session.forget(pending)
        if pending.error is not None:
            raise pending.error
        return pending

    def open(self, feed: Feed) -> None:
        """Begin to read a thread."""
        if self.error is not None:
            feed.end(self.error)
            return
        self.session.open(feed)
        self.flush()

    def close(self, feed: Feed) -> None:
        """Read no more."""
        self.session.close(feed)
        self.flush()

    def drained(self, feed: Feed) -> None:
        """Note that a reader took what there was."""
        self.session.drained(feed)
        self.flush()

    def new_id(self) -> str:
        """Return an id for a command."""
        return self.session.new_id()

    def flush(self) -> None:
        """Let the writer look."""
        self._written.set()

    def _stop(self, error: RunwireError) -> None:
        self.error = error
        self.session.fail(error)
        self._welcomed.set()

    async def _connection(self) -> _End:
        """Live through one connection.

        Raises:
            Unavailable: it did not come to be; try again.
            RunwireError: it never will.
        """
        socket = await self._open(await self._fresh_token())
        signed_in = asyncio.Event()
        self._expiring.clear()
        try:
            async with asyncio.TaskGroup() as tasks:
                beside = [tasks.create_task(self._write(socket)), tasks.create_task(self._refresh(signed_in))]
                end = await self._read(socket, signed_in)
                for task in beside:
                    task.cancel()
            return end
        finally:
            # A clean goodbye if the peer lives, and never a long one.
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S + 1):
                    await socket.close()

    async def _fresh_token(self) -> str:
        """Ask the caller for a token.

        Raises:
            Unavailable: none can be had now, for whatever reason; only an error of ours may say that none ever will.
        """
        try:
            async with asyncio.timeout(_TOKEN_S):
                return await text_of(self._token)
        except TimeoutError:
            raise Unavailable(f"No token could be had within {_TOKEN_S:g} s.") from None
        except RunwireError:
            raise
        except Exception as error:  # the caller's own function: what it asks may be back in a moment
            raise Unavailable(f"No token could be had: {type(error).__name__}.") from error

    async def _open(self, token: str) -> ClientConnection:
        try:
            return await websockets.connect(
                self._address,
                additional_headers={"Authorization": f"Bearer {token}"},
                user_agent_header=self._client,
                subprotocols=[websockets.Subprotocol(frames.SUBPROTOCOL)],
                compression=None,
                max_size=_MAX_MESSAGE_BYTES,
                ping_interval=None,  # the protocol's own ping is watched instead: it passes every proxy
                open_timeout=_OPEN_S,
                close_timeout=_CLOSE_S,
            )
        except InvalidStatus as error:
            raise _refused(error, self._address) from error
        except (OSError, TimeoutError, InvalidHandshake) as error:
            raise Unavailable(f"{self._address} cannot be reached: {str(error) or type(error).__name__}") from error

    async def _read(self, socket: ClientConnection, signed_in: asyncio.Event) -> _End:
        """Read until the connection ends, however it does."""
        bye: frames.Bye | None = None
        limit_s = _OPEN_S
        try:
            while True:
                async with asyncio.timeout(limit_s):
                    message = await socket.recv()
                for frame in frames.parse_server_frames(message):
                    match frame:
                        case frames.Welcome():
                            limit_s = frame.ping_s + frame.pong_s
                            self.session.opened(frame)
                            self._welcomed.set()
                            signed_in.set()
                        case frames.Bye():
                            bye = frame
                        case frames.Notice(kind="token_expiring"):
                            self._expiring.set()
                        case _:
                            self.session.receive(frame)
                self.flush()
        except TimeoutError:
            return _End(CloseCode.NO_LIFE, f"no life for {limit_s:g} s")
        except ProtocolError as error:
            return _End(1006, error.message)
        except ConnectionClosed as error:
            code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "the connection was lost")
            # The close frame may be lost where the bye was not.
            code = bye.code if bye and code == 1006 else code
            return _End(code, (bye.reason if bye else "") or reason, bye.after_s if bye else None)

    async def _write(self, socket: ClientConnection) -> None:
        """Write what the session says; a peer that does not read is found by `_read`'s watch."""
        while True:
            # Arm before looking, or what comes in between waits for the next flush.
            self._written.clear()
            for frame in self.session.frames_to_send():
                try:
                    await socket.send(frames.encode(frame).decode())
                except ConnectionClosed:
                    return
            await self._written.wait()

    async def _refresh(self, signed_in: asyncio.Event) -> None:
        """Bring a fresh token before the old one ends, if there is a function that makes them."""
        if isinstance(self._token, str):
            return
        await signed_in.wait()
        expires_at = self.session.welcome.expires_at if self.session.welcome else None
        while expires_at is not None:
            left_s = expires_at / 1000 - datetime.now(tz=UTC).timestamp()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, left_s - min(_REFRESH_EARLY_S, left_s / 5))):
                    await self._expiring.wait()
            self._expiring.clear()
            expires_at = await self._bring_token()

    async def _bring_token(self) -> int | None:
        """Send a fresh token; a fault ends the refreshing, and the next connection signs in anew."""
        try:
            frame = frames.Refresh(id=self.new_id(), token=await self._fresh_token())
            data = (await self.command(frame, timeout_s=_OPEN_S)).data
        except RunwireError:
            return None
        return data.get("expires_at") if isinstance(data, dict) else None


def _refused(error: InvalidStatus, address: str) -> RunwireError:
    status = error.response.status_code
    said = f"{address} refused the connection with status {status}"
    match status:
        case 401:
            return Unauthenticated(f"{said}: sign in again.")
        case 403:
            return Forbidden(f"{said}.")
        case 404:
            return NotFound(f"{said}: is this the address of a Runwire server?")
        case 408 | 425 | 429:
            return Unavailable(said, retry_after_s=_retry_after_s(error))
    return Unavailable(said, retry_after_s=_retry_after_s(error)) if status >= 500 else ProtocolError(f"{said}.")


def _retry_after_s(error: InvalidStatus) -> float | None:
    text = error.response.headers.get("Retry-After", "")
    return min(float(text), 60.0) if text.isdecimal() else None
