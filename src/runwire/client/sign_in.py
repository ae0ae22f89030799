"""Sign in as a person, and stay signed in."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx2

from runwire.client.http import read
from runwire.errors import ProtocolError, Unauthenticated, Unavailable

__all__ = ["SignIn", "sign_in"]

_TIMEOUT_S: Final = 30.0
_EARLY_S: Final = 75.0  # a token with less left is refreshed; more than the link's 60 s, so that it gets a new one
_SHARE: Final = 0.25  # of a short-lived token's life


class SignIn:
    """A session of a person. Await it as a function to get an access token that is valid now.

    Give it to `connect` as the token: `async with connect(url, await sign_in(url, link=…)) as client`. One refresh is
    under way at a time; a refresh token works once, so the session belongs to one process.

    Args:
        url: of the server.
        granted: the body of `POST /auth/sessions`.
        transport: for tests.
    """

    def __init__(
        self, url: str, granted: dict[str, Any], *, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self.user = str(granted.get("user", ""))
        self._url = url
        self._transport = transport
        self._turn = asyncio.Lock()
        self._take(granted)

    async def __call__(self) -> str:
        """Return an access token, a fresh one if the old one ends soon.

        Raises:
            Unauthenticated: the session has ended; sign in again.
            Unavailable: no answer; try again.
        """
        async with self._turn:
            if time.monotonic() >= self._stale_s:
                await self._refresh()
            return self._access_token

    async def sign_out(self) -> None:
        """End the session: its tokens stop working everywhere within a second."""
        headers = {"Authorization": f"Bearer {self._access_token}"}
        await _post(self._url, "/auth/sessions/current", self._transport, method="DELETE", headers=headers)

    async def _refresh(self) -> None:
        form = {"grant_type": "refresh_token", "refresh_token": self._refresh_token}
        try:
            self._take(await _post(self._url, "/auth/token", self._transport, data=form))
        except ProtocolError as error:  # RFC 6749 §5.2: invalid_grant is a 400
            raise Unauthenticated("The session has ended; sign in again.") from error

    def _take(self, granted: dict[str, Any]) -> None:
        self._access_token = str(granted["access_token"])
        self._refresh_token = str(granted.get("refresh_token", ""))
        life_s = float(granted.get("expires_in", 0))
        self._stale_s = time.monotonic() + life_s - min(_EARLY_S, life_s * _SHARE)


async def sign_in(
    url: str,
    *,
    user: str | None = None,
    password: str | None = None,
    link: str | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> SignIn:
    """Sign in with a name and a password, or with a sign-in link.

    Args:
        url: of the server.
        user: the name; with `password`.
        password: of the user.
        link: what `runwire dev` prints after `sign-in`: the whole address, or only its `link` value. Works once.
        transport: for tests.

    Raises:
        Unauthenticated: wrong, used or expired; the server does not say which.
        Unavailable: no answer, or too many tries; see `retry_after_s`.
    """
    if (link is None) == (user is None or password is None):
        raise ProtocolError("Sign in with either user and password, or link.", field="link")
    body = {"link": _value_of(link)} if link is not None else {"user": user, "password": password}
    return SignIn(url, await _post(url, "/auth/sessions", transport, json=body), transport=transport)


def _value_of(link: str) -> str:
    return parse_qs(urlsplit(link).query).get("link", [link])[0]


async def _post(
    url: str, path: str, transport: httpx2.AsyncBaseTransport | None, *, method: str = "POST", **options: Any
) -> dict[str, Any]:
    try:
        async with httpx2.AsyncClient(base_url=url, timeout=_TIMEOUT_S, transport=transport) as client:
            response = await client.request(method, path, **options)
    except httpx2.HTTPError as error:
        raise Unavailable(f"{url} did not answer: {str(error) or type(error).__name__}.") from error
    return read(response) if response.content or not response.is_success else {}
