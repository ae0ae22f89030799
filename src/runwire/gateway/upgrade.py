"""`GET /v1/ws` up to the moment a socket runs: what is refused before the upgrade, and who signs in how."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from runwire.errors import ProtocolError, RunwireError
from runwire.gateway.live import back_after_s
from runwire.gateway.problem import problem
from runwire.gateway.socket_protocol import EXTENSION, SocketTransport
from runwire.gateway.socket_services import SocketServices
from runwire.gateway.websocket import Prove, Receive, Socket
from runwire.protocol import frames
from runwire.protocol.codes import CloseCode, ErrorCode
from runwire.protocol.connection import Connection, ConnectionSettings
from runwire.protocol.ids import new_id

__all__ = ["Asgi", "Upgrades", "has_token_in_query", "header", "refuse"]

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

_BEARER: Final = "bearer."
# Words under which people put a credential into a URL, where every proxy and log keeps it.
_QUERY_TOKENS: Final = frozenset({"token", "access_token", "api_key", "apikey", "jwt", "bearer", "authorization"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrades:
    """Serve WebSockets.

    Nothing here trusts a Host or Origin header for more than refusing.
    """

    services: SocketServices  # shared by all sockets
    settings: ConnectionSettings  # of each connection
    server: str  # name and version for `welcome`
    allowed_origins: frozenset[str]  # exact; a browser's Origin must be one of them

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one socket."""
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        origin = header(scope, b"origin")
        await receive()  # websocket.connect
        if origin is not None and origin not in self.allowed_origins:
            await refuse(send, ProtocolError("This Origin may not connect.", code=ErrorCode.FORBIDDEN))
            return
        if has_token_in_query(query):
            await refuse(send, ProtocolError("Put tokens into a header or `hello`, never into the URL.", field="token"))
            return
        transport: SocketTransport = scope["extensions"][EXTENSION]
        offered: Sequence[str] = scope["subprotocols"]
        is_known = not offered or frames.SUBPROTOCOL in offered
        await send({"type": "websocket.accept", "subprotocol": frames.SUBPROTOCOL if offered and is_known else None})
        prove = self._prove(scope, query, offered, origin) if is_known else None
        scope["headers"] = []  # all is taken from them, and a socket may live for hours
        connection = Connection(
            connection=new_id("cn"),
            server=self.server,
            log="",  # known with the user: each is on one of several databases
            settings=self.settings,
            now_s=asyncio.get_running_loop().time(),
            has_credential=prove is not None,
        )
        if not is_known:
            connection.close(CloseCode.VERSION, f"This server speaks {frames.SUBPROTOCOL}.")
        elif self.services.admission.is_full:
            after_s = back_after_s()
            connection.close(CloseCode.UNAVAILABLE, "This server has too much to do; come back.", after_s=after_s)
            prove = None  # nobody's credential is looked at
        address = str(scope["client"][0]) if scope.get("client") else ""
        await Socket(connection, transport, receive, self.services, address=address).run(prove)

    def _prove(
        self, scope: Scope, query: Mapping[str, Sequence[str]], offered: Sequence[str], origin: str | None
    ) -> Prove | None:
        """Return how the upgrade proves an identity; None: `hello` will."""
        identities = self.services.identities
        authorization = header(scope, b"authorization")
        if authorization is not None:
            scheme, _, credential = authorization.partition(" ")
            return partial(identities.authenticate, credential.strip() if scheme.lower() == "bearer" else "")
        if "ticket" in query:
            return partial(identities.redeem_ticket, query["ticket"][-1], origin)
        for subprotocol in offered:
            if subprotocol.startswith(_BEARER):
                return partial(identities.authenticate, subprotocol.removeprefix(_BEARER))
        return None


def header(scope: Mapping[str, Any], name: bytes) -> str | None:
    """Return a header's value, the last one if there are several."""
    values = [value for key, value in scope["headers"] if key == name]
    return values[-1].decode("latin-1") if values else None


def has_token_in_query(query: Mapping[str, Sequence[str]]) -> bool:
    """Return whether somebody put a credential into the URL."""
    return any(name.lower() in _QUERY_TOKENS for name in query)


async def refuse(send: Send, error: RunwireError) -> None:
    """Answer an upgrade with a problem instead of a socket."""
    status, body = problem(error)
    headers = [(b"content-type", b"application/problem+json")]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": msgspec.json.encode(body)})
