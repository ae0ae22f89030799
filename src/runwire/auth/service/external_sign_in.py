"""A person's way to another issuer and back: begun here, finished with a link that signs the page in."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from fastapi import Request, Response

from runwire.auth import tokens
from runwire.auth.foreign import Provider
from runwire.auth.service import code_flow
from runwire.auth.service.external import External
from runwire.auth.service.settings import AuthSettings
from runwire.errors import Unauthenticated
from runwire.storage.base import AuthStore

__all__ = ["ExternalSignIn"]

_LINK_TTL_S: Final = 60  # the page is on its way to the browser
_LINK_MARK: Final = "~"  # what follows in a link is the issuer's session that it came from
_COOKIE: Final = "runwire_sign_in"


class ExternalSignIn:
    """A person's way to an issuer and back."""

    def __init__(
        self, store: AuthStore, settings: AuthSettings, external: External, *, wall_s: Callable[[], float]
    ) -> None:
        self._store = store
        self._external = external
        self._wall_s = wall_s
        self._page = (settings.page_url or settings.issuer).rstrip("/")
        # Another use of the secret than proving who asks, so another key.
        secret = settings.service_secrets[0] if settings.service_secrets else secrets.token_urlsafe(32)
        self._key = hmac.digest(secret.encode(), b"sign-in by another issuer", "sha256")

    async def start(self, provider: Provider) -> Response:
        """Send a person to the issuer. Raises Unavailable."""
        document = await provider.published.document()
        if document.authorization_endpoint is None or document.token_endpoint is None:
            raise provider.outbound.silent()
        begun = code_flow.begin(provider.issuer, key=self._key, now_s=self._wall_s())
        url = code_flow.authorization_url(provider, document, begun, redirect_uri=self._uri(provider))
        response = _redirect(url)
        self._set_cookie(response, provider, begun.cookie, age_s=code_flow.SIGN_IN_S)
        return response

    async def finish(self, provider: Provider, request: Request) -> Response:
        """Take a person back, to the page, signed in. Raises Unauthenticated, Forbidden, Unavailable."""
        said = request.query_params
        cookie = request.cookies.get(_COOKIE, "")
        begun = code_flow.resume(provider.issuer, cookie, said.get("state", ""), key=self._key, now_s=self._wall_s())
        document = await provider.published.document()
        # RFC 9207: who answers is who was asked.
        is_named = "iss" in said or document.authorization_response_iss_parameter_supported
        code = said.get("code", "")
        if (is_named and said.get("iss") != provider.issuer.issuer) or not 0 < len(code) <= tokens.MAX_CREDENTIAL_BYTES:
            raise Unauthenticated("The sign-in was not finished there; begin again from the page.")
        proved = await code_flow.exchange(provider, document, begun, code, redirect_uri=self._uri(provider))
        address = request.client.host if request.client else ""
        holder = await self._external.meet(proved, is_signing_in=True, address=address)
        link = tokens.mint_secret(secrets.token_bytes(32))
        if proved.session is not None:
            # Kept by its hash as a whole, so nobody can say another session than this.
            link += _LINK_MARK + proved.session
        await self._store.create_link(holder.user, secret_hash=tokens.secret_hash(link), ttl_s=_LINK_TTL_S)
        # In the fragment, which no server and no referrer gets to see; the page takes it away before anything else.
        response = _redirect(f"{self._page}/#link={link}")
        self._set_cookie(response, provider, "", age_s=0)
        return response

    def _uri(self, provider: Provider) -> str:
        return f"{self._page}/auth/external/{provider.issuer.name}/callback"

    def _set_cookie(self, response: Response, provider: Provider, value: str, *, age_s: int) -> None:
        uri = urlsplit(self._uri(provider))
        response.set_cookie(
            _COOKIE,
            value,
            max_age=age_s,
            path=uri.path,
            secure=uri.scheme == "https",  # http is for a machine's own address, in development
            httponly=True,
            samesite="lax",  # it comes back by a link from the issuer
        )


def _redirect(url: str) -> Response:
    return Response(
        status_code=303, headers={"location": url, "cache-control": "no-store", "referrer-policy": "no-referrer"}
    )
