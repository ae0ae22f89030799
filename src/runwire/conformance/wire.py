"""A raw socket and raw HTTP, for judging: nothing is healed, dropped or retried, everything is kept as it came."""

from __future__ import annotations

import asyncio
import functools
import socket as sockets
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import msgspec
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from runwire.errors import ProtocolError, RunwireError
from runwire.protocol import frames
from runwire.protocol.codes import CloseCode

__all__ = ["Answer", "Closed", "CouldNotCheck", "NoUpgrade", "Seen", "Silence", "Wire", "WireHttp", "require_staying"]

_MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024  # far over the 256 KiB of PROTOCOL §5, so that a breach is seen, not cut
_CLIP: Final = 400  # characters of a frame that evidence shows
_NEAR: Final = 5  # frames that evidence shows of a socket that ended or went silent
_LOST: Final = 1006  # RFC 6455 §7.4.1: no close frame came
_PASSING: Final = (
    CloseCode.GOING_AWAY,
    CloseCode.DRAINING,
    CloseCode.TOKEN_EXPIRED,
    CloseCode.UNAVAILABLE,
    CloseCode.RATE,
)


class CouldNotCheck(RunwireError):
    """The deployment was not reached, or did not let us in: no promise was looked at."""

    code = "unavailable"


class NoUpgrade(CouldNotCheck):
    """The server answered an upgrade with an HTTP status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Silence(RunwireError):
    """What was waited for did not come in time; `frames` came last."""

    code = "deadline"

    def __init__(self, message: str, *, frames: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.frames = tuple(frames)


class Closed(RunwireError):
    """The server ended the socket; `close_code`, the sentence of its `bye` if it came, and the last `frames`."""

    code = "unavailable"

    def __init__(self, message: str, *, close_code: int, frames: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.close_code = close_code
        self.frames = tuple(frames)


def require_staying(error: Exception) -> None:
    """Pass on what is a broken promise.

    Raises:
        CouldNotCheck: the socket ended as the deployment was going away, or asked to wait, or without a word: whoever
            was killed, or the network, promised nothing.
    """
    if isinstance(error, Closed) and error.close_code == _LOST:
        raise CouldNotCheck(f"A connection was lost on the way; try again. {error.message}") from error
    if isinstance(error, Closed) and error.close_code in _PASSING:
        raise CouldNotCheck(f"The deployment was going away or asked to wait; try again. {error.message}") from error


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
    async def open(
        cls,
        url: str,
        token: str | None,
        *,
        timeout_s: float = 10.0,
        headers: Mapping[str, str] | None = None,
        query: str = "",
        subprotocols: Sequence[str] = (frames.SUBPROTOCOL,),
        is_slow: bool = False,
    ) -> AsyncIterator[Wire]:
        """Open a socket; leaving cuts it.

        Args:
            url: of the deployment.
            token: for the Authorization header; None: none.
            timeout_s: for the upgrade.
            headers: more of them.
            query: of the address.
            subprotocols: to offer.
            is_slow: take as little as possible from the network before it is read.

        Raises:
            NoUpgrade: the server answered with a status.
            CouldNotCheck: nobody answered.
        """
        signed = {"Authorization": f"Bearer {token}"} if token is not None else {}
        try:
            socket = await websockets.connect(
                f"ws{url.removeprefix('http').rstrip('/')}/v1/ws{f'?{query}' if query else ''}",
                additional_headers={**signed, **(headers or {})},
                subprotocols=[websockets.Subprotocol(name) for name in subprotocols] or None,
                compression=None,
                max_size=_MAX_MESSAGE_BYTES,
                ping_interval=None,
                open_timeout=timeout_s,
                close_timeout=1,
                **(await _small(url, timeout_s) if is_slow else {}),
            )
        except InvalidStatus as error:
            status = error.response.status_code
            raise NoUpgrade(f"{url} refused the socket with status {status}.", status=status) from error
        except (OSError, TimeoutError, InvalidHandshake) as error:
            raise CouldNotCheck(f"{url} cannot be reached: {str(error) or type(error).__name__}.") from error
        wire = cls(socket)
        try:
            yield wire
        finally:
            wire.cut()

    @property
    def subprotocol(self) -> str | None:
        """Return the subprotocol that the server chose."""
        return self._socket.subprotocol

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

    async def send_text(self, text: str | bytes, *, is_text: bool | None = None) -> None:
        """Send what may be no frame at all; bytes go as a binary message, unless they are said to be text.

        Raises:
            Closed: the socket has ended.
        """
        try:
            await self._socket.send(text, text=is_text)
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
                raise Silence(f"Nothing came for {timeout_s:g} s.", frames=self._last()) from None
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
                raise Silence(f"It did not come within {timeout_s:g} s.", frames=self._last())
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
        sentence = f"The server closed the socket with {code}: {said or 'no reason given'}."
        return Closed(sentence, close_code=code, frames=self._last())

    def _last(self) -> list[str]:
        return [seen.clipped for seen in self.seen[-_NEAR:]]


async def _small(url: str, timeout_s: float) -> dict[str, Any]:
    """Return what makes a connection that holds little: a small window in the kernel, and one message here."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        (family, kind, number, _, address), *_ = await loop.getaddrinfo(
            parts.hostname, port, type=sockets.SOCK_STREAM, proto=sockets.IPPROTO_TCP
        )
        socket = sockets.socket(family, kind, number)
        try:
            socket.setblocking(False)
            socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 8_192)  # before the connection: it sets the window
            await loop.sock_connect(socket, address)
        except BaseException:
            socket.close()
            raise
    return (
        {"sock": socket, "max_queue": 1, "server_hostname": parts.hostname}
        if parts.scheme == "https"
        else {
            "sock": socket,
            "max_queue": 1,
        }
    )


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


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a request was answered with; status 0: nothing, and `text` says why."""

    status: int
    text: str
    headers: dict[str, str] = {}

    @property
    def clipped(self) -> str:
        """Return status and text for evidence."""
        return f"{self.status}: {self.text[:_CLIP]}"

    def json(self) -> Any:
        """Return the body.

        Raises:
            ValueError: it is no JSON.
        """
        return msgspec.json.decode(self.text)


@functools.cache
def _authorities() -> ssl.SSLContext:
    """Return whom to trust, read once: it takes longer than a request."""
    return ssl.create_default_context()


class WireHttp:
    """Raw requests with a token; each has a deadline and none is repeated.

    Args:
        url: of the deployment.
        token: for the Authorization header; None: none.
        timeout_s: for each answer.
    """

    def __init__(self, url: str, token: str | None, *, timeout_s: float) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._client = httpx2.AsyncClient(
            base_url=url, headers=headers, timeout=timeout_s, follow_redirects=False, verify=_authorities()
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
        answer = await self.request("GET", path, headers=named)
        return answer.status, answer.text

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        """Return the answer to any request; `options` are those of httpx: json, content, data, headers."""
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.request(method, path, **options)
        except TimeoutError:
            return Answer(status=0, text=f"no complete answer within {self._timeout_s:g} s")
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return Answer(status=0, text=f"no answer: {str(error) or type(error).__name__}")
        return Answer(status=response.status_code, text=response.text, headers=dict(response.headers))
