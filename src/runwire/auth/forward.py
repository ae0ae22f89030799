"""The way of a person's sign-in through a gateway to an auth service elsewhere, so that one public address is enough.

Both ends are here: `Forward` asks at the gateway, `Forwarded` stands before the service. What a client says of itself
is not forwarded, but for the headers that the service reads. Its address is what the gateway knows it to be, and the
service believes that of nobody who does not prove the secret which both know: else anybody could have others' sign-ins
refused, or try passwords without a limit.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

import httpx2
from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from runwire.auth.problem import problem
from runwire.errors import NotFound, ProtocolError, RunwireError, Unavailable
from runwire.protocol.codes import ErrorCode

__all__ = ["Forward", "Forwarded"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

_SECRET: Final = "x-runwire-service"  # noqa: S105 - the header's name
_ADDRESS: Final = "x-forwarded-for"
_ASKED_WITH: Final = ("authorization", "content-type", "origin", "accept", "user-agent")
_ANSWERED_WITH: Final = (
    "content-type", "cache-control", "retry-after", "www-authenticate", "allow",
    "referrer-policy", "content-security-policy",
)  # fmt: skip
# Where people leave for another issuer and come back, and what they carry on the way.
_AWAY: Final = "/auth/external/"
_COOKIE: Final = "runwire_sign_in"  # no other is the service's
# Nothing that could mean another path at the other end: no escapes, and no dots alone (looked at apart).
_PATH: Final = re.compile(r"/[A-Za-z0-9_.~-]+(?:/[A-Za-z0-9_.~-]+)*/?")
# What only backends ask, with the service secret: they know the service's own address, and nobody tries secrets here.
_BACKENDS_ONLY: Final = ("/auth/introspect", "/internal")
# Not TRACE: a proxy on the way would answer with all that it was sent, the secret too.
_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_BODY_BYTES: Final = 16_384  # the service takes no more
_ANSWER_BYTES: Final = 1_048_576
_AT_ONCE: Final = 256  # requests; one more is answered 503
_DEADLINE_S: Final = 15.0  # a password's hash may wait 10 s for its turn


class Forward:
    """Hand requests to the auth service and its answers back: an ASGI app.

    Bounded in size, time and number; whatever goes wrong is 503 `unavailable`, and never says where the service is.

    Args:
        http: a client with the service's base URL and nothing else to do, or a crowd that signs in would take all
            connections from those whose keys are being checked; who made it closes it.
        secret: proves this gateway to the service.
        deadline_s: of one request.
    """

    def __init__(self, http: httpx2.AsyncClient, *, secret: str, deadline_s: float = _DEADLINE_S) -> None:
        self._http = http
        self._secret = secret
        self._deadline_s = deadline_s
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        try:
            answer = await self._ask(Request(scope, receive))
        except ClientDisconnect:
            return  # nobody is there to be answered
        except RunwireError as error:
            answer = problem(error)
        await answer(scope, receive, send)

    async def _ask(self, request: Request) -> Response:
        path = request.scope["path"]
        if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
            raise NotFound("There is nothing here.")
        if any(f"{path}/".startswith(f"{root}/") for root in _BACKENDS_ONLY):
            raise NotFound("There is nothing here.")
        if request.method not in _METHODS:
            refused = problem(ProtocolError("No path here takes this method."), status=405)
            refused.headers["allow"] = ", ".join(_METHODS)
            return refused
        body = await _read(request)
        if self._open >= _AT_ONCE:
            raise Unavailable("Too many sign-ins at the moment; try again.", retry_after_s=1.0)
        self._open += 1
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._answer(request, path, body)
        except (httpx2.HTTPError, TimeoutError):
            # Without its text, which may quote a URL or a header.
            sentence = "The auth service does not answer; who is signed in goes on. Try again."
            raise Unavailable(sentence, retry_after_s=1.0) from None
        finally:
            self._open -= 1

    async def _answer(self, request: Request, path: str, body: bytes) -> Response:
        # As bytes, as they came: what is no ASCII would be refused here, with an error of ours.
        given = {name: request.headers[name].encode("latin-1") for name in _ASKED_WITH if name in request.headers}
        own = {"accept-encoding": b"identity", _SECRET: self._secret.encode()}
        if cookie := request.cookies.get(_COOKIE, ""):
            own["cookie"] = f"{_COOKIE}={cookie}".encode("latin-1", "replace")
        if request.client:
            own[_ADDRESS] = request.client.host.encode("latin-1", "replace")
        headers = {"user-agent": b"runwire", **given, **own}
        query = request.scope["query_string"].decode("latin-1")
        url = f"{path}?{query}" if query else path
        received = bytearray()
        async with self._http.stream(
            request.method,
            url,
            headers=[(name.encode(), value) for name, value in headers.items()],
            content=body,
            follow_redirects=False,
            timeout=None,  # there is one deadline for all of it, and the client's own is shorter
        ) as response:
            async for part in response.aiter_bytes():
                received += part
                if len(received) > _ANSWER_BYTES:
                    raise Unavailable("The auth service answers too much.")
            kept = {name: response.headers[name] for name in _ANSWERED_WITH if name in response.headers}
            answer = Response(bytes(received), response.status_code, headers=kept)
        if path.startswith(_AWAY):
            _let_go(response, answer)
        return answer


def _let_go(response: httpx2.Response, answer: Response) -> None:
    """Let a person go where the service sends them, with its cookie."""
    if "location" in response.headers:
        answer.headers["location"] = response.headers["location"]
    for cookie in response.headers.get_list("set-cookie"):
        if cookie.startswith(f"{_COOKIE}="):
            answer.headers.append("set-cookie", cookie)


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _BODY_BYTES:
            raise ProtocolError(f"The body is over {_BODY_BYTES} bytes.", code=ErrorCode.TOO_LARGE)
    return bytes(body)


class Forwarded:
    """Believe a gateway, and nobody else, whose request it is: stands before the auth service.

    Args:
        app: the service.
        secrets: what a gateway proves itself with; two while the secret is being changed.
    """

    def __init__(self, app: Asgi, *, secrets: Sequence[str]) -> None:
        self._app = app
        self._secrets = [secret.encode() for secret in secrets]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, as from the address that a gateway names."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            said = headers.get(_SECRET.encode(), b"")
            # The gateway's own is the first: proxies between it and here put theirs behind.
            address = headers.get(_ADDRESS.encode(), b"").decode("latin-1").partition(",")[0].strip()
            fits = [hmac.compare_digest(said, secret) for secret in self._secrets]  # all of them: constant time
            if address and any(fits):
                scope = {**scope, "client": (address, 0)}
        await self._app(scope, receive, send)
