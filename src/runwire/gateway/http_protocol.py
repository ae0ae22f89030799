"""uvicorn's HTTP protocol with what it lacks: deadlines, a limit of connections, and refusals that are problems."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, Final, cast

import h11
import msgspec
import structlog
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol, RequestResponseCycle

from runwire.errors import ProtocolError, RunwireError, Unavailable
from runwire.gateway.problem import problem
from runwire.gateway.server_settings import LINGER_S, Config, let_go, tune_kernel
from runwire.protocol.codes import ErrorCode

__all__ = ["REFUSED", "HttpProtocol"]

REFUSED: Final = 64  # connections over the limit that are answered; the next one is cut off

_log: Final = structlog.get_logger(__name__)
_COME_BACK_S: Final = 5.0  # what those over the limit are told
_REQUEST_TIMEOUT: Final = 408
_HEAD_TOO_LARGE: Final = 431
_VERSION_UNKNOWN: Final = 505


class HttpProtocol(H11Protocol):
    """HTTP that waits only so long for a request, for so many connections, and whose stuck readers the kernel ends.

    Over the limit the next `REFUSED` connections are answered 503, upgrades too; any more are cut off unheard.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _body_timer: asyncio.TimerHandle | None = None
    _linger_timer: asyncio.TimerHandle | None = None
    _is_refused = False  # the connection is one too many
    _is_over = False  # our last word is said: what comes in is discarded

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        """Take a connection, or make it one that is refused."""
        super().connection_made(transport)
        tune_kernel(transport)
        config = cast(Config, self.config)
        limit = config.settings.connections
        count = len(self.connections)  # with this one, and the sockets too
        if count > limit + REFUSED:
            transport.abort()
            return
        self._is_refused = count > limit
        if self._is_refused:
            if not config.is_full:
                config.is_full = True
                _log.warning("connections_full", limit=limit)
        elif count < limit * 9 // 10:
            config.is_full = False
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        for timer in (self._head_timer, self._body_timer, self._linger_timer):
            if timer:
                timer.cancel()
        super().connection_lost(exc)
        let_go(self.transport)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request."""
        if self._is_over:
            return
        super().data_received(data)
        self._await_body()

    def on_response_complete(self) -> None:
        """Wait for the next request; the base class waits only for its first byte."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._await_head()
            self._await_body()  # of a request that came in the same flight

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Leave the connection to the socket's protocol, with what came behind the head."""
        self._stop_waiting()
        behind, _ = self.conn.trailing_data
        super().handle_websocket_upgrade(event)
        if behind:
            cast(asyncio.Protocol, self.transport.get_protocol()).data_received(behind)

    def _should_upgrade(self) -> bool:
        # The base class asks this once per request, just before it looks up `app`.
        refusal = self._refusal()
        self.app = partial(_refuse, *refusal) if refusal else self.config.loaded_app
        # RFC 9110 §7.8: an Upgrade of HTTP/1.0 is to be ignored.
        return refusal is None and self.scope["http_version"] == "1.1" and super()._should_upgrade()

    def _refusal(self) -> tuple[RunwireError, int | None] | None:
        """Return why this request must not reach the app, and the status where HTTP has a finer one."""
        if self._is_refused:
            return Unavailable("This server has no room for more connections.", retry_after_s=_COME_BACK_S), None
        if self.scope["http_version"] not in ("1.0", "1.1"):
            return ProtocolError("This server speaks HTTP/1.1."), _VERSION_UNKNOWN
        names = {name for name, _ in self.headers}
        if b"transfer-encoding" in names and b"content-length" in names:
            # RFC 9112 §6.1: a proxy before us may have understood it otherwise, and the rest as another's request.
            return ProtocolError("Send either a length or chunks, not both.", field="Content-Length"), None
        limit = cast(Config, self.config).settings.head_bytes
        if sum(len(name) + len(value) for name, value in self.headers) > limit:
            return ProtocolError(f"The head is larger than {limit} bytes."), _HEAD_TOO_LARGE
        return None

    # ── deadlines ───────────────────────────────────────────────────────────────────────────────────────

    def _await_head(self) -> None:
        self._stop_waiting()
        self._head_timer = self.loop.call_later(cast(Config, self.config).settings.head_s, self._end_unasked)

    def _stop_waiting(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()

    def _end_unasked(self) -> None:
        """Close the connection unless a request is being answered; the end of an answer may still be on its way."""
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]  # None before any request
            self.transport.close()

    def _await_body(self) -> None:
        """Have the body that is still coming be here in time."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        is_coming = cycle is not None and cycle.more_body and not cycle.response_complete
        if is_coming and self._body_timer is None:
            self._body_timer = self.loop.call_later(cast(Config, self.config).settings.body_s, self._end_trickling)
        elif not is_coming and self._body_timer:
            self._body_timer.cancel()
            self._body_timer = None

    def _end_trickling(self) -> None:
        self._body_timer = None
        if self.cycle.more_body and not self.cycle.response_started:
            # RFC 9110 §15.5.9: 408. An answer that has begun needs no body any more.
            self._refuse_now(ProtocolError("The body did not come in time."), _REQUEST_TIMEOUT)

    # ── last words ──────────────────────────────────────────────────────────────────────────────────────

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; the base class would answer in plain text, also into an answer that has begun."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else None
        self._refuse_now(ProtocolError(msg), status)

    def _refuse_now(self, error: RunwireError, status: int | None) -> None:
        """Answer in place of the app, which hears that the client is gone."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # an answer is out, or on its way: nothing can be said into it
            return
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        status, headers, body = _last_answer(error, status)
        head = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
        for part in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(part) or b"")
        # Closing at once, with unread bytes in the kernel, resets the connection, and the answer may be lost.
        self._is_over = True
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._linger_timer = self.loop.call_later(LINGER_S, self.transport.abort)


async def _refuse(
    error: RunwireError,
    status: int | None,
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """Answer in place of the app, and close."""
    status, headers, body = _last_answer(error, status)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _last_answer(error: RunwireError, status: int | None) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Make an answer after which the connection is closed."""
    status, shown = problem(error, status=status)
    body = msgspec.json.encode(shown)
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    if error.code == ErrorCode.UNAVAILABLE and error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    return status, headers, body
