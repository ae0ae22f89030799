"""The authorization code flow with PKCE (RFC 6749 §4.1, RFC 7636): the only module that knows Authlib.

What a sign-in under way needs to remember (state, nonce, verifier) is stored nowhere: it is derived from a random value
in the person's browser and a key of this service, so any auth process can finish what another began, and whoever has
one of these values has none of the others.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import AsyncOAuth2Client

from runwire.auth.foreign import Proved, Provider
from runwire.auth.issuers import Issuer
from runwire.auth.outbound import DEADLINE_S
from runwire.auth.published import Discovered
from runwire.auth.tokens import mint_secret
from runwire.errors import Unauthenticated

__all__ = ["SIGN_IN_S", "Begun", "authorization_url", "begin", "exchange", "resume"]

SIGN_IN_S: Final = 600  # how long a person may take at the issuer


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A sign-in under way."""

    cookie: str = field(repr=False)  # binds it to one browser
    state: str = field(repr=False)  # goes to the issuer and comes back
    nonce: str = field(repr=False)  # comes back in the ID token
    verifier: str = field(repr=False)  # proves to the issuer who began


def begin(issuer: Issuer, *, key: bytes, now_s: float) -> Begun:
    """Begin a sign-in."""
    return _derived(issuer, f"{int(now_s)}.{mint_secret(secrets.token_bytes(32))}", key)


def resume(issuer: Issuer, cookie: str, state: str, *, key: bytes, now_s: float) -> Begun:
    """Return a sign-in that this browser began for this issuer; Unauthenticated: it did not, or too long ago."""
    begun = _derived(issuer, cookie, key)
    # The state is made of the whole cookie, so that its time cannot be another than we wrote.
    is_right = hmac.compare_digest(begun.state.encode(), state.encode("utf-8", "replace"))
    at = cookie.partition(".")[0]
    if not is_right or not at.isdecimal() or not 0 <= now_s - int(at) <= SIGN_IN_S:
        raise _refused()
    return begun


def _derived(issuer: Issuer, cookie: str, key: bytes) -> Begun:
    def value(label: str) -> str:
        text = f"{label} {issuer.name} {cookie}".encode("utf-8", "replace")
        return mint_secret(hmac.digest(key, text, "sha256"))

    return Begun(cookie=cookie, state=value("state"), nonce=value("nonce"), verifier=value("verifier"))


def authorization_url(provider: Provider, document: Discovered, begun: Begun, *, redirect_uri: str) -> str:
    """Return where the person goes."""
    client = _client(provider, document, redirect_uri)
    url, _ = client.create_authorization_url(
        document.authorization_endpoint, state=begun.state, code_verifier=begun.verifier, nonce=begun.nonce
    )
    return str(url)


async def exchange(provider: Provider, document: Discovered, begun: Begun, code: str, *, redirect_uri: str) -> Proved:
    """Turn a code into who it is.

    Raises:
        Unauthenticated: the issuer refuses the code, or its ID token is not one for this sign-in.
        Unavailable: the issuer does not answer.
    """
    try:
        async with asyncio.timeout(DEADLINE_S), _client(provider, document, redirect_uri) as client:
            answer: dict[str, Any] = await client.fetch_token(
                document.token_endpoint, grant_type="authorization_code", code=code, code_verifier=begun.verifier
            )
    except (httpx2.HTTPError, TimeoutError):
        raise provider.outbound.silent() from None  # without its text, which may quote an address or a header
    except (AuthlibBaseError, ValueError):
        raise _refused() from None
    id_token = answer.get("id_token")
    if not isinstance(id_token, str):
        raise _refused()
    return await provider.id_token(id_token, nonce=begun.nonce)


def _client(provider: Provider, document: Discovered, redirect_uri: str) -> Any:
    issuer = provider.issuer
    methods = document.token_endpoint_auth_methods_supported
    method = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
    return AsyncOAuth2Client(
        client_id=issuer.client_id,
        client_secret=issuer.client_secret,
        token_endpoint_auth_method=method if issuer.client_secret else "none",
        scope=" ".join(issuer.scopes),
        redirect_uri=redirect_uri,
        code_challenge_method="S256",
        transport=provider.outbound.transport(),
        timeout=None,
        trust_env=False,
        headers={"accept-encoding": "identity"},
    )


def _refused() -> Unauthenticated:
    return Unauthenticated("This sign-in did not work; begin again from the page.")
