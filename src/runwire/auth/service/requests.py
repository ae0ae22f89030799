"""Reading what clients send to the auth service: strict, bounded, never quoted back."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import parse_qsl

import msgspec
from fastapi import Request

from runwire.auth.service.problems import body_of
from runwire.errors import ProtocolError, Unauthenticated

__all__ = ["SignIn", "address_of", "bearer", "form_of", "read_keys", "read_sign_in"]

_MAX_PARAMETERS = 20
_FIELD = re.compile(r"`\$\.(\w+)`|unknown field `([^`]{1,64})`")

_Short = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_Long = Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]


class SignIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"user", "password"}` or `{"link"}`."""

    user: _Short | None = None
    password: _Long | None = None
    link: _Short | None = None


class _Keys(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    keys: list[_Short]  # as many as a body has room for


def address_of(request: Request) -> str:
    """Return where a request comes from, "": not known."""
    return request.client.host if request.client else ""


def bearer(request: Request) -> str:
    """Return the credential of `Authorization: Bearer …`. Raises Unauthenticated."""
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credential:
        raise Unauthenticated("Send a credential: Authorization: Bearer <token>.")
    return credential.strip()


async def read_sign_in(request: Request) -> SignIn:
    """Read the body of `POST /auth/sessions`.

    Raises:
        ProtocolError: not JSON, an unknown or a missing field; names the field.
    """
    body = await body_of(request)
    try:
        wanted = msgspec.json.decode(body, type=SignIn)
    except msgspec.ValidationError as error:
        raise ProtocolError("The body must be {user, password} or {link}.", field=_field(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ProtocolError("The body is not JSON.") from None
    if wanted.link is not None and (wanted.user is not None or wanted.password is not None):
        raise ProtocolError("Send either a link or user and password.", field="link")
    if wanted.link is None and (wanted.user is None or wanted.password is None):
        raise ProtocolError("Send user and password, or a link.", field="password" if wanted.user else "user")
    return wanted


async def read_keys(request: Request) -> list[str]:
    """Read the body of a question about API keys. Raises ProtocolError."""
    try:
        return msgspec.json.decode(await body_of(request), type=_Keys).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ProtocolError("The body must be {keys}.", field="keys") from None


def _field(sentence: str) -> str | None:
    """Return the field that msgspec's sentence names; it never quotes a value."""
    named = _FIELD.search(sentence)
    return named[1] or named[2] if named else None


async def form_of(request: Request) -> dict[str, str]:
    """Read the parameters of an OAuth endpoint: a form (RFC 6749 §3.2), or the same names as JSON.

    Raises:
        ProtocolError: neither; or a parameter twice, which RFC 6749 §3.2 forbids.
    """
    body = await body_of(request)
    try:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
            return msgspec.json.decode(body, type=dict[str, str])
        pairs = parse_qsl(
            body.decode("utf-8"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=_MAX_PARAMETERS,
        )
    except (ValueError, RecursionError):
        raise ProtocolError("The body is not a form.") from None
    parameters = dict(pairs)
    if len(parameters) != len(pairs):
        raise ProtocolError("A parameter is there twice.")
    return parameters
