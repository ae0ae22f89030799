"""Service accounts at the token endpoint: how a program proves which one it is, and what ends with its key.

A service account is a user with the role `service`; its client_id is its name, its secret one of its API keys.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_plus

from fastapi import Request

from runwire.auth import tokens
from runwire.auth.service.users import normal_name
from runwire.auth.sessions import is_key_live
from runwire.errors import ProtocolError, Unauthenticated
from runwire.protocol.ids import is_own_id
from runwire.storage.base import AuthStore, KeyRow, SessionRow

__all__ = ["Client", "client_of", "is_of_key", "proved_key"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who a program says it is, and by what it proves that."""

    name: str
    secret: str = field(repr=False)


def client_of(request: Request, parameters: Mapping[str, str]) -> Client:
    """Read a client's credentials: Basic, or in the body (RFC 6749 §2.3.1).

    Raises:
        Unauthenticated: there are none.
        ProtocolError: both ways at once, which RFC 6749 §2.3 forbids.
    """
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        if "client_secret" in parameters:
            raise ProtocolError("Send the client's secret in one way, not two.", field="client_secret")
        client = _basic(credential.strip())
        if parameters.get("client_id", client.name) != client.name:
            raise ProtocolError("This is the client_id of another client.", field="client_id")
        return client
    client = Client(name=parameters.get("client_id", ""), secret=parameters.get("client_secret", ""))
    if not client.name or not client.secret:
        raise _unproved()
    return client


def _basic(credential: str) -> Client:
    try:
        name, colon, secret = base64.b64decode(credential, validate=True).decode("ascii").partition(":")
        if not colon:
            raise _unproved()
        # Each is a form's value before it is put together (RFC 6749 §2.3.1).
        return Client(name=unquote_plus(name, errors="strict"), secret=unquote_plus(secret, errors="strict"))
    except (binascii.Error, ValueError):
        raise _unproved() from None


async def proved_key(store: AuthStore, client: Client) -> KeyRow:
    """Return the API key by which a service account proves itself. Raises Unauthenticated, whatever is wrong."""
    try:
        presented = tokens.read_api_key(client.secret)
        name = normal_name(client.name)
    except (ProtocolError, Unauthenticated):
        raise _unproved() from None
    row = await store.key(presented.key)
    if row is None or not hmac.compare_digest(row.secret_hash, presented.secret_hash) or not is_key_live(row):
        raise _unproved()
    if "service" not in row.holder.roles or row.holder.name != name:
        raise _unproved()
    return row


def is_of_key(row: SessionRow) -> bool:
    """Return whether a session is that of a program's token, which ends with the API key it was got by."""
    return is_own_id(row.client, "key")


def _unproved() -> Unauthenticated:
    return Unauthenticated("There is no such service account with this API key.")
