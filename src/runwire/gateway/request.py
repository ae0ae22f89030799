"""What every HTTP route does first and last: who asks, which body, how it is answered."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs

import msgspec
from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from runwire.auth.identity import Identity
from runwire.errors import ProtocolError, RunwireError, Unauthenticated
from runwire.gateway.clock import wall_ms
from runwire.gateway.identities import Identities
from runwire.gateway.problem import problem
from runwire.gateway.upgrade import has_token_in_query
from runwire.protocol import strict_json
from runwire.protocol.codes import ErrorCode
from runwire.protocol.ids import is_own_id

__all__ = [
    "PAGE_LIMIT",
    "Callers",
    "answer",
    "check_cursor",
    "decode_body",
    "method_refused",
    "problem_response",
    "read_body",
]

PAGE_LIMIT: Final = 200  # PROTOCOL §3
_LOOKING: Final = ("GET", "HEAD")
_LEEWAY_MS: Final = 30_000  # as the verifier of tokens allows between two clocks

_encoder: Final = msgspec.json.Encoder()
T = TypeVar("T", bound=strict_json.Inbound)


@dataclass(frozen=True, slots=True)
class Callers:
    """Tell who makes a request."""

    identities: Identities

    async def who(self, request: Request) -> Identity:
        """Return the identity that the Authorization header proves.

        Raises:
            ProtocolError: a credential in the URL.
            Unauthenticated, Forbidden, Unavailable: as `Identities.authenticate`; Forbidden: it may only look.
        """
        if has_token_in_query(parse_qs(request.url.query, keep_blank_values=True)):
            raise ProtocolError("Put tokens into the Authorization header, never into the URL.", field="token")
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not credential.strip():
            raise Unauthenticated("Send `Authorization: Bearer <access token or API key>`.")
        identity = await self.identities.authenticate(credential.strip())
        self.check(identity)
        if request.method not in _LOOKING:
            identity.check_may_act()
        return identity

    def check(self, identity: Identity) -> None:
        """Raise Unauthenticated if access was withdrawn, or has ended."""
        is_over = identity.expires_at is not None and identity.expires_at + _LEEWAY_MS < wall_ms()
        if is_over or not self.identities.view.is_current(identity):
            raise Unauthenticated("Your access was withdrawn or has ended.")


async def read_body(request: Request, *, limit_bytes: int) -> bytes:
    """Read a request's body.

    Raises:
        ProtocolError: `too_large`, as soon as that shows; the client hung up, or the server did for it took too long.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit_bytes:
                raise ProtocolError(f"The body is larger than {limit_bytes} bytes.", code=ErrorCode.TOO_LARGE)
    except ClientDisconnect:
        raise ProtocolError("The body did not come to its end.") from None
    return bytes(body)


def decode_body(kind: type[T], body: bytes) -> T:
    """Decode a body; an empty one is an empty object.

    Raises:
        ProtocolError: `bad_request` or `unsupported`, naming the field.
    """
    return strict_json.decode(kind, body or b"{}")


def check_cursor(cursor: str | None, *, kind: str) -> None:
    """Refuse a cursor that no page can have given.

    One that looks right gets a page, whoever it names: a deleted row still has its place, and foreign is unknown.

    Raises:
        ProtocolError: `bad_request`.
    """
    if cursor is not None and not is_own_id(cursor, kind):
        raise ProtocolError("This is no cursor; take `next_cursor` of the page before.", field="cursor")


def answer(value: Any, *, status: int = 200) -> Response:
    """Answer with JSON; what people own is in no cache."""
    return Response(
        _encoder.encode(value), status, {"Cache-Control": "no-store"}, media_type="application/json; charset=utf-8"
    )


def method_refused(allowed: Iterable[str]) -> Response:
    """Answer 405 with all methods that the path takes (RFC 9110 §15.5.6)."""
    methods = ", ".join(sorted(allowed))
    refused = problem_response(ProtocolError(f"This path takes {methods}."), status=405)
    refused.headers["Allow"] = methods
    return refused


def problem_response(error: RunwireError, *, status: int | None = None) -> Response:
    """Answer with an error (RFC 9457)."""
    status, body = problem(error, status=status)
    headers = {"Cache-Control": "no-store"}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))  # RFC 9110 §10.2.3: whole seconds
    if status == ErrorCode.UNAUTHENTICATED.http_status:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(_encoder.encode(body), status, headers, media_type="application/problem+json")
