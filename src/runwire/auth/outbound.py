"""Asking other issuers: servers of somebody else, at addresses that somebody else's documents name.

Bounded in time and size; no redirects; no encryption left out but on this machine in development; and no address of a
private network unless the operator allows it, looked at when the name is resolved, so that no document of an issuer
sends us to a service that trusts its neighbours.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

import httpx2

from runwire.auth.issuers import Issuer, is_usable_url
from runwire.errors import Unavailable

__all__ = ["DEADLINE_S", "Answer", "Outbound"]

DEADLINE_S: Final = 3.0  # of one request
_MAX_BYTES: Final = 1_048_576
_AT_ONCE: Final = 16  # requests to one issuer; the others wait, within the same deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    body: bytes
    date_s: float | None  # the other side's clock, s UTC, in whole seconds; None: it does not say


class Outbound:
    """The way to one issuer."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def transport(self) -> httpx2.AsyncBaseTransport:
        """Return what a client sends through; who takes it closes it."""
        return _Guarded(self._issuer)

    def silent(self) -> Unavailable:
        """Return what to raise when the issuer does not answer; it says nothing of how."""
        return Unavailable(f"The issuer {self._issuer.name} does not answer; try again.", retry_after_s=5.0)

    async def get(self, url: str) -> Answer:
        """Read a document. Raises Unavailable."""
        return await self._ask("GET", url)

    async def post(self, url: str, form: Mapping[str, str]) -> Answer:
        """Send a form as the client that we are there. Raises Unavailable."""
        auth = httpx2.BasicAuth(self._issuer.client_id or "", self._issuer.client_secret or "")
        return await self._ask("POST", url, form=form, auth=auth)

    async def _ask(
        self, method: str, url: str, *, form: Mapping[str, str] | None = None, auth: httpx2.Auth | None = None
    ) -> Answer:
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        try:
            async with (
                asyncio.timeout(DEADLINE_S),
                self._turns,
                httpx2.AsyncClient(transport=self.transport(), timeout=None, trust_env=False) as client,
            ):
                answer = await client.request(
                    method, url, data=form, auth=auth, headers=headers, follow_redirects=False
                )
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError):
            raise self.silent() from None  # without its text, which may quote an address or a header
        return Answer(status=answer.status_code, body=answer.content, date_s=_date_s(answer.headers.get("date")))


class _Guarded(httpx2.AsyncBaseTransport):
    """Sends what may be sent, and cuts off what is too long."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._inner = httpx2.AsyncHTTPTransport(verify=_trusted(), trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if not is_usable_url(str(request.url), allows_loopback=self._issuer.is_loopback):
            raise httpx2.UnsupportedProtocol("not an address that may be asked", request=request)
        if not self._issuer.allow_private_addresses:
            # The name is resolved once, and it is that address which is connected to: the next answer may be another.
            host = request.url.host
            address = await _public_address(host, request)
            request.extensions = {**request.extensions, "sni_hostname": host}
            request.url = request.url.copy_with(host=address)
        response = await self._inner.handle_async_request(request)
        stream = response.stream
        assert isinstance(stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(stream)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()  # a small answer could become any size
            raise httpx2.DecodingError("an encoding that was not asked for", request=request)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._inner:
            size += len(part)
            if size > _MAX_BYTES:
                raise httpx2.ReadError("the answer is too long")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


@functools.cache
def _trusted() -> ssl.SSLContext:
    # The system's certificates, which may have a company's own among them; reading them takes tens of milliseconds.
    return ssl.create_default_context()


async def _public_address(host: str, request: httpx2.Request) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        raise httpx2.ConnectError("this name has no address", request=request) from None
    addresses = [ipaddress.ip_address(str(one[4][0])) for one in found]
    if not addresses or not all(_is_public(address) for address in addresses):
        raise httpx2.ConnectError("an address of a private network", request=request)
    return str(addresses[0])


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (inner or address).is_global and not (inner or address).is_multicast


def _date_s(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except ValueError:
        return None
