"""A raw socket and raw HTTP, for judging: nothing is healed, dropped or retried, everything is kept as it came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx2
import msgspec
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from runwire.errors import ProtocolError, RunwireError
from runwire.protocol import frames

__all__ = ["Closed", "CouldNotCheck", "Seen", "Silence", "Wire", "WireHttp"]

_MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024  # far over the 256 KiB of PROTOCOL §5, so that a breach is seen, not cut
_CLIP: Final = 400  # characters of a frame that evidence shows


class CouldNotCheck(RunwireError):
    """The deployment was not reached, or did not let us in: no promise was looked at."""

    code = "unavailable"


class Silence(RunwireError):
    """What was waited for did not come in time."""

    code = "deadline"


class Closed(RunwireError):
    """The server ended the socket; `close_code` and, if it came, the sentence of its `bye`."""

    code = "unavailable"

    def __init__(self, message: str, *, close_code: int) -> None:
        super().__init__(message)
        self.close_code = close_code


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One frame, as it came."""

    at_s: float  # monotonic
    text: str
    frame: frames.ServerFrame | frames.UnknownFrame | None  # None: it is no frame of PROTOCOL
    fault: str | None = None  # why not

    @property
    def clipped(self) -> str:
        """Return the text for evidence."""
        return self.text if len(self.text) <= _CLIP else f"{self.text[:_CLIP]}… ({len(self.text)} characters)"


class Wire:
    """One socket: frames go out as they are given and come in one by one; `seen` keeps all, in order.

    `seen` grows with the stream; a wire lives for one run or one replay.

    Args:
        socket: open, signed in by its header, nothing read yet.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.seen: list[Seen] = []
        self._socket = socket
        self._waiting: list[Seen] = []  # of the message last read: bounded by its size
        self._ids = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, token: str | None, *, timeout_s: float = 10.0) -> AsyncIterator[Wire]:
        """Open a socket; leaving cuts it.

        Raises:
            CouldNotCheck: nobody answered, or no upgrade.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            socket = await websockets.connect(
                f"ws{url.removeprefix('http').rstrip('/')}/v1/ws",
                additional_headers=headers,
                subprotocols=[websockets.Subprotocol(frames.SUBPROTOCOL)],
                compression=None,
                max_size=_MAX_MESSAGE_BYTES,
                ping_interval=None,
                open_timeout=timeout_s,
                close_timeout=1,
            )
        except InvalidStatus as error:
            raise CouldNotCheck(f"{url} refused the socket with status {error.response.status_code}.") from error
        except (OSError, TimeoutError, InvalidHandshake) as error:
            raise CouldNotCheck(f"{url} cannot be reached: {str(error) or type(error).__name__}.") from error
        wire = cls(socket)
        try:
            yield wire
        finally:
            wire.cut()

    def cut(self) -> None:
        """End the connection as a dead network does: no close frame."""
        self._socket.transport.abort()

    def new_id(self) -> str:
        """Return an id for a command."""
        self._ids += 1
        return str(self._ids)

    async def send(self, frame: frames.ClientFrame) -> None:
        """Send a frame.

        Raises:
            Closed: the socket has ended.
        """
        await self.send_text(frames.encode(frame).decode())

    async def send_text(self, text: str) -> None:
        """Send what may be no frame at all.

        Raises:
            Closed: the socket has ended.
        """
        try:
            await self._socket.send(text)
        except ConnectionClosed as error:
            raise self._closed(error) from error

    async def next(self, *, timeout_s: float) -> Seen:
        """Return the next frame; pings are answered and returned too.

        Raises:
            Silence: nothing came in time.
            Closed: the socket has ended.
        """
        if not self._waiting:
            try:
                async with asyncio.timeout(timeout_s):
                    message = await self._socket.recv()
            except TimeoutError:
                raise Silence(f"Nothing came for {timeout_s:g} s.") from None
            except ConnectionClosed as error:
                raise self._closed(error) from error
            self._waiting = list(_split(message))
        seen = self._waiting.pop(0)
        self.seen.append(seen)
        if isinstance(seen.frame, frames.Ping):
            await self.send(frames.Pong())
        return seen

    async def until(self, wanted: Callable[[Any], bool], *, timeout_s: float) -> Seen:
        """Read on until a frame is wanted, and return it.

        Raises:
            Silence: it did not come in time, whatever else did.
            Closed: the socket has ended.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise Silence(f"It did not come within {timeout_s:g} s.")
            seen = await self.next(timeout_s=left_s)
            if wanted(seen.frame):
                return seen

    async def welcome(self, *, timeout_s: float) -> frames.Welcome:
        """Read up to the `welcome`.

        Raises:
            Silence, Closed: it did not come.
        """
        found = (await self.until(lambda frame: isinstance(frame, frames.Welcome), timeout_s=timeout_s)).frame
        assert isinstance(found, frames.Welcome)
        return found

    def _closed(self, error: ConnectionClosed) -> Closed:
        code = error.rcvd.code if error.rcvd else 1006
        byes = [seen.frame for seen in self.seen if isinstance(seen.frame, frames.Bye)]
        said = byes[-1].reason if byes else (error.rcvd.reason if error.rcvd else "the connection was lost")
        return Closed(f"The server closed the socket with {code}: {said or 'no reason given'}.", close_code=code)


def _split(message: str | bytes) -> list[Seen]:
    """Return the frames of a message, those that are none with their fault."""
    now_s = time.monotonic()
    if isinstance(message, bytes):
        return [Seen(at_s=now_s, text=repr(message[:_CLIP]), frame=None, fault="A frame is a text message.")]
    if message.lstrip()[:1] != "[":
        return [_read(message, now_s)]
    try:
        raws = msgspec.json.decode(message, type=list[msgspec.Raw])
    except msgspec.DecodeError as error:
        return [Seen(at_s=now_s, text=message, frame=None, fault=str(error))]
    return [_read(bytes(raw).decode(), now_s) for raw in raws]


def _read(text: str, now_s: float) -> Seen:
    try:
        frame = frames.parse_server_frames(text)[0]
    except (ProtocolError, msgspec.DecodeError, IndexError) as error:
        return Seen(at_s=now_s, text=text, frame=None, fault=str(error))
    return Seen(at_s=now_s, text=text, frame=frame)


class WireHttp:
    """Raw requests with a token; each has a deadline and none is repeated.

    Args:
        url: of the deployment.
        token: for the Authorization header.
        timeout_s: for each answer.
    """

    def __init__(self, url: str, token: str, *, timeout_s: float) -> None:
        self._client = httpx2.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=timeout_s, follow_redirects=False
        )
        self._timeout_s = timeout_s

    async def __aenter__(self) -> WireHttp:
        """Open."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Return status and text; status 0 with the reason if there was no answer.

        A stream is read to its end, which must come within the deadline.
        """
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.get(path, headers=named)
        except TimeoutError:
            return 0, f"no complete answer within {self._timeout_s:g} s"
        except httpx2.HTTPError as error:
            return 0, f"no answer: {str(error) or type(error).__name__}"
        return response.status_code, response.text
