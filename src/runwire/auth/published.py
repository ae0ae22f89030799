"""What an issuer shows of itself: its discovery document and its keys, cached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from runwire.auth.issuers import Issuer, is_usable_url
from runwire.auth.outbound import Outbound
from runwire.auth.tokens import PublicKeys, read_jwks
from runwire.errors import Unavailable

__all__ = ["KEYS_GOOD_S", "Discovered", "Published"]

KEYS_GOOD_S: Final = 86_400.0  # how long the last good keys are believed when there are no newer ones to be had
_MAX_AGE_S: Final = 300.0  # then they are read again; one who asks does it, the others go on with those there are
_DOCUMENT_AGE_S: Final = 3_600.0
_REFETCH_S: Final = 10.0  # least time between two reads because of a kid that is not known
_RETRY_S: Final = 1.0  # after a failed read, while there is nothing to go on with
_AGAIN_S: Final = 10.0  # and while there is


class Discovered(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of `/.well-known/openid-configuration` (OpenID Connect Discovery 1.0 §3)."""

    issuer: str
    jwks_uri: str
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False  # RFC 9207
    backchannel_logout_supported: bool = False
    backchannel_logout_session_supported: bool = False


class Published:
    """The documents of one issuer. One event loop.

    Single flight: one of those who need a document reads it, in its own time; the others wait for that, or go on with
    the last good one. A kid that nobody knows leads to at most one read in 10 s, however many ask.
    """

    def __init__(self, issuer: Issuer, outbound: Outbound, *, monotonic_s: Callable[[], float]) -> None:
        self._issuer = issuer
        self._outbound = outbound
        self._monotonic_s = monotonic_s
        self._reading_document = asyncio.Lock()
        self._document: Discovered | None = None
        self._document_s = 0.0
        self._document_failed_s: float | None = None
        self._reading = asyncio.Lock()
        self._keys: PublicKeys = {}
        self._loaded_s = 0.0
        self._failed_s: float | None = None  # when the last read failed; None: it did not
        self._refetched_s: float | None = None

    async def document(self) -> Discovered:
        """Return the discovery document, an hour old at most. Raises Unavailable."""
        async with self._reading_document:
            now_s = self._monotonic_s()
            if self._document is not None and now_s - self._document_s <= _DOCUMENT_AGE_S:
                return self._document
            if self._document_failed_s is not None and now_s - self._document_failed_s < _RETRY_S:
                raise self._outbound.silent()  # who waited for one that failed does not wait as long again
            try:
                self._document = await self._discover()
            except Unavailable:
                self._document_failed_s = self._monotonic_s()
                raise
            self._document_s = now_s
            return self._document

    async def keys(self) -> PublicKeys:
        """Return the keys, up to a day old if there are no newer ones. Raises Unavailable."""
        now_s = self._monotonic_s()
        age_s = now_s - self._loaded_s
        if self._keys and age_s <= _MAX_AGE_S:
            return self._keys
        is_usable = bool(self._keys) and age_s <= KEYS_GOOD_S
        pause_s = _AGAIN_S if is_usable else _RETRY_S
        if self._failed_s is not None and now_s - self._failed_s < pause_s:
            if is_usable:
                return self._keys
            raise self._outbound.silent()
        if is_usable and self._reading.locked():
            return self._keys
        try:
            await self._read(since_s=now_s)
        except Unavailable:
            if not is_usable:
                raise
        return self._keys

    async def after_unknown_kid(self) -> PublicKeys:
        """Return the keys, read again if that has not been done lately.

        Raises:
            Unavailable: that read failed, so nothing can be said about the kid.
        """
        now_s = self._monotonic_s()
        if self._refetched_s is None or now_s - self._refetched_s >= _REFETCH_S:
            self._refetched_s = now_s
            await self._read(since_s=now_s)
        else:
            async with self._reading:  # who asked a moment before has not his answer yet
                pass
            if self._failed_s is not None:
                raise self._outbound.silent()
        return self._keys

    async def _read(self, *, since_s: float) -> None:
        """Read the keys, unless somebody did after that time."""
        async with self._reading:
            if self._keys and self._loaded_s > since_s:
                return
            if self._failed_s is not None and self._failed_s > since_s:
                raise self._outbound.silent()
            try:
                self._keys = await self._fetch()
            except Unavailable:
                self._failed_s = self._monotonic_s()
                raise
            self._failed_s = None
            self._loaded_s = self._monotonic_s()

    async def _fetch(self) -> PublicKeys:
        url = self._issuer.jwks_url or (await self.document()).jwks_uri
        answer = await self._outbound.get(url)
        try:
            if answer.status == 200:
                return read_jwks(answer.body, self._issuer.algorithms)
        except ValueError:  # msgspec's too
            pass
        raise Unavailable(f"The issuer {self._issuer.name} shows no usable keys; try again.", retry_after_s=5.0)

    async def _discover(self) -> Discovered:
        answer = await self._outbound.get(f"{self._issuer.issuer.rstrip('/')}/.well-known/openid-configuration")
        try:
            found = msgspec.json.decode(answer.body, type=Discovered) if answer.status == 200 else None
        except ValueError:
            found = None
        # Discovery §4.3: another's document under this address would make its keys this issuer's.
        if found is None or found.issuer != self._issuer.issuer or not all(map(self._is_usable, _urls(found))):
            raise Unavailable(f"The issuer {self._issuer.name} does not say who it is; try again.", retry_after_s=5.0)
        return found

    def _is_usable(self, url: str) -> bool:
        return is_usable_url(url, allows_loopback=self._issuer.is_loopback)


def _urls(found: Discovered) -> list[str]:
    return [url for url in (found.jwks_uri, found.authorization_endpoint, found.token_endpoint) if url is not None]
